"""What the probes cost a reader: ns per read, and in per cent, without a mount in between and with one.

    .venv/bin/python tests/bench/probe_cost.py [--rounds 8] [--way btf] [--dir DIR] [--nice -20]
                                               [--own | --sustained]

A file on the disk is watched as a cache file is when passthrough reads it; the same loop (``reader.c``, one
process, warm page cache) reads it with the probes detached and attached, a file beside it that nobody
watches, and calls getpid; fio reads the first, too. Detached and attached take turns; per cent are medians
(and quartiles) of the pairs' ratios, ns the difference of the best samples. fio's own loop is slower than
this one, and the mount's, too: there the same ns are fewer per cent.

The way ``empty`` is a program that does nothing, at the same tracepoint: what the kernel takes to call one.
``--own`` says what the programs themselves take, by the kernel's own count (``kernel.bpf_stats_enabled``)
less what it counts for the empty one: known to a ns or two where all else is lost in the noise.

``--sustained`` compares detached, attached and sampled, as reads are where they come too often for some
seconds: slices of the same length as the daemon's, made by the same code, at the weight that the default of
``--probe-rate`` gives. Then the same of whole daemons.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.mount import Daemon
from support.slowfs import compile_c
from swmld._native import ffi, lib
from swmld.config.models import Settings
from swmld.observe import libbpf
from swmld.observe.btf import LIBRARY, Btf
from swmld.observe.budget import LOOKS, Budget, Ledger
from swmld.observe.probe import Loading, Probe, device_of
from swmld.observe.sampler import SLICE
from swmld.observe.switch import ReadSwitch

SIZE = 64 << 20
READ = "mm_filemap_get_pages"
NOTHING = bytes.fromhex("b7000000000000009500000000000000")  # r0 = 0; exit
STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")
LOADS = {
    "watched 4 KiB random": ("rand", "watched", "4096", "400000"),
    "watched 64 KiB random": ("rand", "watched", "65536", "40000"),
    "watched 1 MiB sequential": ("seq", "watched", "1048576"),
    "watched mmap": ("mmap", "watched"),
    "elsewhere 4 KiB random": ("rand", "other", "4096", "400000"),
    "getpid": ("getpid", "4000000"),
}


LONG = {
    "watched 4 KiB random": ("rand", "watched", "4096", "800000"),
    "elsewhere 4 KiB random": ("rand", "other", "4096", "800000"),
}


def watch(probe: Probe, path: Path) -> None:
    """As native/bpf.c does for a backing file; the reader is another process than this one."""
    fd = os.open(path, os.O_RDONLY)
    dev, ino = device_of(fd), os.fstat(fd).st_ino
    os.close(fd)
    probe.configure(0xFFFFFFFF, dev, dev)
    key = ffi.new("struct swp_file *", {"ino": ino, "dev": dev})
    assert not lib.sw_map_update(probe.watched_fd, key, ffi.new("struct swp_watch *", {"node": 7}))
    word = ffi.new("uint32_t *", (ino & (262144 - 1)) // 64)
    bits = ffi.new("struct swp_filter *", {"bits": 1 << (ino & 63)})
    assert not lib.sw_map_update(probe.filter_fd, word, bits)


@contextlib.contextmanager
def attached(way: str, directory: Path) -> Iterator[int]:
    """Descriptor of the link of the program that sees reads."""
    if way == "empty":
        number = Btf.load().typedef(f"btf_trace_{READ}")
        assert number is not None
        program = libbpf.load(READ, NOTHING, number)
        link = libbpf.attach(READ, program)
        os.close(program)
        try:
            yield link
        finally:
            os.close(link)
        return
    probe = trio.run(Loading(directory / "state", way).result)
    try:
        watch(probe, directory / "watched")
        assert probe.switch is not None
        yield probe.switch._link
        lost = probe.lost()
        assert not any(lost.values()), lost
    finally:
        probe.close()


def sample(reader: Path, directory: Path, load: tuple[str, ...], nice: int) -> float:
    """Seconds per operation; per page for loads that count bytes."""
    argv = [str(directory / a) if a in ("watched", "other") else a for a in load]
    argv = ["nice", "-n", str(nice), str(reader), *argv]
    out = subprocess.run(argv, capture_output=True, text=True, check=True)
    count, seconds = map(float, out.stdout.split())
    return seconds / (count / 4096 if load[0] in ("seq", "mmap") else count)


def measure(way: str, rounds: int, directory: Path, nice: int) -> None:
    """Attached and detached take turns within seconds: a shared machine's speed drifts by more than what is
    looked for."""
    reader = compile_c(Path(__file__).with_name("reader.c"))
    taken: dict[str, Callable[[], float]] = {
        name: partial(sample, reader, directory, load, nice) for name, load in LOADS.items()
    }
    taken["watched, fio 4 KiB random"] = partial(fio, directory / "watched", 1, nice)
    print(f"\n{way}, {rounds} rounds: {os.uname().release}, load {os.getloadavg()[0]:.1f}")
    print(f"{'load':26}{'off ns':>9}{'on ns':>9}{'more ns':>9}{'median':>9}{'best':>8}{'quartiles':>16}")
    for name, take in taken.items():
        off, on = [], []
        for number in range(rounds):
            if number % 2:
                off.append(take())
            with attached(way, directory):
                on.append(take())
            if not number % 2:
                off.append(take())
        _row(name, off, on)


def own(rounds: int, directory: Path, nice: int) -> None:
    """ns of the program per read, less those of the empty one: quartiles of the rounds' pairs."""
    reader = compile_c(Path(__file__).with_name("reader.c"))
    before = STATISTICS.read_text()
    STATISTICS.write_text("1")
    print(f"\n{'program alone, ns per read':42}{'lower':>8}{'median':>8}{'upper':>8}")
    try:
        for name in ("watched 4 KiB random", "elsewhere 4 KiB random"):
            found = []
            for _ in range(rounds):
                took = {}
                for way in ("empty", "btf"):
                    with attached(way, directory) as link:
                        start = counted(link)
                        sample(reader, directory, LOADS[name], nice)
                        ns, runs = (b - a for a, b in zip(start, counted(link), strict=True))
                        took[way] = ns / runs
                found.append(took["btf"] - took["empty"])
            low, median, high = statistics.quantiles(found)
            print(f"{name:42}{low:8.1f}{median:8.1f}{high:8.1f}", flush=True)
    finally:
        STATISTICS.write_text(before)


