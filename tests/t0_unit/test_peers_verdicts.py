"""The comparison with other mounts: what it says of a row, and how much disk it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support import gates

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "bench/peers"))

from loads import NATIVE, RAW, ROWS, STORED, Row, Taken
from rig import MIB, Sample, Sizes
from room import BLOCK, LEFT, Plan, leave, refusal
from verdicts import Outcome, head, line, outcome

RUN = Path(__file__).resolve().parents[1] / "bench/peers/run.py"
WARM = Row("warm-seq", "seq", "page cache warm", "MB/s", 3.0)
COLD = Row("cold-seq", "seq", "nothing cached", "MB/s", 1.0, 0.9)


def said(row: Row, **sides: list[float]) -> Outcome:
    """Of rates in MB/s, one a round."""
    taken = Taken()
    for side, rates in sides.items():
        for rate in rates:
            taken.add(row.key, side, Sample(rate * 1e6, 1.0))
    found = outcome(row, taken)
    assert found is not None
    return found


def test_a_goal_that_native_misses_is_short_and_says_what_bounds_it() -> None:
    found = said(WARM, swmld=[6800, 6800], weed=[3100, 3100], rclone=[900, 900], native=[7100, 7100])
    assert found.verdict == "short: 2.2 of weed, 1.0 of native: native itself is 2.3 of weed"
    assert (found.best_peer, found.disk, found.raw) == ("weed", NATIVE, None)
    assert found.share == pytest.approx(6800 / 7100)
    assert found.row.goal == 3.0


def test_a_goal_within_the_disk_is_short_without_excuse() -> None:
    found = said(WARM, swmld=[2000], weed=[1000], native=[3000])
    assert (found.verdict, found.disk_best) == ("short", 3.0)
    assert said(WARM, swmld=[2000], weed=[1000]).verdict == "short"
    assert said(WARM, swmld=[3000], weed=[1000], native=[2000]).verdict == "ok"


def test_a_share_of_native_alone_meets_no_goal() -> None:
    found = said(WARM, swmld=[300], weed=[1000], native=[2900])
    assert found.verdict == "short: 0.30 of weed, 0.10 of native: native itself is 2.9 of weed"


def test_of_two_goals_only_that_out_of_reach_is_excused() -> None:
    found = said(COLD, swmld=[300], weed=[400], raw=[1300], stored=[600])
    assert found.verdict == "short: 0.23 of raw, 0.50 of stored: stored itself is 0.46 of raw"
    found = said(COLD, swmld=[300], weed=[800], raw=[1300], stored=[600])
    assert found.verdict == (
        "short: 0.38 of weed, 0.50 of stored: stored itself is 0.75 of weed; "
        "0.23 of raw, 0.50 of stored: stored itself is 0.46 of raw"
    )


def test_references_are_no_peers_and_ratios_are_of_the_same_round() -> None:
    found = said(
        COLD, swmld=[100, 200, 900], weed=[50, 100, 100], raw=[1000, 1000, 1000], stored=[200, 400, 900]
    )
    assert (found.best_peer, found.best, found.raw) == ("weed", 2.0, 0.2)
    assert (found.disk, found.share, found.disk_best) == (STORED, 0.5, 4.0)
    alone = said(COLD, swmld=[1300], raw=[1300], stored=[900])
    assert (alone.best, alone.best_peer, alone.disk_best, alone.verdict) == (None, "", None, "ok")


def test_less_memory_is_better() -> None:
    row = Row("memory-seq", "seq", "resident", "MiB", 0.5)
    assert said(row, swmld=[70], weed=[287], rclone=[60]).verdict == "ok"
    assert said(row, swmld=[187], weed=[287]).verdict == "short"


def test_the_table_has_goal_share_and_bound() -> None:
    found = said(WARM, swmld=[6800], weed=[3100], native=[7100])
    sides = ["swmld", "weed", RAW, STORED, NATIVE]
    shown = line(found, sides)
    assert shown.split()[:10] == ["warm-seq", "6,800", "3,100", "-", "-", "7,100", "MB/s", "2.19", "3", "-"]
    assert shown.split()[10:13] == ["-", "0.958", "short"]
    assert shown.endswith("page cache warm (2.2 of weed, 1.0 of native: native itself is 2.3 of weed)")
    assert head(sides).index("title") == shown.index("page cache")
    assert head(sides).index("/disk") == shown.index("0.958")


# --- disk ---

SIZES = replace(Sizes(), cold=1 << 30, cold_small=10_000)
SMALL_BYTES = 10_000 * 28 * BLOCK  # 110 KiB in blocks
EVERY = list(dict.fromkeys(row.group for row in ROWS))


def plan(*groups: str, peers: tuple[str, ...] = ("swmld",), rounds: int = 1, cache: int = 8 << 30) -> Plan:
    return Plan(peers, groups, rounds, SIZES, cache, 2)


def within(need: int, expected: int) -> bool:
    return expected <= need <= expected * 1.05 + 2 * (256 << 20)


def test_the_need_of_a_group_is_stock_caches_and_copies() -> None:
    one = SIZES.cold
    # The files twice, a cache, two copies of stored.c, and what raw checkpoints write.
    assert within(plan("seq").need(), 6 * one)
    assert within(plan("seq", rounds=3).need(), 2 * one + 3 * 3 * one + one)
    assert within(plan("small").need(), 5 * SMALL_BYTES + max(one, SMALL_BYTES))
    assert within(plan("seq", cache=one // 4).need(), 2 * one + one // 4 + 2 * one + one)
    assert within(plan("names").need(), one)
    # Volume servers keep what was removed.
    assert within(plan("write", rounds=2).need(), 2 * one + 2 * one + one)


def test_slow_groups_share_the_stock_and_make_no_copies() -> None:
    one = SIZES.cold
    assert within(plan("seq", "slow-seq").need(), 7 * one)


def test_peers_add_what_they_keep() -> None:
    one = SIZES.cold
    assert within(plan("seq", peers=("swmld", "weed")).need(), 2 * one + 4 * one + (8 << 30))
    assert within(plan("seq", peers=("swmld", "juicefs")).need(), 2 * one + 2 * one + 4 * one + one)


def test_an_emptied_run_grows_by_checkpoints_alone() -> None:
    peers = ("swmld", "weed", "juicefs", "rclone")
    runs = [replace(plan(*EVERY, peers=peers, rounds=n), emptied=True).need() for n in (1, 2)]
    visits = 4 * (len(EVERY) - 1) + 1  # swmld is alone in "back"
    assert within(runs[1] - runs[0], 5 * SIZES.cold + visits * LEFT)
    assert runs[1] < plan(*EVERY, peers=peers).need()


def test_too_little_disk_is_refused_in_one_line() -> None:
    assert refusal(10 << 30, 10 << 30, "/var/tmp", False) == ""
    told = refusal(11 << 30, 10 << 30, "/var/tmp", False)
    assert told.startswith("disk: this run takes up to 11.0 GiB, /var/tmp has 10.0 GiB free: ")
    assert "--emptied" in told
    assert "\n" not in told
    assert "--emptied" not in refusal(11 << 30, 10 << 30, "/var/tmp", True)


def test_run_ends_with_2_before_it_makes_anything(tmp_path: Path) -> None:
    gates.require("root", "fuse", "seaweedfs")
    argv = [sys.executable, str(RUN), "--quick", "--only", "swmld,weed"]
    argv += ["--cache", str(1 << 40), "--dir", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("disk: this run takes up to ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def _reserved(path: Path) -> None:
    """A page of bytes in a file that has a MiB of disk, as ``weed mount`` makes its cache."""
    path.touch()
    subprocess.run(["fallocate", "--keep-size", "--length", str(MIB), path], check=True)
    with path.open("r+b") as file:
        file.write(b"x" * BLOCK)
        os.fsync(file.fileno())


def test_what_a_visit_leaves_keeps_its_bytes_and_inodes(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    some, reserved = tmp_path / "some", tmp_path / "deep/reserved"
    some.write_bytes(b"y" * 100)
    _reserved(reserved)
    (tmp_path / "gone").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    assert reserved.stat().st_blocks * 512 >= MIB
    inodes = {path: path.lstat().st_ino for path in (some, reserved)}

    leave(tmp_path, emptied=False)
    assert reserved.stat().st_blocks * 512 < MIB
    assert (some.read_bytes(), reserved.read_bytes()) == (b"y" * 100, b"x" * BLOCK)

    leave(tmp_path, emptied=True)
    assert (some.stat().st_size, reserved.stat().st_size, reserved.stat().st_blocks) == (0, 0, 0)
    assert {path: path.lstat().st_ino for path in (some, reserved)} == inodes
