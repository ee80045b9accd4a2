"""Known writes give exact counts in each serving mode: pages where they are passed through, else bytes."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import liburing
import pytest
import trio
from support import gates, posix
from support.probes import PAGE, Lab
from swmld._native import ffi, lib
from swmld.observe import records
from swmld.observe.probe import Loading, device_of
from swmld.patterns.feed import TouchKind

BLOCKS = 23
PAUSE = 1.1  # seconds: longer than SWP_PAUSE_NS
DATA = os.urandom(BLOCKS * PAGE)


def opened(path: Path, flags: int = os.O_CREAT) -> int:
    return os.open(path, os.O_RDWR | flags)


# --- ways to write a new file of 23 blocks ---


def by_write(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for block in range(BLOCKS):
            assert file.write(DATA[block * PAGE : (block + 1) * PAGE]) == PAGE


def by_pwrite_backwards(path: Path) -> None:
    fd = opened(path)
    for block in reversed(range(BLOCKS)):
        assert os.pwrite(fd, DATA[:PAGE], block * PAGE) == PAGE
    os.close(fd)


def by_writev(path: Path) -> None:
    fd = opened(path)
    assert os.writev(fd, [DATA[:PAGE], DATA[PAGE:]]) == BLOCKS * PAGE
    os.close(fd)


def by_append(path: Path) -> None:
    fd = opened(path, os.O_CREAT | os.O_APPEND)
    for block in range(BLOCKS):
        assert os.write(fd, DATA[block * PAGE : (block + 1) * PAGE]) == PAGE
    os.close(fd)


def by_splice(path: Path) -> None:
    fd = opened(path)
    out, into = os.pipe()
    for block in range(BLOCKS):
        assert os.write(into, DATA[:PAGE]) == PAGE
        assert os.splice(out, fd, PAGE, offset_dst=block * PAGE) == PAGE
    for one in (fd, out, into):
        os.close(one)


def by_copy_file_range(path: Path) -> None:
    """Of a file beside it: between file systems the kernel refuses, and programs read and write."""
    other = path.with_name("other")
    other.write_bytes(DATA)
    with other.open("rb", buffering=0) as file, path.open("wb", buffering=0) as to:
        left = BLOCKS * PAGE
        while left:
            left -= os.copy_file_range(file.fileno(), to.fileno(), left)


def by_uring(path: Path) -> None:
    ring, cqe = liburing.Ring(), liburing.Cqe()
    fd = opened(path)
    liburing.io_uring_queue_init(64, ring)
    try:
        for block in range(BLOCKS):
            entry = liburing.io_uring_get_sqe(ring)
            vector = liburing.Iovec([bytearray(DATA[:PAGE])])
            liburing.io_uring_prep_writev(entry, fd, vector, block * PAGE, 0)
            liburing.io_uring_submit(ring)
            liburing.io_uring_wait_cqe(ring, cqe)
            assert cqe[0].res == PAGE
            liburing.io_uring_cqe_seen(ring, cqe[0])
    finally:
        liburing.io_uring_queue_exit(ring)
        os.close(fd)


def by_direct(path: Path) -> None:
    """O_DIRECT, from memory that is aligned."""
    fd = opened(path, os.O_CREAT | os.O_DIRECT)
    with mmap.mmap(-1, BLOCKS * PAGE) as buffer:
        assert os.pwritev(fd, [buffer], 0) == BLOCKS * PAGE
    os.close(fd)


def by_mapping(path: Path) -> None:
    """Closed before it is written, as numpy.memmap does."""
    fd = opened(path)
    os.ftruncate(fd, BLOCKS * PAGE)
    with mmap.mmap(fd, BLOCKS * PAGE) as mapped:
        os.close(fd)
        for block in range(BLOCKS):
            mapped[block * PAGE] = 7


def by_threads(path: Path) -> None:
    """The first write is apart: two at once may begin two bursts."""
    fd = opened(path)
    assert os.write(fd, DATA[:PAGE]) == PAGE

    def part(number: int) -> None:
        for block in range(1 + number, BLOCKS, 4):
            assert os.pwrite(fd, DATA[:PAGE], block * PAGE) == PAGE

    threads = [threading.Thread(target=part, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(fd)


WAYS: list[Callable[[Path], None]] = [
    by_write, by_pwrite_backwards, by_writev, by_append, by_splice, by_copy_file_range, by_uring, by_direct,
    by_mapping, by_threads,
]  # fmt: skip


@pytest.mark.parametrize("write", WAYS, ids=lambda write: write.__name__)
def test_every_way_to_write(lab: Lab, write: Callable[[Path], None]) -> None:
    write(lab / "out")
    stream = lab.stream("out")
    assert stream.written == BLOCKS * PAGE
    assert stream.bursts == 1
    assert lab.seen.pids(f"{lab.name}/out") == {os.getpid()}
    if write is not by_mapping:  # the page that is written is read first
        assert stream.reads == 0
        assert stream.touches == ()


def test_large_writes_count_all_their_pages(lab: Lab) -> None:
    """They make folios of up to 512 pages dirty, each told once."""
    with (lab / "out").open("wb", buffering=0) as file:
        for _ in range(3):
            assert file.write(bytes(4 << 20)) == 4 << 20
    assert lab.stream("out").written == 12 << 20


def test_what_is_passed_through_is_known_in_pages(lab: Lab) -> None:
    """And a page that is written again, dirty still, is no event; FUSE is asked each time."""
    fd = opened(lab / "out")
    for offset in (0, 1000, 2000, 3 * PAGE):
        assert os.pwrite(fd, bytes(1000), offset) == 1000
    os.close(fd)
    assert lab.stream("out").written == (2 * PAGE if lab.mode == "passthrough" else 4000)


def test_written_again_after_it_went_to_the_disk(lab: Lab) -> None:
    fd = opened(lab / "out")
    for _ in range(3):
        assert os.pwrite(fd, DATA, 0) == len(DATA)
        os.fsync(fd)
    os.close(fd)
    assert lab.stream("out").written == 3 * len(DATA)


def test_read_and_written(lab: Lab) -> None:
    """By one process: the books of reads know nothing of the writes."""
    lab.make("data")
    posix.run(lambda: (lab / "data").read_bytes())
    fd = opened(lab / "data")
    for block in range(BLOCKS):
        assert len(os.pread(fd, PAGE, block * PAGE)) == PAGE
    os.fsync(fd)
    assert os.pwrite(fd, DATA[:PAGE], 0) == PAGE
    os.close(fd)
    stream = lab.stream("data")
    assert stream.reads == BLOCKS
    assert stream.written >= PAGE
    assert stream.bursts == 1


def test_a_prime_number_of_files_each_written_once(lab: Lab) -> None:
    names = [f"{number:03}" for number in range(211)]
    lab.source.joinpath("out").mkdir()
    for name in names:
        (lab / "out" / name).write_bytes(DATA[:PAGE])
    lab.seen.settle()
    for name in names:
        stream = lab.seen.stream(f"{lab.name}/out/{name}")
        assert (stream.written, stream.bursts, stream.reads) == (PAGE, 1, 0)


def test_bursts_are_parted_by_pauses(lab: Lab) -> None:
    fd = opened(lab / "out")
    for block in range(3):
        if block:
            time.sleep(PAUSE)
        assert os.pwrite(fd, DATA[: 2 * PAGE], 2 * block * PAGE) == 2 * PAGE
    os.close(fd)
    stream = lab.stream("out")
    assert (stream.written, stream.bursts) == (6 * PAGE, 3)


def test_a_file_that_gets_the_inode_number_of_another(tmp_path: Path) -> None:
    """As checkpoints do that come and go: each has books of its own. The daemon says which it is."""
    gates.require("bpf")
    path = tmp_path / "file"
    path.touch()
    probe = trio.run(Loading(tmp_path / "state", "btf").result)
    try:
        fd = opened(path)
        key = ffi.new("struct swp_file *", {"ino": path.stat().st_ino, "dev": device_of(fd)})
        probe.configure(0xFFFFFFFF, key.dev, key.dev)
        word = ffi.new("uint32_t *", key.ino % 262144 // 64)

        def work() -> None:
            for node in (7, 8):
                assert not lib.sw_map_update(
                    probe.watched_fd, key, ffi.new("struct swp_watch *", {"node": node})
                )
                bits = ffi.new("struct swp_filter *", {"bits": 1 << key.ino % 64, "epoch": node})
                assert not lib.sw_map_update(probe.filter_fd, word, bits)
                assert os.pwrite(fd, DATA, node * len(DATA)) == len(DATA)
                assert os.pread(fd, PAGE, node * len(DATA)) == DATA[:PAGE]
            time.sleep(PAUSE)
            assert os.pwrite(fd, DATA[:PAGE], 0) == PAGE

        posix.run(work)
        rows = {row.node: row.cursor for row in records.rows(probe.cursors(0.0))}
        left = [row.node for row in records.rows(probe.cursors(0.0))]
    finally:
        os.close(fd)
        probe.close()
    assert {node: (row.written, row.bursts, row.reads) for node, row in rows.items()} == {
        7: (len(DATA), 1, 1),
        8: (len(DATA) + PAGE, 2, 1),
    }
    assert left == [8], "what was ended is told once"


# --- who, and who not ---


def test_a_process_that_only_writes_is_known(lab: Lab) -> None:
    with posix.Child(lambda: by_write(lab / "out")) as child:
        child.wait()
    stream = lab.stream("out", child.pid)
    assert stream.written == BLOCKS * PAGE
    process = lab.seen.process(child.pid)
    assert process is not None
    assert process.comm == Path("/proc/self/comm").read_text().strip()
    lab.seen.wait_for(
        lambda: any(one.kind is TouchKind.EXIT and one.pid == child.pid for one in lab.seen.about),
        "its end was not told",
    )
    if lab.mode != "passthrough":
        assert lab.seen.waits[child.pid].writes == BLOCKS


def test_a_short_lived_writer_is_known_by_name(lab: Lab) -> None:
    """Its parent is known, so that it has the parent's name until it writes."""
    lab.make("file", pages=1)
    (lab / "file").read_bytes()
    lab.seen.settle()
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={lab / 'out'}", f"bs={PAGE}", f"count={BLOCKS}", "status=none"],
        check=True,
    )
    process = lab.seen.process(lab.pid("out"))
    assert process is not None
    assert process.comm == "dd"