@contextlib.contextmanager
def sampling(switch: ReadSwitch, weight: int) -> Iterator[None]:
    """As ``observe.sampler`` does it."""
    ended = threading.Event()

    def slices() -> None:
        ledger = Ledger(time.monotonic(), SLICE)
        while not ended.wait(max(0.0, ledger.due(weight) - time.monotonic())):
            stands_for = ledger.weight_at(time.monotonic())
            one = switch.slice(stands_for, SLICE)
            ledger.took(stands_for, one.began, one.ended)

    thread = threading.Thread(target=slices)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def sustained(rounds: int, directory: Path, nice: int) -> None:
    """ns per read: detached, attached, sampled, in turn."""
    reader = compile_c(Path(__file__).with_name("reader.c"))
    limit = Settings.model_fields["probe_rate"].default
    print(f"\nsustained, {rounds} rounds: {os.uname().release}, load {os.getloadavg()[0]:.1f}, limit {limit}")
    probe = trio.run(Loading(directory / "state", "btf").result)
    switch = probe.switch
    assert switch is not None
    try:
        watch(probe, directory / "watched")
        for name, load in LONG.items():
            taken: dict[str, list[float]] = {"off": [], "always": [], "sampled": []}
            weight = 0
            for number in range(rounds):
                for state in [*taken][number % 3 :] + [*taken][: number % 3]:
                    switch.detach()
                    context: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
                    if state == "always":
                        switch.attach()
                    if state == "sampled":
                        weight = weight_of(
                            1 / statistics.median(taken["always"] or taken["off"] or [1e-6]), limit
                        )
                        context = sampling(switch, weight)
                    with context:
                        taken[state].append(sample(reader, directory, load, nice))
            print(f"{name}, one slice of {SLICE * 1e3:.0f} ms in {weight}:")
            for state in ("always", "sampled"):
                _row(f"  {state}", taken["off"], taken[state])
    finally:
        probe.close()


def weight_of(rate: float, limit: float) -> int:
    budget = Budget(limit)
    return [budget.look(rate) for _ in range(LOOKS)][-1]


