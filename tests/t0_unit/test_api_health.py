"""What works, as ``health`` and ``/healthz`` say it."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from swmld.api import health as api
from swmld.api.health import disk_state, health_of, why_unserved
from swmld.api.messages import METHODS, Health, RulesStatus
from swmld.config.floor import FreeFloor
from swmld.mount import mountpoint

MIB = 1 << 20
NONE = FreeFloor(1.0, 0)
RULES = RulesStatus(ruled=True, active=3, loaded_at=1.0, error="", error_at=0.0, pending=[])


def state(**given: Any) -> Health:
    fine: dict[str, Any] = {
        "mount": "/mnt/ml",
        "uptime": 1.5,
        "unserved": "",
        "source_down": False,
        "disk": ("ok", ""),
        "probe": {
            "how": "fuse", "why": "asked for", "share": 1.0, "rate": 0, "limit": 0,
            "lost": {"events": 0, "cursors": 0, "processes": 0},
        },
        "rules": None,
    }
    return health_of(**fine | given)


@pytest.mark.parametrize(
    ("given", "status", "ready", "said"),
    [
        ({}, "ok", True, []),
        ({"rules": RULES}, "ok", True, []),
        ({"source_down": True}, "degraded", False, ["the source does not answer"]),
        ({"disk": ("full", "no room")}, "degraded", True, ["no room: nothing more is cached"]),
        ({"rules": {**RULES, "error": "x"}}, "degraded", True, ["the rules files changed"]),
        ({"staged": ["uploads fail", "conflicts"]}, "degraded", True, ["uploads fail", "conflicts"]),
        ({"unserved": "gone", "source_down": True}, "down", False, ["gone", "the source"]),
    ],
)
def test_what_works(given: dict[str, Any], status: str, ready: bool, said: list[str]) -> None:
    found = state(**given)
    assert (found["status"], found["ready"]) == (status, ready)
    assert len(found["problems"]) == len(said)
    for line, start in zip(found["problems"], said, strict=True):
        assert line.startswith(start)


def test_the_parts_are_told() -> None:
    assert (state()["source"], state()["cache_disk"], state()["rules"]) == ("ok", "ok", "none")
    found = state(source_down=True, disk=("failing", "x"), rules={**RULES, "error": "x"})
    assert (found["source"], found["cache_disk"], found["rules"]) == ("failing", "failing", "kept-old")
    assert state(rules=RULES)["rules"] == "valid"
    assert "health" in METHODS


def test_the_mount_is_looked_for_by_its_number() -> None:
    (root,) = [one.mount_id for one in mountpoint.mounts() if one.path == b"/"][-1:]
    assert why_unserved(Path("/"), root) == ""
    assert why_unserved(Path("/"), -1) == "/ is not mounted any more: only files that are open are served"
    other = next(one.mount_id for one in mountpoint.mounts() if one.path != b"/")
    assert why_unserved(Path("/"), other) == "something else is mounted over /"


def test_a_disk_is_full_when_an_empty_cache_would_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = SimpleNamespace(f_blocks=100, f_bavail=10, f_frsize=MIB, f_flag=0)
    monkeypatch.setattr(api.os, "statvfs", lambda path: found)
    for held, floor, least, full in (
        (0, NONE, 10 * MIB, False),
        (0, NONE, 11 * MIB, True),
        (1 * MIB, NONE, 11 * MIB, False),
        (0, FreeFloor(0.05, None), 5 * MIB, False),
        (0, FreeFloor(0.05, None), 6 * MIB, True),
    ):
        assert (disk_state(tmp_path, floor, held, least)[0] == "full") is full


def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert disk_state(tmp_path, NONE, 0, 1) == ("ok", "")
    assert disk_state(tmp_path / "gone", NONE, 0, 1) == (
        "failing", "the cache's disk cannot be asked (No such file or directory)",
    )  # fmt: skip
    found = SimpleNamespace(f_blocks=100, f_bavail=10, f_frsize=MIB, f_flag=os.ST_RDONLY)
    monkeypatch.setattr(api.os, "statvfs", lambda path: found)
    assert disk_state(tmp_path, NONE, 0, 1) == ("failing", "the cache's disk is read-only")
