"""Locks between processes: flock, fcntl records, open file descriptions; waiting, upgrading, dying."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import posix
from support.posix import fails
from support.tree import Tree

Lock = Callable[[int, int], None]


class Holder:
    """Another process that takes locks on request, one letter a request, one letter an answer."""

    def __init__(self, path: Path, take: Lock) -> None:
        self._mine, theirs = socket.socketpair()
        self.child = posix.Child(lambda: self._serve(path, take, theirs))
        theirs.close()

    @staticmethod
    def _serve(path: Path, take: Lock, peer: socket.socket) -> None:
        fd = os.open(path, os.O_RDWR)
        kinds = {b"s": fcntl.LOCK_SH, b"x": fcntl.LOCK_EX, b"u": fcntl.LOCK_UN, b"W": fcntl.LOCK_EX}
        while word := peer.recv(1):
            if word == b"c":
                os.close(fd)
                peer.send(b"y")
                continue
            try:
                take(fd, kinds[word] | (0 if word in (b"W", b"u") else fcntl.LOCK_NB))
                peer.send(b"y")
            except BlockingIOError:
                peer.send(b"n")

    def ask(self, word: str) -> bool:
        self.send(word)
        return self.answer()

    def send(self, word: str) -> None:
        self._mine.send(word.encode())

    def answer(self, timeout: float = 30) -> bool:
        self._mine.settimeout(timeout)
        return self._mine.recv(1) == b"y"

    def close(self) -> None:
        self._mine.close()
        self.child.kill()


def _fcntl(fd: int, kind: int) -> None:
    fcntl.lockf(fd, kind, 0)


def _ofd(fd: int, kind: int) -> None:
    types = {fcntl.LOCK_SH: fcntl.F_RDLCK, fcntl.LOCK_EX: fcntl.F_WRLCK, fcntl.LOCK_UN: fcntl.F_UNLCK}
    command = posix.F_OFD_SETLK if kind & fcntl.LOCK_NB else posix.F_OFD_SETLKW
    try:
        posix.ofd_lock(fd, types[kind & ~fcntl.LOCK_NB], command=command)
    except PermissionError as error:
        raise BlockingIOError(error.errno, str(error)) from error


LOCKS: dict[str, Lock] = {"flock": fcntl.flock, "fcntl": _fcntl, "ofd": _ofd}


@pytest.fixture(params=LOCKS)
def lock(request: pytest.FixtureRequest) -> Lock:
    return LOCKS[request.param]


@pytest.fixture
def holders(fs: Tree, lock: Lock) -> Iterator[tuple[Holder, Holder]]:
    (fs / "name").write_bytes(b"0" * 100)
    pair = Holder(fs / "name", lock), Holder(fs / "name", lock)
    yield pair
    for holder in pair:
        holder.close()


def test_exclusive_keeps_others_out(holders: tuple[Holder, Holder]) -> None:
    one, two = holders
    assert one.ask("x")
    assert not two.ask("x")
    assert not two.ask("s")
    assert one.ask("u")
    assert two.ask("x")


def test_shared_is_shared(holders: tuple[Holder, Holder]) -> None:
    one, two = holders
    assert one.ask("s")
    assert two.ask("s")
    assert not one.ask("x")
    assert two.ask("u")
    assert one.ask("x")


def test_closing_the_file_unlocks(holders: tuple[Holder, Holder]) -> None:
    one, two = holders
    assert one.ask("x")
    assert one.ask("c")
    assert two.ask("x")


def test_death_of_the_holder_unlocks(holders: tuple[Holder, Holder]) -> None:
    one, two = holders
    assert one.ask("x")
    one.child.kill()
    assert two.ask("x")


def test_waiting_for_a_lock(holders: tuple[Holder, Holder]) -> None:
    one, two = holders
    assert one.ask("x")
    two.send("W")
    with pytest.raises(TimeoutError):
        two.answer(0.2)
    assert one.ask("u")
    assert two.answer()


def test_a_waiter_can_be_killed(holders: tuple[Holder, Holder]) -> None:
    one, two = holders
    assert one.ask("x")
    two.send("W")
    with pytest.raises(TimeoutError):
        two.answer(0.2)
    assert two.child.kill() < 5
    assert one.ask("u")
    assert one.ask("x")


def test_death_of_a_waiter_leaves_no_lock(holders: tuple[Holder, Holder]) -> None:
    one, two = holders
    assert one.ask("x")
    two.send("W")
    with pytest.raises(TimeoutError):
        two.answer(0.2)
    two.child.kill()
    assert one.ask("u")
    assert one.ask("s")
    assert one.ask("x")


def test_record_locks_split_and_tell_their_holder(fs: Tree) -> None:
    (fs / "name").write_bytes(b"0" * 100)
    fd = os.open(fs / "name", os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX, 30, 10)
    fcntl.lockf(fd, fcntl.LOCK_UN, 10, 20)

    def others() -> list[bool]:
        other = os.open(fs / "name", os.O_RDWR)
        free = []
        for start in (0, 10, 20, 30, 40):
            try:
                fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, start)
                free.append(True)
            except BlockingIOError:
                free.append(False)
        return free

    assert posix.run(others) == [True, False, True, False, True]
    os.close(fd)
    assert posix.run(others) == [True] * 5


def test_record_locks_need_the_right_open_mode(fs: Tree) -> None:
    (fs / "name").write_bytes(b"0" * 100)
    reader, writer = os.open(fs / "name", os.O_RDONLY), os.open(fs / "name", os.O_WRONLY)
    with fails(errno.EBADF):
        fcntl.lockf(reader, fcntl.LOCK_EX)
    with fails(errno.EBADF):
        fcntl.lockf(writer, fcntl.LOCK_SH)
    fcntl.lockf(reader, fcntl.LOCK_SH)
    os.close(reader)
    os.close(writer)


def test_deadlock_is_refused(fs: Tree) -> None:
    """Two processes that wait for each other's record: one of them gets EDEADLK."""
    (fs / "name").write_bytes(b"0" * 100)
    mine, theirs = socket.socketpair()

    def work(at: int, peer: socket.socket) -> int:
        fd = os.open(fs / "name", os.O_RDWR)
        fcntl.lockf(fd, fcntl.LOCK_EX, 10, at)
        peer.send(b".")
        peer.recv(1)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX, 10, 10 - at)
        except OSError as error:
            return error.errno or 0
        return 0

    children = [posix.Child(lambda: work(0, mine)), posix.Child(lambda: work(10, theirs))]
    answers = sorted(child.wait(30) for child in children)
    assert answers == [0, errno.EDEADLK]


def test_flock_belongs_to_the_open_file_not_the_process(fs: Tree) -> None:
    (fs / "name").write_bytes(b"")
    one, two = os.open(fs / "name", os.O_RDWR), os.open(fs / "name", os.O_RDWR)
    fcntl.flock(one, fcntl.LOCK_EX)
    with fails(errno.EWOULDBLOCK):
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    duplicate = os.dup(one)
    os.close(one)
    with fails(errno.EWOULDBLOCK):
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(duplicate)
    fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(two)
