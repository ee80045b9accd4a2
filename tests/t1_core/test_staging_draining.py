"""The end of the daemon: what is staged goes to the source first, whatever the source says meanwhile."""

from __future__ import annotations

import errno
import logging

import pytest
import trio
import trio.testing
from support.source_fakes import Held
from support.staging_kit import Area, On
from swmld.staging.draining import drain

pytestmark = pytest.mark.usefixtures("no_waiting_for_disks", "autojump_clock")


async def drained(area: Area) -> None:
    """While uploads run in their thread, as those of the daemon."""
    with area.uploading():
        await drain(area.staging.uploads)


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "swmld.staging.draining")


@pytest.mark.trio
async def test_nothing_waits(back: Area, caplog: pytest.LogCaptureFixture) -> None:
    await drained(back)
    assert not caplog.records


@pytest.mark.trio
async def test_what_waits_is_uploaded(back: Area, caplog: pytest.LogCaptureFixture) -> None:
    back.put(b"a", b"one")
    back.put(b"b", b"two")
    back.source.meets = held = Held("write")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drained, back)
        await trio.testing.wait_all_tasks_blocked()  # it has begun while both wait
        held.let_go()
    assert back.tree() == {b"a": b"one", b"b": b"two"}
    assert [record.getMessage()[:8] for record in caplog.records] == ["2 files "]


@pytest.mark.trio
async def test_what_the_source_could_not_take_is_tried_until_it_can(back: Area) -> None:
    back.put(b"a", b"one")
    back.put(b"b", b"two")
    back.source.meets = On("write", errno.ENOTCONN, times=5)
    await drained(back)
    assert back.tree() == {b"a": b"one", b"b": b"two"}
    assert back.source.count("write") == 7


@pytest.mark.trio
async def test_what_is_refused_stays(back: Area, caplog: pytest.LogCaptureFixture) -> None:
    back.put(b"a", b"one")
    back.put(b"b", b"two")
    back.source.meets = On("write", errno.EACCES, b"a")
    await drained(back)
    assert back.tree() == {b"b": b"two"}
    assert back.items() == {b"a": "failing"}
    assert caplog.records[-1].getMessage() == "1 files are refused by the source and stay staged"


@pytest.mark.trio
async def test_told_again_it_leaves_the_rest(back: Area) -> None:
    """Cancelled by the second signal, though the source answers nothing."""
    back.put(b"a", b"one")
    with trio.move_on_after(1.0) as scope:
        await drain(back.staging.uploads)  # nobody uploads
    assert scope.cancelled_caught
    assert back.items() == {b"a": "waiting"}
    back.staging.uploads.stop()  # ends the thread that was abandoned
