"""Files of a remote source that are staged: ``staged``, ``staged.drop`` and ``flush``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NotRequired

import trio
from typing_extensions import TypedDict

from swmld.api.messages import ENTRIES_PER_LINE, Handler, PathError, Progress, StagedStatus, Transfer
from swmld.api.metrics import StagedFigures
from swmld.errors import UsageError
from swmld.staging.area import Staging
from swmld.staging.flushing import Flush, Flushed
from swmld.staging.views import Item

STEP = 0.2
"""Seconds between two lines of progress, and the most that a client which goes away is waited for."""

TOLD_FAILURES = 100


class StagedItem(TypedDict):
    """One staged file. ``path`` is relative to the mount. ``state``: open, waiting, uploading, failing or
    aside (put aside, and not uploaded); ``why``: of the last two. ``changed``: seconds since the epoch;
    ``file``: where its bytes are on this host."""

    number: int
    path: str
    size: int
    state: str
    why: str
    changed: float
    file: str


class StagedItems(TypedDict):
    """Progress of ``staged``: some more, at most ``ENTRIES_PER_LINE``."""

    items: list[StagedItem]


class DropParams(TypedDict):
    """Parameters of ``staged.drop``: the number of a file that was put aside."""

    number: int


class FlushParams(TypedDict):
    """Parameters of ``flush``; no ``path``: the mount's root."""

    path: NotRequired[str]


class FlushResult(TypedDict):
    """Result of ``flush``. ``failed`` has the first 100."""

    uploaded_files: int
    uploaded_bytes: int
    failed_files: int
    failed: list[PathError]
    seconds: float


@dataclass(frozen=True, slots=True)
class StagingApi:
    """``staging`` None: nothing is, and ``why`` says why. ``below``: a path as clients send it, as the
    source's."""

    staging: Staging | None
    why: str
    below: Callable[[object], bytes]

    def handlers(self) -> Mapping[str, Handler]:
        """By method name; see ``messages.METHODS``."""
        return {"staged": self._staged, "staged.drop": self._drop, "flush": self._flush}

    def status(self) -> StagedStatus | None:
        """For ``status``."""
        if self.staging is None:
            return None
        found = self.staging.figures
        return StagedStatus(
            write="back" if self.staging.back else "through",
            files=found.files,
            waiting_bytes=found.waiting_bytes,
            failing=found.failing,
            aside=found.aside,
        )

    def figures(self) -> StagedFigures | None:
        """For a scrape; loop-safe."""
        if self.staging is None:
            return None
        found, counted = self.staging.figures, self.staging.uploads.counters
        return StagedFigures(
            files=found.files,
            waiting_bytes=found.waiting_bytes,
            aside=found.aside,
            uploads={"done": counted.uploads, "failed": counted.failures, "conflict": counted.conflicts},
            uploaded_bytes=counted.uploaded_bytes,
        )

    def problems(self) -> list[str]:
        """For ``health``; waits for the area's lock."""
        if self.staging is None:
            return []
        found, problems = self.staging.figures, []
        if found.failing:
            why = self.staging.failure
            problems.append(f"uploads fail ({why}): {_files(found.failing)} staged, see swmld staged")
        if found.aside:
            problems.append(f"conflicts: {_files(found.aside)} put aside, see swmld staged")
        return problems

    def _there(self) -> Staging:
        if self.staging is None:
            raise UsageError(self.why)
        return self.staging

    async def _staged(self, params: dict[str, Any], progress: Progress) -> StagedStatus:
        items = await trio.to_thread.run_sync(self._there().listing)
        for first in range(0, len(items), ENTRIES_PER_LINE):
            batch = items[first : first + ENTRIES_PER_LINE]
            await progress(StagedItems(items=[_item(item) for item in batch]))
        status = self.status()
        assert status is not None
        return status

    async def _drop(self, params: dict[str, Any], progress: Progress) -> StagedItem:
        staging, number = self._there(), params.get("number")
        if not isinstance(number, int):
            raise UsageError("number: expected that of a staged file")
        for item in await trio.to_thread.run_sync(staging.listing):
            if item.number == number and await trio.to_thread.run_sync(staging.drop, number):
                return _item(item)
        raise UsageError(f"{number}: no file was put aside with this number; swmld staged lists them")

    async def _flush(self, params: dict[str, Any], progress: Progress) -> FlushResult:
        staging, path, begun = self._there(), self.below(params.get("path", "")), time.monotonic()
        flush: Flush = await trio.to_thread.run_sync(staging.begin_flush, path)
        ended = False
        while not ended:
            ended = await trio.to_thread.run_sync(partial(flush.wait, STEP))
            at = await trio.to_thread.run_sync(flush.progress)
            await progress(_transfer(at))
        return FlushResult(
            uploaded_files=at.uploaded,
            uploaded_bytes=at.uploaded_bytes,
            failed_files=len(at.failed),
            failed=[
                PathError(path=os.fsdecode(one), error=why or "it waits for its turn")
                for one, why in at.failed[:TOLD_FAILURES]
            ],
            seconds=time.monotonic() - begun,
        )


def _transfer(at: Flushed) -> Transfer:
    return Transfer(
        done_bytes=at.uploaded_bytes, total_bytes=at.size, done_files=at.uploaded, total_files=at.files
    )


def _item(item: Item) -> StagedItem:
    return StagedItem(
        number=item.number,
        path=os.fsdecode(item.path),
        size=item.size,
        state=item.state,
        why=item.why,
        changed=item.changed,
        file=os.fspath(item.file),
    )


def _files(number: int) -> str:
    return "1 file is" if number == 1 else f"{number} files are"
