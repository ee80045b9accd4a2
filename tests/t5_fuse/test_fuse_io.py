"""Reading and writing in every way a program can: append, direct, mapped, sparse, preallocated, copied."""

from __future__ import annotations

import errno
import faulthandler
import mmap
import os
import random
import resource
import signal
import socket
import stat
from functools import partial
from pathlib import Path

import pytest
from support import posix
from support.posix import fails
from support.tree import Tree

PAGE = mmap.PAGESIZE


def pattern(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 131_072, 1_048_577, 5_000_011])
def test_what_is_written_is_read(fs: Tree, size: int) -> None:
    data = pattern(size)
    (fs / "name").write_bytes(data)
    assert (fs / "name").read_bytes() == (fs.source / "name").read_bytes() == data
    (fs.source / "behind").write_bytes(data)
    fs.settle()
    assert (fs / "behind").read_bytes() == data
    assert (fs / "behind").read_bytes() == data  # and once more, from the cache


@pytest.mark.parametrize("step", [1, 13, 4096, 100_003])
def test_steps(fs: Tree, step: int) -> None:
    data = pattern(1_000_003 if step > 13 else 5_003)
    with (fs / "name").open("wb", buffering=0) as file:
        for at in range(0, len(data), step):
            assert file.write(data[at : at + step]) == len(data[at : at + step])
    with (fs / "name").open("rb", buffering=0) as file:
        parts = []
        while part := file.read(step):
            parts.append(part)
    assert b"".join(parts) == data


def test_reads_past_the_end(fs: Tree) -> None:
    (fs / "name").write_bytes(b"0123456789")
    fd = os.open(fs / "name", os.O_RDONLY)
    assert os.pread(fd, 100, 5) == b"56789"
    assert os.pread(fd, 100, 10) == b""
    assert os.pread(fd, 100, 2**40) == b""
    with fails(errno.EBADF):
        os.pwrite(fd, b"x", 0)
    os.close(fd)
    fd = os.open(fs / "name", os.O_WRONLY)
    with fails(errno.EBADF):
        os.pread(fd, 1, 0)
    os.close(fd)


def test_vectors(fs: Tree) -> None:
    fd = os.open(fs / "name", os.O_CREAT | os.O_RDWR)
    parts = [b"a" * 5, b"b" * 70_000, b"", b"c" * 3]
    assert os.pwritev(fd, parts, 1_000) == 70_008
    into = [bytearray(1_005), bytearray(70_000), bytearray(10)]
    assert os.preadv(fd, into, 0) == 71_008
    assert into[1] == parts[1]
    assert into[2][:3] == b"ccc"
    os.close(fd)


def test_write_is_seen_through_every_other_fd_at_once(fs: Tree) -> None:
    (fs / "name").write_bytes(pattern(200_000))
    writer = os.open(fs / "name", os.O_RDWR)
    readers = [os.open(fs / "name", os.O_RDONLY) for _ in range(3)]
    model = bytearray(pattern(200_000))
    dice = random.Random(1)
    for number in range(200):
        at = dice.randrange(199_000)
        data = bytes([number]) * dice.randrange(1, 1_000)
        os.pwrite(writer, data, at)
        model[at : at + len(data)] = data
        for reader in readers:
            assert os.pread(reader, 1_200, max(0, at - 100)) == model[max(0, at - 100) :][:1_200]
    os.ftruncate(writer, 1_000)
    assert [os.fstat(reader).st_size for reader in readers] == [1_000] * 3
    assert [os.pread(reader, 2_000, 0) for reader in readers] == [model[:1_000]] * 3
    for fd in (writer, *readers):
        os.close(fd)
    assert (fs.source / "name").read_bytes() == model[:1_000]


def test_append_ignores_the_offset(fs: Tree) -> None:
    (fs / "name").write_bytes(b"0123")
    fd = os.open(fs / "name", os.O_WRONLY | os.O_APPEND)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"45")
    with (fs / "name").open("r+b") as other:
        other.truncate(3)
    os.write(fd, b"6")
    os.close(fd)
    assert (fs / "name").read_bytes() == b"0126"


def test_appends_of_several_processes_interleave_whole(fs: Tree) -> None:
    (fs / "log").write_bytes(b"")

    def work(who: int) -> None:
        fd = os.open(fs / "log", os.O_WRONLY | os.O_APPEND)
        for number in range(200):
            assert os.write(fd, b"%d:%04d:%s\n" % (who, number, b"x" * (who * 37 % 91))) > 0

    children = [posix.Child(partial(work, who)) for who in range(4)]
    for child in children:
        child.wait()
    lines = (fs / "log").read_bytes().splitlines()
    assert len(lines) == 800
    for who in range(4):
        mine = [line for line in lines if line.startswith(b"%d:" % who)]
        assert mine == [b"%d:%04d:%s" % (who, number, b"x" * (who * 37 % 91)) for number in range(200)]
    assert (fs.source / "log").read_bytes().splitlines() == lines


