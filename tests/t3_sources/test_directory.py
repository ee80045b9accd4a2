"""A directory as a source: what the conformance suite does not say of it."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from swmld.sources import directory
from swmld.sources.directory import DirectorySource
from swmld.sources.interface import ROOT, Reader

pytestmark = pytest.mark.timeout(60)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def opened(source: DirectorySource, path: bytes) -> Reader:
    return source.open(path, source.stat(path))


def errno_of(call: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as raised:
        call()
    return raised.value.errno


def test_its_name_is_a_url(tmp_path: Path) -> None:
    (tmp_path / "a b%c").mkdir()
    assert DirectorySource(tmp_path / "a b%c").name == f"file://{tmp_path}/a%20b%25c"


def test_a_root_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "absent"):
        with pytest.raises(OSError):
            DirectorySource(tmp_path / name)


def test_the_root_may_be_a_symlink_and_nothing_below(tmp_path: Path) -> None:
    (tmp_path / "real" / "d").mkdir(parents=True)
    (tmp_path / "real" / "d" / "file").write_bytes(b"x")
    (tmp_path / "real" / "link").symlink_to("d")
    (tmp_path / "root").symlink_to("real")
    source = DirectorySource(tmp_path / "root")
    assert source.stat(b"d/file").size == 1
    attributes = source.stat(b"d/file")
    for call in (lambda: source.stat(b"link/file"), lambda: source.open(b"link/file", attributes)):
        assert errno_of(call) == errno.ENOTDIR


def test_errors_name_operation_and_path(tmp_path: Path) -> None:
    source = DirectorySource(tmp_path)
    (tmp_path / "d").mkdir()
    with pytest.raises(OSError, match=re.escape("list 'd/absent/below': No such file or directory")):
        source.list(b"d/absent/below")
    assert errno_of(lambda: source.open(b"d", source.stat(b"d"))) == errno.EISDIR
    assert errno_of(lambda: source.open(ROOT, source.stat(ROOT))) == errno.EISDIR


def test_a_file_that_became_something_else(tmp_path: Path) -> None:
    source = DirectorySource(tmp_path)
    path = tmp_path / "file"
    path.write_bytes(b"x")
    attributes = source.stat(b"file")

    def becomes(make: Callable[[], object]) -> int | None:
        path.unlink(missing_ok=True)
        make()
        return errno_of(lambda: source.open(b"file", attributes))

    # A FIFO without a writer would hold whoever opens it.
    assert becomes(lambda: os.mkfifo(path)) == errno.ESTALE
    assert becomes(lambda: path.symlink_to("/etc/passwd")) == errno.ESTALE
    (tmp_path / "other").write_bytes(b"x")
    attributes = source.stat(b"other")
    assert becomes(lambda: path.symlink_to("other")) == errno.ESTALE
    with socket.socket(socket.AF_UNIX) as listening:
        assert becomes(lambda: listening.bind(os.path.relpath(path))) == errno.ESTALE
    path.unlink()
    path.mkdir()
    assert errno_of(lambda: source.open(b"file", attributes)) == errno.ESTALE


@pytest.mark.parametrize("content", [b"B" * 100, b"A" * 50, b"A" * 200])
def test_a_file_that_is_written_over_in_place(tmp_path: Path, content: bytes) -> None:
    source = DirectorySource(tmp_path)
    (tmp_path / "file").write_bytes(b"A" * 100)
    reader = opened(source, b"file")
    with open(tmp_path / "file", "r+b") as file:
        file.write(content)
        file.truncate(len(content))
    assert not reader.current()
    assert errno_of(lambda: reader.read(memoryview(bytearray(100)), 0)) == errno.ESTALE


def test_a_change_during_a_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = DirectorySource(tmp_path)
    (tmp_path / "file").write_bytes(b"A" * 100)
    reader = opened(source, b"file")
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        count = real(fd, buffers, offset)
        with open(tmp_path / "file", "r+b") as file:
            file.write(b"B" * 100)
        return count

    monkeypatch.setattr(directory.os, "preadv", preadv)
    assert errno_of(lambda: reader.read(memoryview(bytearray(100)), 0)) == errno.ESTALE


def test_short_answers_of_the_kernel_are_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = DirectorySource(tmp_path)
    (tmp_path / "file").write_bytes(bytes(range(100)))
    reader = opened(source, b"file")
    real = os.preadv
    monkeypatch.setattr(directory.os, "preadv", lambda fd, into, offset: real(fd, [into[0][:7]], offset))
    memory = bytearray(50)
    assert reader.read(memoryview(memory), 20) == 50
    assert memory == bytes(range(20, 70))


def test_an_end_that_comes_too_soon_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = DirectorySource(tmp_path)
    (tmp_path / "file").write_bytes(bytes(100))
    reader = opened(source, b"file")
    monkeypatch.setattr(directory.os, "preadv", lambda fd, into, offset: 0)
    assert errno_of(lambda: reader.read(memoryview(bytearray(10)), 0)) == errno.EIO


def test_a_page_of_what_has_gone_is_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = DirectorySource(tmp_path)
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).touch()
    real = os.listdir

    def listdir(fd: int) -> list[str]:
        names = real(fd)
        for name in ("a", "b"):
            (tmp_path / name).unlink(missing_ok=True)
        return names

    monkeypatch.setattr(directory.os, "listdir", listdir)
    page = source.list(ROOT, limit=2)
    assert [name for name, _ in page.entries] == [b"c", b"d"]
    assert not page.more


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "e" / "file").write_bytes(b"x")
    (tmp_path / "d" / "link").symlink_to("e")
    before = open_files()
    source = DirectorySource(tmp_path)
    attributes = source.stat(b"d/e/file")
    for path in (b"d/e/absent", b"d/absent/file", b"d/e/file/x", b"d/link/x", b"d/../x"):
        errno_of(lambda path=path: source.stat(path))  # type: ignore[misc]
        errno_of(lambda path=path: source.list(path))  # type: ignore[misc]
        errno_of(lambda path=path: source.open(path, attributes))  # type: ignore[misc]
    source.list(b"d/e")
    reader = opened(source, b"d/e/file")
    (tmp_path / "d" / "e" / "file").write_bytes(b"other")
    assert errno_of(lambda: source.open(b"d/e/file", attributes)) == errno.ESTALE
    assert open_files() == before + 2
    reader.close()
    reader.close()
    source.close()
    source.close()
    assert open_files() == before
    assert errno_of(lambda: reader.read(memoryview(bytearray(1)), 0)) == errno.EBADF
    assert errno_of(lambda: source.stat(b"d")) == errno.EBADF


def test_a_file_is_closed_after_the_read_that_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = DirectorySource(tmp_path)
    (tmp_path / "file").write_bytes(b"the file")
    (tmp_path / "other").write_bytes(b"another!")
    reader = opened(source, b"file")
    real = os.preadv
    others: list[int] = []

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        reader.close()
        # The lowest free number: that of the file, had it been closed.
        others.append(os.open(tmp_path / "other", os.O_RDONLY))
        return real(fd, buffers, offset)

    monkeypatch.setattr(directory.os, "preadv", preadv)
    memory = bytearray(8)
    before = open_files()
    assert reader.read(memoryview(memory), 0) == 8
    assert memory == b"the file"
    assert open_files() == before
    os.close(others[0])
