"""What rules bring: the same load through a mount without rules (``native`` here) and with them, both on a
source where each request takes 5 ms, which is what the rules are for.

``rules-ordered``   an epoch in listing order over small files, cold; without rules nothing is fetched ahead
                    (``--neighbours off``), so that the rule alone is measured
``rules-shuffled``  second and third epoch in random order over files of which half fit the cache: least
                    recently used, and ``no_evict`` (CoorDL's MinIO cache). Its note has the hits of both
``rules-random``    4 KiB reads at random places of a cached file: what decisions cost who needs none
``rules-tools``     ``tar``, ``grep -r`` and ``git status`` over a cached work tree, likewise
"""

from __future__ import annotations

import random
import resource
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from report import Pairs, Result, between, compare
from rig import CHECK_SECONDS, MIB, Rig, Sample, cpu_seconds
from support.mount import Daemon
from support.slowfs import SlowFs

DELAY_MS = 5
SIZE = 20 << 10
READERS = 4

ORDERED = """
rules:
  - id: next-files
    conditions: [{type: file_context, property: size, operator: less_than, value: 1MiB}]
    actions: [{type: prefetch, parameters: {next_files: 128}}]
"""
SHUFFLED = """
rules:
  - id: shuffled
    conditions: [{type: file_context, property: size, operator: less_than, value: 1MiB}]
    actions: [{type: cache, parameters: {strategy: no_evict}}, {type: prefetch, parameters: {enabled: false}}]
"""
OFF = ["--neighbours", "off"]