def test_direct_io(fs: Tree) -> None:
    data = pattern(1 << 20)
    buffer = mmap.mmap(-1, 1 << 20)
    buffer.write(data)
    fd = os.open(fs / "name", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    assert os.pwritev(fd, [buffer], 0) == 1 << 20
    assert (fs / "name").read_bytes() == data
    into = mmap.mmap(-1, 1 << 20)
    assert os.preadv(fd, [into], 0) == 1 << 20
    assert into[:] == data
    os.ftruncate(fd, 10_000)
    assert os.preadv(fd, [into], 8_192) == 1_808
    os.close(fd)


def test_direct_and_buffered_io_agree(fs: Tree) -> None:
    (fs / "name").write_bytes(pattern(64 * PAGE))
    buffered = os.open(fs / "name", os.O_RDWR)
    direct = os.open(fs / "name", os.O_RDWR | os.O_DIRECT)
    page = mmap.mmap(-1, PAGE)
    for number in range(64):
        os.pread(buffered, PAGE, number * PAGE)  # the page is cached now
        page[:] = bytes([number]) * PAGE
        os.pwritev(direct, [page], number * PAGE)
        assert os.pread(buffered, PAGE, number * PAGE) == bytes([number]) * PAGE
        os.pwrite(buffered, b"!" * 10, number * PAGE)
        os.preadv(direct, [page], number * PAGE)
        assert page[:11] == b"!" * 10 + bytes([number])
    os.close(direct)
    os.close(buffered)


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC])
def test_synchronous_writes_and_fsync(fs: Tree, flag: int) -> None:
    fd = os.open(fs / "name", os.O_CREAT | os.O_RDWR | flag)
    os.write(fd, b"x" * 10_000)
    os.fsync(fd)
    os.fdatasync(fd)
    os.close(fd)
    directory = os.open(fs.path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)
    os.sync()
    assert (fs.source / "name").read_bytes() == b"x" * 10_000


def test_unnamed_temporary_file(fs: Tree) -> None:
    try:
        fd = os.open(fs.path, os.O_TMPFILE | os.O_RDWR, 0o640)
    except OSError as error:
        assert fs.mounted, "the disk's own file system can"
        assert error.errno == errno.EOPNOTSUPP  # noqa: PT017
        assert os.listdir(fs.path) == []
        return
    os.write(fd, b"unnamed")
    assert os.listdir(fs.path) == []
    posix.link_fd(fd, fs / "name")
    os.close(fd)
    assert (fs / "name").read_bytes() == b"unnamed"
    assert stat.S_IMODE((fs / "name").stat().st_mode) == 0o640


# --- open ---


def test_open_flags(fs: Tree) -> None:
    (fs / "dir").mkdir()
    (fs / "name").write_bytes(b"x")
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_CREAT):
        with fails(errno.EISDIR):
            os.open(fs / "dir", flags)
    with fails(errno.ENOTDIR):
        os.open(fs / "name", os.O_RDONLY | os.O_DIRECTORY)
    posix.make("socket", fs / "socket")
    with fails(errno.ENXIO):
        os.open(fs / "socket", os.O_RDONLY)
    fd = os.open(fs / "name", os.O_PATH)
    with fails(errno.EBADF):
        os.read(fd, 1)
    os.close(fd)


def test_fifo(fs: Tree) -> None:
    os.mkfifo(fs / "fifo")
    with fails(errno.ENXIO):
        os.open(fs / "fifo", os.O_WRONLY | os.O_NONBLOCK)
    child = posix.Child(lambda: (fs / "fifo").read_bytes())
    (fs / "fifo").write_bytes(b"through the fifo")
    assert child.wait() == b"through the fifo"


def test_socket(fs: Tree) -> None:
    here = os.open(fs.path, os.O_RDONLY)
    address = f"/proc/self/fd/{here}/socket"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(address)
        server.listen()
        client.connect(address)
        client.send(b"x")
    os.close(here)
    assert stat.S_ISSOCK((fs.source / "socket").stat().st_mode)


def test_o_trunc(fs: Tree) -> None:
    (fs / "name").write_bytes(b"0123456789")
    with (fs / "name").open("rb") as reader:
        fd = os.open(fs / "name", os.O_RDWR | os.O_TRUNC)
        assert os.fstat(fd).st_size == os.fstat(reader.fileno()).st_size == 0
        assert reader.read() == b""
        os.write(fd, b"new")
        reader.seek(0)
        assert reader.read() == b"new"
        os.close(fd)


# --- mappings ---


def test_private_mapping(fs: Tree) -> None:
    data = pattern(10 * PAGE + 100)
    (fs / "name").write_bytes(data)
    with (fs / "name").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as view:
        assert view[:] == data
        view[0:3] = b"own"
        assert (fs / "name").read_bytes() == data


