"""What processes run, by the libraries that they have mapped."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from swmld.observe import libraries
from swmld.observe.libraries import Program, Programs, mapped, short
from swmld.patterns.feed import Process

MAPS = """\
55d0c0000000-55d0c0001000 r--p 00000000 fe:01 1234    /usr/bin/python3.11
55d0c1000000-55d0c1021000 rw-p 00000000 00:00 0       [heap]
7f0000000000-7f0000001000 r--p 00000000 fe:01 5       /opt/site-packages/torch/lib/libtorch_cpu.so
7f0000001000-7f0000002000 r-xp 00001000 fe:01 5       /opt/site-packages/torch/lib/libtorch_cpu.so
7f0000002000-7f0000003000 r-xp 00000000 fe:01 6       /opt/my dir/libodd name.so.1.2 (deleted)
7f0000003000-7f0000004000 r-xp 00000000 fe:01 7       /opt/new\\012line/libx.so
7f0000004000-7f0000005000 r--s 00000000 fe:01 8       /data/train.sonnet
7f0000005000-7f0000006000 r--s 00000000 fe:01 8       /data/lib.so.d/train.bin
7f0000006000-7f0000007000 r-xp 00000000 00:00 0       [vdso]
7f0000007000-7f0000008000 r-xp 00000000 00:00 0
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    return tmp_path


def running(proc: Path, pid: int, maps: str) -> None:
    (proc / str(pid)).mkdir(exist_ok=True)
    (proc / str(pid) / "maps").write_text(maps)


def test_libraries_of_a_maps_file(proc: Path) -> None:
    running(proc, 7, MAPS)
    assert mapped(str(proc), 7) == (
        "/opt/site-packages/torch/lib/libtorch_cpu.so", "/opt/my dir/libodd name.so.1.2",
        "/opt/new\nline/libx.so",
    )  # fmt: skip
    assert mapped(str(proc), 8) is None


