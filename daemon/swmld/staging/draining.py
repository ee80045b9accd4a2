"""The end of the daemon: what is staged goes to the source first."""

from __future__ import annotations

import logging
import threading
from functools import partial

import trio

from swmld import sdnotify
from swmld.staging.uploads import Uploads

log = logging.getLogger(__name__)

EXTENDED = 24 * 3600
"""Seconds that the service manager is asked to wait for."""

PAUSE = 1.0
"""Seconds until what the source could not take is tried again."""


async def drain(uploads: Uploads) -> None:
    """Until all that waits is uploaded, or refused by the source: that stays staged. Cancelled, it leaves
    what is left to the next start."""
    if not (waiting := uploads.waiting):
        return
    log.info(
        "%d files are uploaded before the end (signal again to leave them to the next start)", len(waiting)
    )
    sdnotify.notify(f"EXTEND_TIMEOUT_USEC={EXTENDED * 1_000_000}")
    flush = partial(uploads.flush, b"", threading.TIMEOUT_MAX)
    while left := await trio.to_thread.run_sync(flush, abandon_on_cancel=True):
        if all(file.refused for file in left):
            log.error("%d files are refused by the source and stay staged", len(left))
            return
        await trio.sleep(PAUSE)
