"""Results of the benchmarks: rows, verdicts, the table and the JSON file."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rig import Sample

NOISY = 0.1  # relative spread of the rounds' ratios: above it a verdict near the goal is a guess
MORE = 3  # times the rounds that are taken where they disagree

Pairs = list[tuple[Sample, Sample]]  # (native, mount), one a round


@dataclass
class Result:
    """One row. ``ratio`` is what the goal is about; larger is better unless ``most``."""

    key: str
    title: str
    unit: str  # "MB/s", "/s", "MiB", "s"
    goal: float | None
    ratio: float
    native: float | None = None  # in ``unit``; the disk's own file system, or what the goal compares with
    mount: float | None = None
    ratios: list[float] = field(default_factory=list)  # one a round
    most: bool = False  # ``goal`` is an upper limit and ``ratio`` is the value itself
    note: str = ""
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return ""
        good = self.ratio <= self.goal if self.most else self.ratio >= self.goal
        return "ok" if good else "short"

    @property
    def best(self) -> float | None:
        """Ratio of the two best samples: what is left of the median's noise when others slow every round."""
        if "native" not in self.samples:
            return None
        top = {side: max(sample.rate for sample in taken) for side, taken in self.samples.items()}
        return top["mount"] / top["native"]

    @property
    def spread(self) -> float:
        """See ``spread``."""
        return spread(self.ratios)


def spread(ratios: list[float]) -> float:
    """How far rounds disagree: half the distance of the quartiles (of lowest and highest, for a few), over
    the median."""
    if len(ratios) < 2:
        return 0.0
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 4 else (min(ratios), 0, max(ratios))
    return (high - low) / 2 / statistics.median(ratios)


def between(ratios: list[float]) -> tuple[float, float]:
    """Where the median of all rounds that could be taken lies, at 95 %: two of the rounds' own ratios, by how
    many of them may lie on one side of it (binomial), whatever their distribution. Of fewer than six: all."""
    ranked, count = sorted(ratios), len(ratios)
    outside = place = 0
    while True:
        outside += math.comb(count, place)
        if outside / 2**count > 0.025 or 2 * place + 1 >= count:
            break
        place += 1
    cut = max(0, place - 1)
    return ranked[cut], ranked[count - 1 - cut]


def enough(ratios: list[float], rounds: int, most: int) -> bool:
    """Whether this many rounds will do: ``rounds``, more while they disagree."""
    if len(ratios) < rounds:
        return False
    return rounds == 1 or len(ratios) >= most or spread(ratios) <= NOISY


def take(rounds: int, one: Callable[[int], tuple[Sample, Sample]], most: int | None = None) -> Pairs:
    """Rounds (numbered) until there are enough; at most ``most`` (``MORE`` times ``rounds``)."""
    pairs: Pairs = []
    while not enough([mount.rate / native.rate for native, mount in pairs], rounds, most or MORE * rounds):
        pairs.append(one(len(pairs)))
    return pairs


def compare(key: str, title: str, unit: str, goal: float | None, pairs: Pairs) -> Result:
    """A row from rounds of (native, mount) samples: the median of the rounds' own ratios.

    The two samples of a round lie next to each other in time, so what else the machine does hits both; a
    ratio of two medians would mix rounds.
    """
    scale = 1e6 if unit == "MB/s" else 1.0
    ratios = [mount.rate / native.rate for native, mount in pairs]
    return Result(
        key,
        title,
        unit,
        goal,
        statistics.median(ratios),
        statistics.median(native.rate for native, _ in pairs) / scale,
        statistics.median(mount.rate for _, mount in pairs) / scale,
        ratios,
        note=share(pairs[-1][1]),
        samples={"native": [a for a, _ in pairs], "mount": [b for _, b in pairs]},
    )


def share(sample: Sample) -> str:
    """What the daemon did in one sample: requests in C, in Python, reads and opens by kind, its CPU time."""
    moved = sample.requests
    in_c = sum(n for key, n in moved.items() if key.startswith("requests ") and not key.endswith("python"))
    python = moved.get("requests python", 0)
    parts = [f"C {in_c:.0f}, py {python:.0f}"]
    parts += [
        f"{key.partition(' ')[2]} {key.partition(' ')[0]} {n:.0f}"
        for key, n in moved.items()
        if key.startswith(("opens", "reads", "fetches"))
    ]
    parts.append(f"cpu {sample.daemon_cpu:.2f} of {sample.seconds:.2f} s")
    return ", ".join(parts)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


HEAD = (
    f"{'row':<20}{'native':>10}{'mount':>10} {'unit':<5}{'ratio':>7}{'goal':>6} {'':<6}{'best':>5}"
    f"{'spread':>11}  note"
)


def line(row: Result) -> str:
    """One line of the table."""
    ratio = f"{row.ratio:.2f}" if row.ratio < 100 else f"{row.ratio:,.0f}"
    goal = "-" if row.goal is None else f"{row.goal:g}"
    best = "" if row.best is None else f"{row.best:.2f}"
    noise = f"±{row.spread:.0%}" + ("!" if row.spread > NOISY else "") + f" of {len(row.ratios)}"
    return (
        f"{row.key:<20}{_number(row.native):>10}{_number(row.mount):>10} {row.unit:<5}{ratio:>7}{goal:>6}"
        f" {row.verdict:<6}{best:>5}{noise if row.ratios else '':>11}  {row.note}"
    )


def machine(base: Path, **about: Any) -> dict[str, Any]:
    """What the numbers depend on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "memory_bytes": memory,
        "file_system": _said("findmnt", "-no", "FSTYPE", "-T", str(base)),
        "revision": _said("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"),
        "load_at_start": os.getloadavg()[0],
        **about,
    }


def _said(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()


def save(path: Path, about: dict[str, Any], rows: list[Result]) -> None:
    """All rows with all samples, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = [asdict(row) | {"verdict": row.verdict, "spread": row.spread, "best": row.best} for row in rows]
    path.write_text(json.dumps(about | {"rows": body}, indent=1) + "\n")
