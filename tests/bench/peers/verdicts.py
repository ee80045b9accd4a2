"""What the samples of a row say: rates by side, swmld's ratios, and whether a goal is met or out of reach."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from loads import NATIVE, RATE, RAW, REFERENCES, STORED, Row, Taken
from report import spread
from rig import MIB


@dataclass
class Outcome:
    """A row of the table. Rates in the row's unit, by side; ratios of swmld, medians of the rounds'.

    ``disk`` is the side that bounds what a mount can reach on this machine (``STORED`` or ``NATIVE``, empty
    in rows without one), ``share`` swmld's ratio to it; ``disk_best`` and ``disk_raw`` are its own ratios to
    ``best_peer`` and to raw: what swmld's would be if it was as fast as the disk.
    """

    row: Row
    values: dict[str, float]
    best: float | None = None
    best_peer: str = ""
    raw: float | None = None
    disk: str = ""
    share: float | None = None
    disk_best: float | None = None
    disk_raw: float | None = None
    ratios: list[float] = field(default_factory=list)
    spread: float = 0.0

    @property
    def word(self) -> str:
        """ "ok" or "short", of all of the row's goals; empty where it has none."""
        met = [self._met(ratio, goal) for ratio, goal, *_ in self._goals()]
        return ("ok" if all(met) else "short") if met else ""

    @property
    def bound(self) -> str:
        """By how much goals were missed that the disk itself misses; empty where there is none."""
        told = []
        for ratio, goal, of, limit in self._goals():
            if self.share is None or limit is None:
                continue
            if not self._met(ratio, goal) and not self._met(limit, goal):
                told.append(
                    f"{_short(ratio)} of {of}, {_short(self.share)} of {self.disk}: "
                    f"{self.disk} itself is {_short(limit)} of {of}"
                )
        return "; ".join(told)

    @property
    def verdict(self) -> str:
        """``word``, with ``bound`` where there is one."""
        return f"{self.word}: {self.bound}" if self.bound else self.word

    def _goals(self) -> list[tuple[float, float, str, float | None]]:
        """Those there are: ratio, goal, to what, and the ratio of the disk itself."""
        every = (
            (self.best, self.row.goal, self.best_peer, self.disk_best),
            (self.raw, self.row.raw_goal, RAW, self.disk_raw),
        )
        return [
            (ratio, goal, of, limit)
            for ratio, goal, of, limit in every
            if ratio is not None and goal is not None
        ]

    def _met(self, ratio: float, goal: float) -> bool:
        return ratio <= goal if self.row.unit == "MiB" else ratio >= goal


def outcome(row: Row, taken: Taken) -> Outcome | None:
    """What the samples of a row say; None where there are none."""
    by_side = taken.samples.get(row.key)
    if not by_side:
        return None
    scale = {"MB/s": 1e6, "/s": 1.0, "MiB": float(MIB)}[row.unit]
    rates = {side: [sample.rate / scale for sample in samples] for side, samples in by_side.items()}
    found = Outcome(row, {side: statistics.median(each) for side, each in rates.items()})
    own = rates.get("swmld")
    if own is None:
        return found
    found.spread = spread(own)
    peers = {side: value for side, value in found.values.items() if side not in (*REFERENCES, "swmld")}
    if row.unit == "MiB":
        peers = {side: value for side, value in peers.items() if side == "weed"}
    if peers:
        found.best_peer = max(peers, key=lambda side: peers[side])
        found.ratios = _ratios(own, rates[found.best_peer])
        found.best = statistics.median(found.ratios)
    if row.key == "slow-seq":
        found.raw = statistics.median(own) / (RATE / 1e6)
    elif RAW in rates:
        found.raw = statistics.median(_ratios(own, rates[RAW]))
    found.disk = next((side for side in (STORED, NATIVE) if side in rates), "")
    if found.disk:
        disk = rates[found.disk]
        found.share = statistics.median(_ratios(own, disk))
        if peers:
            found.disk_best = statistics.median(_ratios(disk, rates[found.best_peer]))
        if RAW in rates:
            found.disk_raw = statistics.median(_ratios(disk, rates[RAW]))
    return found


def _ratios(some: Sequence[float], others: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(some, others, strict=False)]


def head(sides: Sequence[str]) -> str:
    columns = "".join(f"{side:>10}" for side in sides)
    ratios = f"{'best':>7}{'goal':>6}{'/raw':>7}{'goal':>6}{'/disk':>7}"
    return f"{'row':<17}{columns} {'unit':<5}{ratios} {'':<11}  title"


def line(found: Outcome, sides: Sequence[str]) -> str:
    row = found.row
    columns = "".join(f"{_number(found.values.get(side)):>10}" for side in sides)
    compared = ((found.best, 7), (row.goal, 6), (found.raw, 7), (row.raw_goal, 6), (found.share, 7))
    ratios = "".join(f"{_number(value):>{width}}" for value, width in compared)
    noise = f"±{found.spread:.0%}" if found.spread else ""
    bound = f" ({found.bound})" if found.bound else ""
    return f"{row.key:<17}{columns} {row.unit:<5}{ratios} {found.word:<6}{noise:>5}  {row.title}{bound}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _short(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio >= 0.95 else f"{ratio:.2f}"
