"""S3 sources on moto's server, and on SeaweedFS's gateway: the suite, and what only buckets have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support import webservers
from support.seaweed import Cluster
from support.source_conformance import Can, Generations, MadeSource, Names, Pages, SourceConformance
from support.webservers import MadeBucket

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", webservers.KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", webservers.SECRET)


@pytest.fixture(scope="module")
def moto() -> Iterator[tuple[str, Any]]:
    with webservers.moto() as endpoint:
        yield endpoint, webservers.client(endpoint)


@pytest.fixture(scope="module")
def gateway(seaweed: Cluster) -> tuple[str, Any]:
    endpoint = f"http://127.0.0.1:{seaweed.s3}"
    return endpoint, webservers.client(endpoint, "key", "secret-of-tests")


@pytest.fixture
def bucket(moto: tuple[str, Any]) -> Iterator[MadeBucket]:
    made = MadeBucket(moto[1], moto[0])
    yield made
    made.source.close()


class TestMoto(Names, Pages, Generations):
    """Not the rest of the suite: it is the same code for both servers, and moto is slow."""

    @pytest.fixture
    def made(self, bucket: MadeBucket) -> MadeSource:
        bucket.can = Can.EMPTY_DIRECTORIES
        return bucket


class TestSeaweedGateway(SourceConformance):
    @pytest.fixture
    def made(self, gateway: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[MadeSource]:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        made = MadeBucket(gateway[1], gateway[0])
        made.impossible = frozenset([b"a\\b"])  # the gateway makes a slash of it
        yield made
        made.source.close()