def test_writes_elsewhere_are_not_seen(lab: Lab) -> None:
    beside = lab.daemon.base / "beside"  # on the disk of source and cache
    before = lab.seen.paths()
    by_write(beside)
    by_write(lab.source / "out")  # the source itself, not through the mount
    lab.seen.settle()
    assert lab.seen.paths() == before


def test_the_daemon_is_not_seen_to_write(lab: Lab) -> None:
    """It fills cache files, and copies what copy_file_range asks for."""
    lab.make("data", pages=512)
    source, target = opened(lab / "data"), opened(lab / "copy")
    assert os.copy_file_range(source, target, 16 * PAGE) == 16 * PAGE
    os.close(source)
    os.close(target)
    lab.seen.settle()
    assert lab.seen.pids(f"{lab.name}/copy") <= {os.getpid()}
    assert lab.daemon.pid not in {pid for path in lab.seen.paths() for pid in lab.seen.pids(path)}


def test_a_phase_is_told_from_writes_alone(lab: Lab) -> None:
    """The process reads nothing from the mount; its file has a model's name."""
    program = "import sys; open(sys.argv[1], 'wb').write(bytes(8 << 20)); print(flush=True); input()"
    argv = [sys.executable, "-c", program, str(lab / "model.pt")]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as writer:
        try:
            assert writer.stdout is not None
            writer.stdout.readline()
            lab.seen.settle()
            (job,) = [job for job in lab.seen.snapshot()["jobs"] if writer.pid == job["job"]]
        finally:
            writer.kill()
    assert job["written_bytes"] == 8 << 20
    assert job["phase"]["kind"] == "checkpoint save"
    # The phase was told when most of it was written: how much that is depends on when the maps were read.
    assert "MiB written to model.pt" in job["phase"]["evidence"]