def sustained_mounts(rounds: int, directory: Path, nice: int) -> None:
    """fio on a mount: without probes, in its first seconds, and when it has run for some."""
    source = directory / "source"
    source.mkdir()
    (source / "file").write_bytes(os.urandom(SIZE))
    found: dict[str, list[float]] = {"off": [], "always": [], "sampled": []}
    used: list[float] = []
    for number in range(rounds):
        for state in [*found][number % 3 :] + [*found][: number % 3]:
            base = directory / f"{state}{number}"
            base.mkdir()
            options = ["--probe", "off" if state == "off" else "btf", "--check", "immutable"]
            options += ["--probe-rate", "0"] if state == "always" else []
            options += ["--state-dir", str(directory / "state")]
            with Daemon(base, source=source, options=options) as daemon:
                path = daemon.mount / "file"
                path.read_bytes()
                path.read_bytes()
                while state != "off" and "probes:" not in daemon.log.read_text():
                    time.sleep(0.1)
                if state == "sampled":
                    fio(path, 5, nice)
                    assert "--probe-rate" in daemon.log.read_text(), "not sampled"
                before = cpu(daemon)
                found[state].append(fio(path, 3, nice))
                if state == "sampled":
                    used.append((cpu(daemon) - before) / 3)
    print("mount, fio 4 KiB random:")
    for state in ("always", "sampled"):
        _row(f"  {state}", found["off"], found[state])
    print(f"daemon: {statistics.median(used):.1%} of a core")


def counted(link: int) -> tuple[int, int]:
    """ns and runs of a link's program so far."""
    library = ctypes.CDLL(LIBRARY, use_errno=True)
    program = library.bpf_prog_get_fd_by_id(int(said(link, "prog_id")))
    assert program >= 0, os.strerror(ctypes.get_errno())
    try:
        return int(said(program, "run_time_ns")), int(said(program, "run_cnt"))
    finally:
        os.close(program)


def said(fd: int, field: str) -> str:
    """By the kernel, of a descriptor."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return line.split()[1]
    raise LookupError(field)


def _row(name: str, off: list[float], on: list[float]) -> None:
    a, b = min(off), min(on)
    ratios = [y / x - 1 for x, y in zip(off, on, strict=True)]
    low, median, high = statistics.quantiles(ratios) if len(ratios) > 1 else ratios * 3
    print(
        f"{name:26}{a * 1e9:9.1f}{b * 1e9:9.1f}{(b - a) * 1e9:9.1f}{median:9.1%}{b / a - 1:8.1%}"
        f"{low:9.1%}{high:7.1%}",
        flush=True,
    )


def fio(path: Path, seconds: int, nice: int) -> float:
    """Seconds per read of 4 KiB cached random reads by fio."""
    argv = [
        "nice", "-n", str(nice), "fio", "--name=r", f"--filename={path}", "--rw=randread", "--bs=4k",
        "--readonly", "--ioengine=psync", "--invalidate=0", "--time_based", f"--runtime={seconds}",
        "--output-format=json",
    ]  # fmt: skip
    out = subprocess.run(argv, capture_output=True, text=True, check=True)
    return 1 / json.loads(out.stdout)["jobs"][0]["read"]["iops"]


def mounted(way: str, rounds: int, directory: Path, nice: int) -> None:
    """The same through a mount, with the daemon's own work: passthrough reads by fio."""
    source = directory / "source"
    source.mkdir()
    (source / "file").write_bytes(os.urandom(SIZE))
    found: dict[str, list[float]] = {"off": [], way: []}
    used: list[float] = []
    for number in range(rounds):
        for probe in ("off", way) if number % 2 else (way, "off"):
            base = directory / f"{probe}{number}"
            base.mkdir()
            with Daemon(base, source=source, options=["--probe", probe, "--check", "immutable"]) as daemon:
                path = daemon.mount / "file"
                path.read_bytes()
                path.read_bytes()
                while probe != "off" and "probes:" not in daemon.log.read_text():
                    time.sleep(0.1)
                before = cpu(daemon)
                found[probe].append(fio(path, 3, nice))
                if probe != "off":
                    used.append((cpu(daemon) - before) / 3)
    _row("mount, fio 4 KiB random", found["off"], found[way])
    print(f"daemon: {statistics.median(used):.1%} of a core at {1 / min(found[way]):,.0f} reads a second")


def cpu(daemon: Daemon) -> float:
    """Seconds of CPU that the daemon has used."""
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--way", action="append")
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--own", action="store_true")
    parser.add_argument("--sustained", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as directory:
        for name in ("watched", "other"):
            (Path(directory) / name).write_bytes(os.urandom(SIZE))
        os.sync()
        if options.own:
            own(options.rounds, Path(directory), options.nice)
            return
        if options.sustained:
            sustained(options.rounds, Path(directory), options.nice)
            sustained_mounts(max(2, options.rounds // 3), Path(directory), options.nice)
            return
        for way in options.way or ["empty", "btf", "tracepoint"]:
            measure(way, options.rounds, Path(directory), options.nice)
        for way in {*(options.way or ["btf"])} - {"empty"}:
            mounted(way, options.rounds, Path(directory), options.nice)


if __name__ == "__main__":
    main()
