"""Web sources on Debian's nginx: the suite, and what index pages and manifests are read as."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.source_conformance import (
    Bytes,
    Can,
    Generations,
    MadeSource,
    Names,
    Pages,
    SourceConformance,
)
from support.webservers import Nginx

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def nginx() -> Iterator[Nginx]:
    with Nginx() as server:
        yield server


@pytest.fixture
def made(request: pytest.FixtureRequest, nginx: Nginx) -> Iterator[MadeSource]:
    """A directory below the class's location of the server."""
    made = nginx.made(request.cls.location)
    made.impossible = frozenset([b".a", b"..."])  # nginx's indexes leave out what begins with a dot
    made.can = Can.EMPTY_DIRECTORIES | Can.NOT_UTF8 | Can.CONTROL_NAMES
    yield made
    made.source.close()


class TestHtml(SourceConformance):
    location = "/"


class TestJson(Names, Pages):
    location = "/json/"


class TestWithoutRanges(Bytes, Generations):
    location = "/noranges/"
