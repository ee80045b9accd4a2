"""Whatever is done to staged files, and however often the daemon is killed in between: once all is uploaded,
the source has what a plain directory would have."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.staging_kit import Area, On, no_waiting_for_disks, nothing
from swmld.sources.interface import NewAttributes
from swmld.staging.files import StagedFile

NAMES = st.sampled_from([b"a", b"b", b"d/a", b"d/b"])
CONTENTS = st.binary(min_size=1, max_size=6)
PICKS = st.integers(0, 5)
ERRORS = st.sampled_from([errno.EIO, errno.EACCES])


class Open:
    """A file that is open, here and in the model: where one can be written, the other is."""

    def __init__(self, file: StagedFile, content: bytearray) -> None:
        self.file = file
        self.content = content


class StagedFiles(RuleBasedStateMachine):
    """``files``: what each name has; ``safe``: what it had when it was last closed, synced or uploaded. Who
    is killed has that: what was being written is put aside."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp())
        self.area = Area(self.base, back=True)
        (self.area.root / "d").mkdir()
        self.files: dict[bytes, bytearray] = {}
        self.opens: list[Open] = []

    def teardown(self) -> None:
        try:
            self.area.source.meets = self.area.source.answers = nothing
            while self.opens:
                self._close(0)
            self._drained()
        finally:
            self.area.close()
            shutil.rmtree(self.base)

    def _drained(self) -> None:
        assert self.area.drained() == []
        assert self.area.tree() == {name: bytes(content) for name, content in self.files.items()}
        assert all(state == "open" for state in self.area.items().values())

    def _open(self, file: StagedFile, content: bytearray) -> None:
        self.opens.append(Open(file, content))

    def _close(self, pick: int) -> None:
        self.area.close_file(self.opens.pop(pick % len(self.opens)).file)

    # ---- what programs do

    @precondition(lambda self: len(self.opens) < 4)
    @rule(name=NAMES, content=CONTENTS)
    def create(self, name: bytes, content: bytes) -> None:
        if name in self.files:
            return
        self.files[name] = bytearray(content)
        self._open(self.area.create(name, content), self.files[name])

    @precondition(lambda self: len(self.opens) < 4)
    @rule(name=NAMES, truncate=st.booleans())
    def open(self, name: bytes, truncate: bool) -> None:
        if name not in self.files:
            return
        file = self.area.open(name, truncate=truncate)
        if truncate:
            os.ftruncate(file.fd, 0)
            self.files[name].clear()
        assert os.pread(file.fd, 1 << 20, 0) == self.files[name]
        self._open(file, self.files[name])

    @precondition(lambda self: self.opens)
    @rule(pick=PICKS, content=CONTENTS, offset=st.integers(0, 8))
    def write(self, pick: int, content: bytes, offset: int) -> None:
        one = self.opens[pick % len(self.opens)]
        os.pwrite(one.file.fd, content, offset)
        if len(one.content) < offset:
            one.content.extend(bytes(offset - len(one.content)))
        one.content[offset : offset + len(content)] = content

    @precondition(lambda self: self.opens)
    @rule(pick=PICKS, content=CONTENTS)
    def append(self, pick: int, content: bytes) -> None:
        one = self.opens[pick % len(self.opens)]
        os.pwrite(one.file.fd, content, os.fstat(one.file.fd).st_size)
        one.content.extend(content)

    @precondition(lambda self: self.opens)
    @rule(pick=PICKS, size=st.integers(0, 10))
    def truncate(self, pick: int, size: int) -> None:
        one = self.opens[pick % len(self.opens)]
        os.ftruncate(one.file.fd, size)
        one.content[:] = one.content[:size].ljust(size, b"\0")

    @precondition(lambda self: self.opens)
    @rule(pick=PICKS)
    def close(self, pick: int) -> None:
        self._close(pick)

    @precondition(lambda self: self.opens)
    @rule(pick=PICKS)
    def sync(self, pick: int) -> None:
        self.area.staging.sync(self.opens[pick % len(self.opens)].file)

    @rule(old=NAMES, new=NAMES)
    def rename(self, old: bytes, new: bytes) -> None:
        if old in self.files and old != new:
            self._until_done(lambda: self.area.staging.rename(old, new))
            self.files[new] = self.files.pop(old)

    @rule(name=NAMES)
    def remove(self, name: bytes) -> None:
        if name in self.files:
            self.area.staging.remove(name)
            del self.files[name]

    @rule(name=NAMES, mode=st.sampled_from([0o600, 0o644]))
    def change(self, name: bytes, mode: int) -> None:
        if name in self.files:
            self.area.staging.change(name, NewAttributes(mode=mode))

    @rule()
    def rename_directory(self) -> None:
        self._until_done(lambda: self.area.staging.rename_directory(b"d", b"e"))
        self._until_done(lambda: self.area.staging.rename_directory(b"e", b"d"))

    def _until_done(self, call: object) -> None:
        """What the source does not take now it takes then."""
        assert callable(call)
        try:
            call()
        except OSError:
            self.area.source.meets = self.area.source.answers = nothing
            call()

    # ---- what happens meanwhile

    @rule()
    def upload_now(self) -> None:
        self.area.drained()

    @rule(code=ERRORS, times=st.integers(1, 2), lost=st.booleans())
    def the_source_fails(self, code: int, times: int, lost: bool) -> None:
        fault = On("write", code, times=times)
        if lost:
            self.area.source.answers = fault
        else:
            self.area.source.meets = fault

    @rule()
    def killed(self) -> None:
        """Closed files are as they were closed; those that are open are closed before, so that it is known
        what has to be there."""
        while self.opens:
            self._close(0)
        self.area.killed()

    @precondition(lambda self: self.opens)
    @rule(pick=PICKS)
    def killed_with_one_open(self, pick: int) -> None:
        """It was synced, and not written since."""
        one = self.opens.pop(pick % len(self.opens))
        while self.opens:
            self._close(0)
        self.area.staging.sync(one.file)
        self.area.killed()

    @rule()
    def drained(self) -> None:
        self.area.source.meets = self.area.source.answers = nothing
        for one in self.opens:
            self.area.staging.flush(one.file)
        self._drained()

    @invariant()
    def what_is_staged_is_as_it_was_written(self) -> None:
        for name, content in self.files.items():
            fd = self.area.staging.reader(name)
            if fd is None:
                assert self.area.at_source(name) == content
            else:
                assert os.pread(fd, 1 << 20, 0) == content
                os.close(fd)

    @invariant()
    def nothing_is_put_aside(self) -> None:
        assert "aside" not in self.area.items().values()


def test_staged_files_are_as_in_a_plain_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    no_waiting_for_disks(monkeypatch)
    run_state_machine_as_test(
        StagedFiles, settings=settings(max_examples=8, stateful_step_count=25, deadline=None)
    )


def test_the_same_where_time_stamps_are_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    no_waiting_for_disks(monkeypatch)
    monkeypatch.setattr("swmld.staging.area.fine_stamps", lambda directory: False)
    run_state_machine_as_test(
        StagedFiles, settings=settings(max_examples=4, stateful_step_count=25, deadline=None)
    )
