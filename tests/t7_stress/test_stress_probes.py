"""Ten minutes of fifty readers, each in its own way, again and again: the observer's memory stays flat.

With --stress; SWMLD_SOAK_SECONDS makes it shorter or longer.
"""

from __future__ import annotations

import mmap
import os
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support import posix
from support.mount import Daemon

pytestmark = [pytest.mark.stress, pytest.mark.timeout(1500)]

SECONDS = int(os.environ.get("SWMLD_SOAK_SECONDS", "600"))
READERS = 50
PAGE = 4096
GROWTH = 1.15  # of what it is after a third of the time


def resident_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS:")))


def small_files(mount: Path, dice: random.Random) -> None:
    names = os.listdir(mount / "small")
    dice.shuffle(names)
    for name in names[:200]:
        (mount / "small" / name).read_bytes()


def random_pages(mount: Path, dice: random.Random) -> None:
    with (mount / "big").open("rb", buffering=0) as file:
        for _ in range(500):
            os.pread(file.fileno(), PAGE, dice.randrange(4096) * PAGE)


def one_pass(mount: Path, dice: random.Random) -> None:
    with (mount / "big").open("rb", buffering=0) as file:
        while file.read(131072):
            pass


def mapped(mount: Path, dice: random.Random) -> None:
    with (mount / "big").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        for _ in range(200):
            view[dice.randrange(len(view))]


def forked(mount: Path, dice: random.Random) -> None:
    posix.Child(partial(small_files, mount, dice)).wait()


def test_fifty_readers_for_ten_minutes(daemon: Callable[..., Daemon]) -> None:
    one = daemon(options=["--probe", "ebpf"])
    (one.source / "small").mkdir()
    for number in range(2000):
        (one.source / "small" / f"{number:05}").write_bytes(os.urandom(5000))
    (one.source / "big").write_bytes(os.urandom(4096 * PAGE))
    until = time.monotonic() + SECONDS

    def reader(seed: int) -> None:
        dice = random.Random(seed)
        works = (small_files, random_pages, one_pass, mapped, forked)
        while time.monotonic() < until:
            works[seed % len(works)](one.mount, dice)
            time.sleep(0.05)  # fifty of them on two cores: the load, not a wait for something

    children = [posix.Child(partial(reader, seed)) for seed in range(READERS)]
    begun = time.monotonic()
    memory: list[tuple[int, float]] = []  # seconds, MiB
    while time.monotonic() < until:
        time.sleep(SECONDS / 60)
        memory.append((round(time.monotonic() - begun), round(resident_kib(one.pid) / 1024, 1)))
    for child in children:
        child.wait(120)
    early, late = (max(size for _, size in part) for part in (memory[10:20], memory[-10:]))
    said = "\n".join(f"{at:5} s {size:6.1f} MiB" for at, size in memory)
    print(said)
    assert late <= early * GROWTH, f"{late} MiB resident, {early} after a third of the time:\n{said}"
    probe = one.call("patterns")["probe"]
    assert probe["how"] == "btf"
    assert not any(probe["lost"].values()), probe
