"""Staging areas, each with a directory as its source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import staging_kit
from support.staging_kit import Area


@pytest.fixture
def no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    staging_kit.no_waiting_for_disks(monkeypatch)


@pytest.fixture
def through(tmp_path: Path) -> Iterator[Area]:
    """A file is at the source when its close returns."""
    area = Area(tmp_path, back=False)
    yield area
    area.close()


@pytest.fixture
def back(tmp_path: Path) -> Iterator[Area]:
    """Files are uploaded later."""
    area = Area(tmp_path, back=True)
    yield area
    area.close()


@pytest.fixture(params=["through", "back"])
def area(request: pytest.FixtureRequest) -> Area:
    """Both."""
    area: Area = request.getfixturevalue(request.param)
    return area