def test_lines_that_reads_cut_and_files_that_are_too_large(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(proc, 7, MAPS)
    whole = mapped(str(proc), 7)
    monkeypatch.setattr(libraries, "_READ", 7)
    assert mapped(str(proc), 7) == whole
    monkeypatch.setattr(libraries, "MOST_BYTES", MAPS.index("/opt/my dir"))
    assert mapped(str(proc), 7) == whole[:1]  # type: ignore[index]
    monkeypatch.setattr(libraries, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(libraries, "MOST_LIBRARIES", 1)
    assert mapped(str(proc), 7) == whole[:1]  # type: ignore[index]


def test_this_process(tmp_path: Path) -> None:
    path = tmp_path / "libtorch_cpu.so"
    path.write_bytes(bytes(mmap.PAGESIZE))
    assert str(path) not in (mapped("/proc", os.getpid()) or ())
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        found = mapped("/proc", os.getpid())
        assert found is not None
        assert str(path) in found
        path.unlink()
        assert str(path) in (mapped("/proc", os.getpid()) or ())
    assert {"libc", "libtorch_cpu"} <= short(found)


def test_short_names() -> None:
    site = "/home/me/.venv/lib/python3.11/site-packages"
    assert short([
        "/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/libstdc++.so.6.0.30", "/lib64/ld-linux-x86-64.so.2",
        f"{site}/torch/lib/libtorch_cpu.so", f"{site}/torch/_C.cpython-311-x86_64-linux-gnu.so",
        f"{site}/safetensors/_safetensors_rust.abi3.so", f"{site}/numpy.libs/libopenblas-r0.3.so",
        "/usr/lib/python3/dist-packages/yaml/_yaml.so", f"{site}/re2.cpython-311-x86_64-linux-gnu.so",
    ]) == {
        "libc", "libstdc++", "ld-linux-x86-64", "libtorch_cpu", "torch", "_C", "_safetensors_rust",
        "safetensors", "libopenblas-r0.3", "numpy", "yaml", "_yaml", "re2",
    }  # fmt: skip
    assert short([]) == frozenset()


# ---- remembered


class World:
    """A clock that stands still, a /proc, and how often each process was looked at."""

    def __init__(self, proc: Path) -> None:
        self.now = 1000.0
        self.proc = proc
        self.looks = 0
        self.programs = Programs(self.frameworks_of, proc=str(proc), clock=lambda: self.now)

    def frameworks_of(self, paths: Sequence[str]) -> Sequence[str]:
        self.looks += 1
        return ["pytorch"] if any("libtorch" in path for path in paths) else []


@pytest.fixture
def world(proc: Path) -> World:
    return World(proc)


def process(pid: int, command: str = "python train.py", started: float = 500.0) -> Process:
    return Process(pid, pid, 1, "python", command, started, "", "")


LINE = "7f0000000000-7f0000001000 r-xp 00000000 fe:01 5    {}\n"
TORCH = LINE.format("/lib/libtorch_cpu.so")
PLAIN = LINE.format("/lib/libc.so.6")
PYTORCH = Program(frozenset({"libtorch_cpu"}), ("pytorch",))
NOTHING = Program(frozenset({"libc"}), ())


async def served(world: World, who: Process) -> Program | None:
    """As ``of`` says once what it asked for was looked at."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.programs.run)
        world.programs.of(who)
        with trio.fail_after(30):
            while world.programs._wanted or world.programs._under_way:  # noqa: ASYNC110
                await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    return world.programs.of(who)


@pytest.mark.trio
async def test_what_is_not_known_is_looked_at(world: World) -> None:
    running(world.proc, 7, TORCH)
    assert world.programs.of(process(7)) is None
    assert await served(world, process(7)) == PYTORCH
    assert await world.programs.look(process(7)) == PYTORCH
    assert world.looks == 1
    assert await served(world, process(8)) is None


@pytest.mark.trio
async def test_many_who_ask_at_once_look_once(world: World) -> None:
    running(world.proc, 7, TORCH)
    found: list[Program | None] = []

    async def look() -> None:
        found.append(await world.programs.look(process(7)))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(look)
    assert found == [PYTORCH] * 10
    assert world.looks == 1


@pytest.mark.trio
async def test_a_young_process_is_looked_at_again(world: World) -> None:
    """It imports its framework after its first read."""
    running(world.proc, 7, PLAIN)
    assert await world.programs.look(process(7)) == NOTHING
    running(world.proc, 7, TORCH)
    world.now += libraries.AGAIN[0] - 0.1
    assert await served(world, process(7)) == NOTHING
    world.now += 0.2
    assert world.programs.of(process(7)) == NOTHING, "what was known counts until then"
    assert await served(world, process(7)) == PYTORCH
    for wait in (*libraries.AGAIN[1:], libraries.SELDOM, libraries.SELDOM):
        world.now += wait + 0.1
        await served(world, process(7))
    assert world.looks == 4, "once its framework is known, the looks have an end"


@pytest.mark.trio
async def test_a_process_without_a_framework_is_looked_at_now_and_then(world: World) -> None:
    running(world.proc, 7, PLAIN)
    for wait in (0.0, *libraries.AGAIN, libraries.SELDOM, libraries.SELDOM / 2):
        world.now += wait + 0.1
        await served(world, process(7))
    assert world.looks == 5
    running(world.proc, 7, TORCH)
    world.now += libraries.SELDOM
    assert await served(world, process(7)) == PYTORCH


@pytest.mark.trio
async def test_another_process_or_program_of_the_same_number(world: World) -> None:
    running(world.proc, 7, TORCH)
    await world.programs.look(process(7))
    running(world.proc, 7, PLAIN)
    assert world.programs.of(process(7, started=600.0)) is None
    assert await world.programs.look(process(7, started=600.0)) == NOTHING
    changed = process(7, "python other.py", 600.0)
    running(world.proc, 7, TORCH)
    assert await world.programs.look(changed) == NOTHING, "a title that changes all the time"
    world.now += libraries.CHANGED
    assert await world.programs.look(changed) == PYTORCH


@pytest.mark.trio
async def test_what_is_remembered_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "REMEMBERED", 3)
    monkeypatch.setattr(libraries, "WAITING", 2)
    for pid in range(10, 20):
        running(world.proc, pid, TORCH)
        await world.programs.look(process(pid))
    assert list(world.programs._entries) == [17, 18, 19]
    for pid in range(20, 30):
        world.programs.of(process(pid))
    assert len(world.programs._wanted) == 2