def ruled(rig: Rig, wanted: list[str]) -> Iterator[Result]:
    """Rows named in ``wanted``."""
    backing = rig.directory("rules/backing")
    names: list[str] = []
    if {"rules-ordered", "rules-shuffled"} & set(wanted):
        names = rig.make(backing, rig.sizes.rule_files, SIZE)
    if "rules-random" in wanted:
        rig.make_big(backing / "big", rig.sizes.big // 4)
    for name, text in (("ordered", ORDERED), ("shuffled", SHUFFLED)):
        (rig.base / f"{name}.yaml").write_text(text)
    rig.settle()
    with SlowFs(rig.base / "rules", backing, read_ms=DELAY_MS, meta_ms=DELAY_MS, cache_seconds=1) as slow:
        if "rules-ordered" in wanted:
            yield _ordered(rig, slow.path, names)
        if "rules-shuffled" in wanted:
            yield _shuffled(rig, slow.path, names)
    if "rules-random" in wanted:
        yield _random(rig, backing)
    if "rules-tools" in wanted:
        yield _tools(rig)


def _rules(rig: Rig, name: str) -> list[str]:
    return ["--rules", str(rig.base / f"{name}.yaml")]


def _ordered(rig: Rig, source: Path, names: list[str]) -> Result:
    """One round: without rules 20,000 files take ten minutes."""
    taken: list[Sample] = []
    for side, options in (("off", OFF), ("on", [*OFF, *_rules(rig, "ordered")])):
        name = f"rules-ordered-{side}"
        listed = rig.list_of(name, rig.base / name / "mnt", names)
        with rig.serve(name, source, options) as daemon:
            rig.drop()
            taken.append(rig.sample(daemon, "files", listed, 1))
    pairs: Pairs = [(taken[0], taken[1])]
    return compare("rules-ordered", "small files in order, rules off and on", "/s", 3.0, pairs)


def _shuffled(rig: Rig, source: Path, names: list[str]) -> Result:
    """Half of the files fit; 4 KiB a file is what the cache counts besides."""
    half = ["--cache-size", str(len(names) * (SIZE + 4096) // 2), "--chunk-size", "64KiB"]
    taken: list[Sample] = []
    hits: list[float] = []
    for side, options in (("off", [*OFF, *half]), ("on", [*OFF, *half, *_rules(rig, "shuffled")])):
        name = f"rules-shuffled-{side}"
        with rig.serve(name, source, options) as daemon:
            orders = [random.Random(epoch).sample(names, len(names)) for epoch in range(3)]
            epochs = [rig.list_of(f"{name}.{n}", daemon.mount, order) for n, order in enumerate(orders)]
            rig.sample(daemon, "files", epochs[0], READERS)
            rig.drop()
            samples = [rig.sample(daemon, "files", listed, READERS) for listed in epochs[1:]]
        taken.append(Sample(sum(each.count for each in samples), sum(each.seconds for each in samples)))
        missed = sum(each.requests.get("reads miss", 0) for each in samples)
        hits.append(1 - missed / (2 * len(names)))
    pairs: Pairs = [(taken[0], taken[1])]
    row = compare("rules-shuffled", "shuffled epochs, half cached, LRU and no_evict", "/s", None, pairs)
    row.note = f"opens without a fetch: LRU {hits[0]:.0%}, no_evict {hits[1]:.0%}; {row.note}"
    return row


def _random(rig: Rig, source: Path) -> Result:
    pairs: Pairs = []
    with (
        rig.serve("rules-random-off", source) as off,
        rig.serve("rules-random-on", source, _rules(rig, "ordered")) as on,
    ):
        for daemon in (off, on):
            rig.sample(daemon, "seq", daemon.mount / "big", MIB)
        for _ in range(rig.sizes.rounds_short):
            taken = [
                rig.sample(daemon, "rand", daemon.mount / "big", 4096, rig.sizes.rand_warm)
                for daemon in (off, on)
            ]
            pairs.append((taken[0], taken[1]))
    return compare("rules-random", "random 4 KiB, rules off and on", "/s", 0.97, pairs)


TOOLS = (
    ["sh", "-c", 'tar -C "$0" -cf - . | cat >/dev/null', "{}"],  # to /dev/null itself tar reads nothing
    ["grep", "-rc", "nothing like this", "{}"],
    ["git", "-C", "{}", "status", "--short"],
)


FINE = 0.015
"""Half of the 3 % that are to be told."""


def _tools(rig: Rig) -> Result:
    """Passes of the three together a second; of each, files are opened once or twice, as work trees are by
    people. A run differs from the next by far more than 3 %, the median of many turns by less: the note says
    between which ratios it lies at 95 %, and the same of the CPU time (on over off, so more is worse), which
    knows nothing of who had to wait for a CPU."""
    tree = rig.directory("rules-tools/tree")
    rig.make(tree, rig.sizes.small, 4096)
    author = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
    for words in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "all"]):
        subprocess.run(["git", "-C", tree, *words], check=True, timeout=600)
    rig.settle()
    pairs: Pairs = []
    with (
        rig.serve("rules-tools-off", tree) as off,
        rig.serve("rules-tools-on", tree, _rules(rig, "ordered")) as on,
    ):
        for daemon in (off, on):
            for words in TOOLS:
                _use(rig, words, daemon, Sample(0, 0.0, requests={"cpu": 0.0}))
        while not _told(pairs, rig.sizes.rounds_fine):
            pairs.append(_turns(rig, off, on, len(pairs)))
    row = compare("rules-tools", "tar, grep and git status, rules off and on", "/s", 0.97, pairs)
    spent = [on.requests["cpu"] / off.requests["cpu"] for off, on in pairs]
    of_daemon = [statistics.median(pair[side].daemon_cpu for pair in pairs) for side in (0, 1)]
    row.note = (
        f"95 %: {_span(row.ratios)}; CPU of tools and daemon {statistics.median(spent):.3f}, {_span(spent)}; "
        f"of the daemon {of_daemon[0]:.3f} and {of_daemon[1]:.3f} s a round"
    )
    return row


def _span(ratios: list[float]) -> str:
    low, high = between(ratios)
    return f"{low:.3f} to {high:.3f}"


def _told(pairs: Pairs, rounds: int) -> bool:
    """Whether there are enough rounds, or so many that more would not tell it either."""
    if len(pairs) < rounds:
        return False
    low, high = between([on.rate / off.rate for off, on in pairs])
    return high - low <= 2 * FINE or len(pairs) >= 2 * rounds


def _turns(rig: Rig, off: Daemon, on: Daemon, number: int) -> tuple[Sample, Sample]:
    """Each tool four times, off, on, on, off or the other way round: what changes slowly hits both sides.
    They come so late that what was known of the source has to be looked at again, as people's do: where one
    came right after the other, rules had nothing to do soon."""
    first, second = (off, on) if number % 2 else (on, off)
    taken = {daemon: Sample(2, 0.0, requests={"cpu": 0.0}) for daemon in (off, on)}
    for words in TOOLS:
        for sides in ((first, second), (second, first)):
            time.sleep(CHECK_SECONDS)
            for daemon in sides:
                _use(rig, words, daemon, taken[daemon])
    return taken[off], taken[on]


def _use(rig: Rig, words: list[str], daemon: Daemon, sample: Sample) -> None:
    """One run of a tool is added to ``sample``: its time, and the CPU time of the daemon and, as ``cpu``, of
    both. What the daemon does after the tool has ended is not in it."""
    argv = ["nice", "-n", str(rig.nice), *(word.format(daemon.mount) for word in words)]
    cpu, of_tools, began = cpu_seconds(daemon.pid), _of_children(), time.monotonic()
    subprocess.run(argv, check=False, timeout=600, capture_output=True)
    sample.seconds += time.monotonic() - began
    spent = cpu_seconds(daemon.pid) - cpu
    sample.daemon_cpu += spent
    sample.requests["cpu"] += spent + _of_children() - of_tools


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
