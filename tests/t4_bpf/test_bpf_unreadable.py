"""A map whose descriptor is no map any more: its probes are read in vain, and then given up."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from support import gates
from support.fakes import FakeOffload
from swmld.errors import HostError
from swmld.observe.probe import MAPS, UNREADABLE, Counters, Loading

pytestmark = pytest.mark.trio


def break_map(fd: int) -> None:
    """It is no map any more."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, fd)
    os.close(nothing)


async def test_a_map_that_is_no_map_any_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, nothing_stays: None
) -> None:
    gates.require("bpf", "bpftool")
    probe = await Loading(tmp_path).result()
    try:
        processes = probe._fds[MAPS.index("processes")]
        counters = Counters(probe, FakeOffload())  # type: ignore[arg-type]
        assert await counters.read() == (b"", {}), "nothing is watched yet"
        caplog.set_level(logging.INFO)
        kept = os.dup(processes)
        break_map(processes)
        assert await counters.read() == await counters.read() == (b"", {})
        os.dup2(kept, processes)
        os.close(kept)
        await counters.read()
        break_map(processes)
        for _ in range(UNREADABLE - 1):
            await counters.read()
        with pytest.raises(HostError, match=f"could not be read for {UNREADABLE} s: .*"):
            await counters.read()
    finally:
        probe.close()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]