def test_shared_mapping_reads_what_is_written(fs: Tree) -> None:
    (fs / "name").write_bytes(pattern(4 * PAGE))
    fd = os.open(fs / "name", os.O_RDWR)
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as view:
        assert view[:] == pattern(4 * PAGE)
        for at in (0, PAGE - 2, 2 * PAGE + 7):
            os.pwrite(fd, b"written", at)
            assert view[at : at + 7] == b"written"
    os.close(fd)


def test_shared_mapping_writes(fs: Tree) -> None:
    (fs / "name").write_bytes(b"\0" * (4 * PAGE))
    fd = os.open(fs / "name", os.O_RDWR)
    view = mmap.mmap(fd, 0)
    view[10:16] = b"mapped"
    assert os.pread(fd, 6, 10) == b"mapped"
    view[3 * PAGE : 3 * PAGE + 3] = b"end"
    view.flush()
    assert (fs.source / "name").read_bytes()[10:16] == b"mapped"
    view[20:25] = b"later"
    view.close()
    os.fsync(fd)
    os.close(fd)
    assert (fs.source / "name").read_bytes()[20:25] == b"later"
    assert (fs / "name").read_bytes()[3 * PAGE :][:3] == b"end"


def test_shared_mapping_between_processes(fs: Tree) -> None:
    (fs / "name").write_bytes(b"\0" * PAGE)
    go, went = socket.socketpair()

    def work() -> None:
        with (fs / "name").open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            view[:5] = b"child"
            go.send(b".")
            go.recv(1)

    with (fs / "name").open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        child = posix.Child(work)
        went.recv(1)
        assert view[:5] == b"child"
        went.send(b".")
        child.wait()


def test_mapping_past_the_end(fs: Tree) -> None:
    (fs / "name").write_bytes(b"x" * 100)
    with (fs / "name").open("r+b") as file:
        with mmap.mmap(file.fileno(), 100) as view:
            assert view[:] == b"x" * 100
        os.ftruncate(file.fileno(), 2 * PAGE)
        with mmap.mmap(file.fileno(), 2 * PAGE) as view:
            assert view[100:] == b"\0" * (2 * PAGE - 100)
            view[PAGE : PAGE + 3] = b"far"
            view.flush()
    assert (fs.source / "name").read_bytes()[PAGE : PAGE + 3] == b"far"


def test_touching_a_page_that_was_truncated_away(fs: Tree) -> None:
    """SIGBUS, in a child of its own, as on any file system."""
    (fs / "name").write_bytes(b"x" * (2 * PAGE))

    def work() -> int:
        pid = os.fork()
        if pid == 0:
            faulthandler.disable()  # dying by the signal is what is asked for
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            fd = os.open(fs / "name", os.O_RDWR)
            view = mmap.mmap(fd, 2 * PAGE)
            os.ftruncate(fd, 10)
            os._exit(view[PAGE])
        return os.waitpid(pid, 0)[1]

    assert os.WTERMSIG(posix.run(work)) == signal.SIGBUS


def test_mapping_outlives_the_name_and_the_fd(fs: Tree) -> None:
    data = pattern(8 * PAGE)
    (fs / "name").write_bytes(data)
    with (fs / "name").open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    (fs / "name").unlink()
    (fs / "name").write_bytes(b"y" * (8 * PAGE))
    assert view[:] == data
    view.close()


# --- holes ---


TIB = 1 << 40


def test_sparse_file_of_8_tib(fs: Tree) -> None:
    fd = os.open(fs / "huge", os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, 8 * TIB)
    assert os.pread(fd, 5, 3 * TIB) == b"\0" * 5
    os.pwrite(fd, b"middle", 4 * TIB - 3)
    os.pwrite(fd, b"end", 8 * TIB - 3)
    assert os.pread(fd, 100, 8 * TIB - 4) == b"\0end"
    assert os.pread(fd, 8, 4 * TIB - 4) == b"\0middle\0"
    os.close(fd)
    for path in (fs / "huge", fs.source / "huge"):
        assert path.stat().st_size == 8 * TIB
        assert path.stat().st_blocks * 512 < 1 << 20
    again = os.open(fs / "huge", os.O_RDONLY)
    assert os.lseek(again, -3, os.SEEK_END) == 8 * TIB - 3
    assert os.read(again, 10) == b"end"
    os.close(again)


def test_sparse_file_made_behind_the_mount(fs: Tree) -> None:
    fd = os.open(fs.source / "huge", os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, 2 * TIB)
    os.pwrite(fd, b"data", TIB)
    os.close(fd)
    with (fs / "huge").open("rb") as file:
        assert os.pread(file.fileno(), 6, TIB - 1) == b"\0data\0"
        assert os.pread(file.fileno(), 6, 5) == b"\0" * 6
        assert os.pread(file.fileno(), 6, 2 * TIB - 2) == b"\0" * 2


