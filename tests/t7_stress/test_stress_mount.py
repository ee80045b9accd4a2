"""Minutes of mixed work: nothing read wrong, nothing leaked, no request too slow. With --stress."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support import posix
from support.mount import Daemon
from support.slowfs import SlowFs

pytestmark = [pytest.mark.stress, pytest.mark.timeout(900)]

CHUNK = 65_536
SECONDS = 120
WORST_WARM = 2.0  # seconds that a warm open, read and close may take on two busy cores


def content(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)


def resident_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("Pss:")))


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def settled(daemon: Daemon, limit: int, seconds: float = 30) -> int:
    """Descriptors once what was closed is let go of; fails above the limit."""
    deadline = time.monotonic() + seconds
    while descriptors(daemon.pid) > limit and time.monotonic() < deadline:
        time.sleep(0.1)
    assert descriptors(daemon.pid) <= limit
    return descriptors(daemon.pid)


def test_mixed_work_leaks_nothing(daemon: Callable[..., Daemon]) -> None:
    one = daemon(options=["--chunk-size", "64KiB", "--cache-size", "64MiB"], expect_log=["."])
    sizes = {f"{number}": 1 + number * 7919 % 600_000 for number in range(400)}
    for name, size in sizes.items():
        (one.source / name).write_bytes(content(name, size))
    time.sleep(0.1)
    until = time.monotonic() + SECONDS

    def read(seed: int) -> float:
        dice, worst = random.Random(seed), 0.0
        while time.monotonic() < until:
            name = dice.choice(list(sizes))
            start = time.monotonic()
            assert (one.mount / name).read_bytes() == content(name, sizes[name]), name
            worst = max(worst, time.monotonic() - start)
        return worst

    def write(seed: int) -> float:
        dice = random.Random(seed)
        while time.monotonic() < until:
            path = one.mount / f"w{seed}-{dice.randrange(20)}"
            data = dice.randbytes(dice.randrange(200_000))
            path.write_bytes(data)
            assert path.read_bytes() == data
            if dice.random() < 0.2:
                path.unlink()
        return 0.0

    before = descriptors(one.pid)
    workers = [read] * 6 + [write] * 4
    children = [posix.Child(partial(work, seed)) for seed, work in enumerate(workers)]
    memory = []
    while time.monotonic() < until:
        time.sleep(5)
        memory.append(resident_kib(one.pid))
    for child in children:
        child.wait(60)
    settled(one, before + 30)
    half = len(memory) // 2
    assert max(memory[half:]) < max(memory[:half]) * 1.3 + 20_000, f"memory grows: {memory}"
    assert one.status()["cache"]["bytes"] <= 64 << 20


def test_slow_source_under_load_keeps_warm_reads_quick(daemon: Callable[..., Daemon], base: Path) -> None:
    (base / "backing").mkdir()
    sizes = {f"warm{number}": 60_000 for number in range(50)} | {f"cold{n}": 4_000_000 for n in range(60)}
    for name, size in sizes.items():
        (base / "backing" / name).write_bytes(content(name, size))
    with SlowFs(base, base / "backing", read_ms=20, meta_ms=5, rate=100) as slow:
        one = daemon(source=slow.path, options=["--chunk-size", "1MiB"])
        for number in range(50):
            (one.mount / f"warm{number}").read_bytes()

        def cold(seed: int) -> None:
            for name in random.Random(seed).sample([name for name in sizes if name.startswith("cold")], 20):
                assert (one.mount / name).read_bytes() == content(name, sizes[name])

        readers = [posix.Child(partial(cold, seed)) for seed in range(4)]
        worst = 0.0
        for number in range(500):
            start = time.monotonic()
            (one.mount / f"warm{number % 50}").read_bytes()
            worst = max(worst, time.monotonic() - start)
        for child in readers:
            child.wait(300)
        one.stop()
    assert worst < WORST_WARM


def test_many_restarts(daemon: Callable[..., Daemon]) -> None:
    one = daemon(options=["--chunk-size", "64KiB"], expect_log=["."])
    names = [f"{number}" for number in range(30)]
    for name in names:
        (one.source / name).write_bytes(content(name, 200_000))
    time.sleep(0.1)
    dice = random.Random(1)
    for _ in range(40):
        for name in dice.sample(names, 10):
            assert (one.mount / name).read_bytes() == content(name, 200_000)
        if dice.random() < 0.5:
            one.kill9()
            one.start()
        else:
            one.restart()
    for name in names:
        assert (one.mount / name).read_bytes() == content(name, 200_000)


def test_a_million_names(daemon: Callable[..., Daemon]) -> None:
    """Known files cost memory: at most 500 MiB for a million, the promise."""
    one = daemon()
    for directory in range(100):
        (one.source / f"{directory}").mkdir()
        fd = os.open(one.source / f"{directory}", os.O_RDONLY)
        for number in range(10_000):
            os.mknod(f"{number}", 0o100644, dir_fd=fd)
        os.close(fd)
    for directory in range(100):
        for entry in os.scandir(one.mount / f"{directory}"):
            entry.stat()
    assert resident_kib(one.pid) < 500 * 1024
