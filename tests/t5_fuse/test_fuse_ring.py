"""Requests over io_uring: the same bytes, and nothing of the host is left changed."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.mount import Daemon

PARAMETER = Path("/sys/module/fuse/parameters/enable_uring")
CHUNK = 65_536


@pytest.fixture
def ring(daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon that is asked for the ring, where kernel and mode have it."""
    one = daemon(options=["--fuse-uring", "--chunk-size", "64KiB"])
    if one.mode == "python":
        pytest.skip("the ring is for what C answers")
    refused = [line for line in one.status()["fallbacks"] if "io_uring" in line]
    if refused:
        pytest.skip(refused[0])
    return one


def test_bytes_names_and_writes(ring: Daemon) -> None:
    dice = random.Random(5)
    sizes = {f"f{number}": dice.randrange(1, 5 * CHUNK) for number in range(60)}
    bytes_of = {name: dice.randbytes(size) for name, size in sizes.items()}
    for name, data in bytes_of.items():
        (ring.source / name).write_bytes(data)
    for _ in range(2):
        for name, data in bytes_of.items():
            assert (ring.mount / name).read_bytes() == data
    assert sorted(os.listdir(ring.mount)) == sorted(bytes_of)
    (ring.mount / "new").write_bytes(b"n" * 3 * CHUNK)
    assert (ring.source / "new").read_bytes() == (ring.mount / "new").read_bytes() == b"n" * 3 * CHUNK
    (ring.mount / "new").rename(ring.mount / "moved")
    assert not (ring.source / "new").exists()
    (ring.mount / "moved").unlink()
    with pytest.raises(FileNotFoundError):
        (ring.mount / "moved").read_bytes()


def test_many_readers_at_once(ring: Daemon) -> None:
    data = {f"{number}": random.Random(number).randbytes(3 * CHUNK + number) for number in range(40)}
    for name, content in data.items():
        (ring.source / name).write_bytes(content)
    wrong: list[str] = []

    def read(seed: int) -> None:
        names = list(data)
        random.Random(seed).shuffle(names)
        wrong.extend(name for name in names if (ring.mount / name).read_bytes() != data[name])

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert wrong == []


def test_a_killed_daemon_leaves_a_mount_that_the_next_one_takes_over(ring: Daemon) -> None:
    (ring.source / "file").write_bytes(b"here")
    assert (ring.mount / "file").read_bytes() == b"here"
    before = PARAMETER.read_text()
    ring.kill9()
    ring.start()
    assert (ring.mount / "file").read_bytes() == b"here"
    assert PARAMETER.read_text() == before