def test_seek_data_and_hole(fs: Tree) -> None:
    """Data must be found where it is; a file system may call a hole data, but never data a hole."""
    fd = os.open(fs / "name", os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, 1 << 24)
    os.pwrite(fd, b"x" * PAGE, 1 << 20)
    os.fsync(fd)
    assert os.lseek(fd, 0, os.SEEK_DATA) <= 1 << 20
    assert os.lseek(fd, 1 << 20, os.SEEK_DATA) == 1 << 20
    assert os.lseek(fd, 1 << 20, os.SEEK_HOLE) >= (1 << 20) + PAGE
    assert os.lseek(fd, 0, os.SEEK_HOLE) in (0, 1 << 24)
    with fails(errno.ENXIO):
        os.lseek(fd, 1 << 24, os.SEEK_DATA)
    os.close(fd)


def test_fallocate(fs: Tree) -> None:
    (fs / "name").write_bytes(b"x" * (4 * PAGE))
    fd = os.open(fs / "name", os.O_RDWR)
    posix.fallocate(fd, 0, 4 * PAGE, PAGE)
    assert os.fstat(fd).st_size == 5 * PAGE
    posix.fallocate(fd, posix.FALLOC_KEEP_SIZE, 0, 20 * PAGE)
    assert os.fstat(fd).st_size == 5 * PAGE
    os.pread(fd, 5 * PAGE, 0)
    posix.fallocate(fd, posix.FALLOC_PUNCH_HOLE | posix.FALLOC_KEEP_SIZE, PAGE, PAGE)
    assert os.pread(fd, 3 * PAGE, 0) == b"x" * PAGE + b"\0" * PAGE + b"x" * PAGE
    posix.fallocate(fd, posix.FALLOC_ZERO_RANGE, 100, 50)
    assert os.pread(fd, 200, 0) == b"x" * 100 + b"\0" * 50 + b"x" * 50
    with fails(errno.EINVAL):
        posix.fallocate(fd, 0, 0, 0)
    os.close(fd)
    assert (fs.source / "name").stat().st_size == 5 * PAGE


# --- copying in the kernel ---


def test_copy_file_range_and_sendfile(fs: Tree) -> None:
    data = pattern(300_001)
    (fs / "from").write_bytes(data)
    source = os.open(fs / "from", os.O_RDONLY)
    copy = os.open(fs / "copy", os.O_CREAT | os.O_RDWR)
    done = 0
    while done < len(data):
        done += os.copy_file_range(source, copy, len(data) - done, done, done)
    sent = os.open(fs / "sent", os.O_CREAT | os.O_RDWR)
    done = 0
    while done < len(data):
        done += os.sendfile(sent, source, done, len(data) - done)
    for fd in (source, copy, sent):
        os.close(fd)
    assert (fs / "copy").read_bytes() == (fs / "sent").read_bytes() == data
    assert (fs.source / "copy").read_bytes() == data


def test_splice(fs: Tree) -> None:
    (fs / "from").write_bytes(pattern(50_000))
    out, into = os.pipe()
    source = os.open(fs / "from", os.O_RDONLY)
    target = os.open(fs / "to", os.O_CREAT | os.O_WRONLY)
    moved = 0
    while part := os.splice(source, into, 16_384):
        assert os.splice(out, target, part) == part
        moved += part
    for fd in (out, into, source, target):
        os.close(fd)
    assert moved == 50_000
    assert (fs / "to").read_bytes() == pattern(50_000)


def test_copy_tool_reflink_falls_back(fs: Tree) -> None:
    (fs / "from").write_bytes(pattern(100_000))
    assert os.spawnlp(os.P_WAIT, "cp", "cp", "--reflink=auto", "--sparse=always", fs / "from", fs / "to") == 0
    assert (fs / "to").read_bytes() == pattern(100_000)


# --- statfs ---


def test_statfs(fs: Tree) -> None:
    shown, real = os.statvfs(fs.path), os.statvfs(fs.source)
    assert (shown.f_blocks * shown.f_frsize, shown.f_files) == (real.f_blocks * real.f_frsize, real.f_files)
    assert shown.f_namemax == 255
    assert abs(shown.f_bavail * shown.f_frsize - real.f_bavail * real.f_frsize) < 1 << 30


def test_device_and_identity(fs: Tree) -> None:
    """All of a mount has one device number, so that ``find -xdev`` and hard-link counts work."""
    (fs.path / "a" / "b").mkdir(parents=True)
    (fs.path / "a" / "b" / "name").write_bytes(b"")
    devices = {Path(path).stat().st_dev for path in (fs.path, fs / "a", fs.path / "a" / "b" / "name")}
    assert len(devices) == 1
