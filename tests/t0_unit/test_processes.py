"""Who reads: job, container and command of processes, from a /proc made here and from the real one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from swmld.observe import processes, procfs
from swmld.observe.processes import LOOP, ProcessTable

HEX = "0123456789abcdef" * 4
SHORT = HEX[:12]
POD = "pod2f4b7c5e_9a1d_4e52_8c3b_1f0e5d6a7b8c"


class Proc:
    """A /proc with the files that are read, laid out as proc(5) says."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(
        self,
        pid: int,
        parent: int,
        comm: str = "python3",
        *,
        command: str = "",
        session: int = 1,
        ticks: int = 1000,
        cgroup: str = "0::/user.slice",
        environ: str = "",
        state: str = "S",
        threads: tuple[int, ...] = (),
    ) -> None:
        place = self.root / str(pid)
        place.mkdir(parents=True, exist_ok=True)
        fields = [state, parent, pid, session, *[0] * 15, ticks, 0, 0]
        (place / "stat").write_text(f"{pid} ({comm}) {' '.join(map(str, fields))}\n")
        (place / "cmdline").write_text((command or comm).replace(" ", "\0") + "\0" if state != "Z" else "")
        (place / "cgroup").write_text(cgroup + "\n")
        (place / "environ").write_text(environ.replace(" ", "\0"))
        for thread in (pid, *threads):
            (self.root / str(thread)).mkdir(exist_ok=True)
            (self.root / str(thread) / "status").write_text(
                f"Name:\t{comm}\nUmask:\t0022\nTgid:\t{pid}\nPid:\t{thread}\n"
            )

    def remove(self, *pids: int) -> None:
        for pid in pids:
            for file in (self.root / str(pid)).iterdir():
                file.unlink()
            (self.root / str(pid)).rmdir()


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    made = Proc(tmp_path / "proc")
    made.add(1, 0, "systemd", ticks=1)
    return made


@pytest.fixture
def table(proc: Proc) -> ProcessTable:
    return ProcessTable(proc.root)


def test_what_a_process_is(proc: Proc, table: ProcessTable) -> None:
    path = f"/system.slice/docker-{HEX}.scope"
    proc.add(7, 1, "a) (b", command="python  train.py --lr 0.1", ticks=250, cgroup=f"0::{path}")
    found = table.see(7)
    assert found == table.of(7)
    assert found[:5] == (7, 7, 1, "a) (b", "python train.py --lr 0.1")
    assert (found.cgroup, found.container) == (path, SHORT)
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    assert found.started == pytest.approx(booted + 250 / os.sysconf("SC_CLK_TCK"), abs=5)


def test_long_and_strange_commands(proc: Proc, table: ProcessTable) -> None:
    proc.add(7, 1, command="x" * 150 + " y" * 150)
    assert len(table.see(7).command) == 200
    (proc.root / "7" / "cmdline").write_bytes(b"p\xff\nq\0\0")
    assert table.see(7).command == "p\ufffd q"


# --- jobs


@pytest.mark.parametrize(
    ("chain", "root"),
    [
        # From the outermost parent to the reader; the root is the place of the job's root in it.
        (["sshd", "bash", "python3", "pt_data_worker"], 2),
        (["tmux: server", "zsh", "torchrun", "python3", "python3"], 2),
        (["tmux: server", "python3"], 1),
        (["bash", "make", "python3"], 2),
        (["bash", "sudo", "python3"], 2),
        (["bash", "timeout", "python3", "python3"], 2),
        (["containerd-shim", "tini", "python3", "python3"], 2),
        (["containerd-shim", "python3", "python3"], 1),
        (["slurmd", "slurmstepd", "python3"], 1),
        (["bash", "xargs", "cp"], 1),
        (["cron", "sh", "backup"], 2),
        (["bash"], 0),
        (["kthreadd", "nfsd"], 1),
        (["python3", "bash", "cp"], 2),
    ],
)
def test_a_job_begins_below_what_starts_unrelated_things(
    chain: list[str], root: int, proc: Proc, table: ProcessTable
) -> None:
    for place, comm in enumerate(chain):
        proc.add(100 + place, 99 + place if place else 1, comm, ticks=100 + place)
    assert table.see(99 + len(chain)).job == 100 + root
    # Also where the parents were met before.
    again = ProcessTable(proc.root)
    for place in range(len(chain)):
        found = again.see(100 + place)
    assert found.job == 100 + root


@pytest.mark.parametrize(
    ("above", "below", "together"),
    [
        ("0::/a", "0::/a", True),
        ("0::/a", "0::/b", False),
        ("0::/a", "", True),
        ("0::/job_7/step_0/slurm", "0::/job_7/step_0/user/task_1", True),
        ("0::/job_7/step_0/user/task_0", "0::/job_7/step_1/user/task_0", False),
    ],
)
def test_a_job_stays_in_its_control_group(
    above: str, below: str, together: bool, proc: Proc, table: ProcessTable
) -> None:
    proc.add(10, 1, cgroup=above)
    proc.add(11, 10, cgroup=below)
    assert table.see(11).job == (10 if together else 11)


@pytest.mark.parametrize(
    ("session", "environ", "job"),
    [
        (5, "", 10),
        (6, "", 11),
        (6, "A=1 LOCAL_RANK=0", 10),
        (6, "XLOCAL_RANK=0", 11),
        (0, "", 11),
        (-1, "", 10),
    ],
)
def test_a_job_stays_in_its_session_but_for_ranks(
    session: int, environ: str, job: int, proc: Proc, table: ProcessTable
) -> None:
    proc.add(10, 1, "torchrun", session=5)
    proc.add(11, 10, session=session, environ=environ)
    assert table.see(11).job == job


def test_the_kernels_word_for_a_process_that_is_gone(proc: Proc, table: ProcessTable) -> None:
    proc.add(10, 1, "python3", ticks=10)
    found = table.see(11, parent=10, comm=b"cp\0\0\0")
    assert found[:5] == (11, 10, 10, "cp", "")
    assert table.of(11) == found
    assert table.see(12, parent=99, comm=b"x")[:3] == (12, 12, 99), "nothing is known of its parent"


def test_the_first_parent_counts(proc: Proc, table: ProcessTable) -> None:
    """A worker that outlives its trainer keeps its job, and its own children get it."""
    proc.add(10, 1, ticks=10)
    proc.add(11, 10, ticks=11)
    table.see(11)
    proc.remove(10)
    table.exit(10)
    proc.add(11, 1, ticks=11)
    proc.add(12, 11, ticks=12)
    assert table.see(11)[:3] == (11, 10, 10)
    assert table.see(12).job == 10
    # Its parent ended before it was met: the kernel knew it.
    proc.add(13, 1, ticks=13)
    assert table.see(13, parent=10).job == 10


# --- loops of a shell


def seen(table: ProcessTable, *rows: tuple[int, int, bytes]) -> list[int]:
    """Jobs of commands that have ended before they are read, one after the other."""
    return [table.see(pid, parent=parent, comm=comm).job for pid, parent, comm in rows]


def test_a_shells_loop_over_files_is_one_job(proc: Proc, table: ProcessTable) -> None:
    proc.add(10, 1, "bash", ticks=10)
    rows = (11, 10, b"cp"), (12, 10, b"cp"), (13, 10, b"gzip"), (14, 10, b"cp")
    assert seen(table, *rows) == [11, 11, 13, 11]
    # Also those that are read while they live, and the next ones.
    proc.add(15, 10, "cp", ticks=15)
    assert table.see(15).job == 11
    proc.remove(15)
    table.exit(15)
    assert seen(table, (16, 10, b"cp")) == [11]


def test_another_shells_commands_are_another_job(proc: Proc, table: ProcessTable) -> None:
    proc.add(10, 1, "bash", session=10, ticks=10)
    proc.add(20, 1, "bash", session=20, ticks=10)
    proc.add(30, 1, "cron", session=0, ticks=10)
    assert seen(table, (11, 10, b"cp"), (21, 20, b"cp"), (12, 10, b"cp")) == [11, 21, 11]
    assert seen(table, (31, 30, b"cp"), (32, 30, b"cp")) == [31, 32], "no shell, no session"


@pytest.mark.parametrize("above", ["bash", "timeout", None])
def test_a_loop_is_known_by_its_session(above: str | None, proc: Proc, table: ProcessTable) -> None:
    """``$(cp a b)`` in a loop, or ``timeout 5 cp a b``: another parent each time, which may have ended before
    anybody looks, and has when the next one begins."""
    for number in range(3):
        parent = 50 + number
        if above is not None:
            proc.add(parent, 1, above, ticks=10)
        assert table.see(100 + number, parent=parent, comm=b"cp", session=9).job == 100
        if above is not None:
            proc.remove(parent)
    assert table.see(110, parent=50, comm=b"cp", session=8).job == 110


def test_loops_side_by_side_are_two_jobs(proc: Proc, table: ProcessTable) -> None:
    """``for f in ...; do cp $f x; done &``, twice in one shell: each runs in a fork of it."""
    proc.add(10, 1, "bash", session=10, ticks=10)
    proc.add(20, 10, "bash", session=10, ticks=20)
    proc.add(30, 10, "bash", session=10, ticks=20)
    rows = (101, 20, b"cp"), (102, 30, b"cp"), (103, 30, b"cp"), (104, 20, b"cp"), (105, 30, b"cp")
    assert seen(table, *rows) == [101, 102, 102, 101, 102]
    # What lives while the other loop's next command begins.
    proc.add(106, 20, "cp", session=10, ticks=30)
    assert table.see(106).job == 101
    assert seen(table, (107, 30, b"cp")) == [102]
    proc.remove(106)
    table.exit(106)
    assert seen(table, (108, 20, b"cp")) == [101]


def test_loops_side_by_side_by_what_started_each_command(proc: Proc, table: ProcessTable) -> None:
    """``n=$(cp a b | wc)`` or ``timeout 5 cp a b`` in both."""
    proc.add(10, 1, "bash", session=10, ticks=10)
    proc.add(20, 10, "bash", session=10, ticks=20)
    proc.add(30, 10, "bash", session=10, ticks=20)
    jobs = []
    for number in range(6):
        parent = 50 + number
        proc.add(parent, 30 if number % 2 else 20, "timeout", session=10, ticks=30)
        jobs.append(table.see(100 + number, parent=parent, comm=b"cp", session=10).job)
        proc.remove(parent)
    assert jobs == [100, 101] * 3
    # One whose shell was gone before it was read may be either's: no job of its own.
    assert table.see(110, parent=70, comm=b"cp", session=10).job in (100, 101)


def test_loops_side_by_side_by_what_the_kernel_names(proc: Proc, table: ProcessTable) -> None:
    """``timeout 5 cp a b`` in both, and each timeout gone before it is looked at: which shell's it was only
    the kernel knows. One loop ends before the other."""
    proc.add(10, 1, "bash", session=10, ticks=10)
    proc.add(20, 10, "bash", session=10, ticks=20)
    proc.add(30, 10, "bash", session=10, ticks=20)
    jobs = []
    for number, shell in enumerate([20, 30, 30, 20, 20, 30, 20, 30]):
        above = (shell, 10, 1)
        jobs.append(table.see(100 + number, 50 + number, b"cp", 10, above=above).job)
    assert jobs == [100, 101, 101, 100, 100, 101, 100, 101]
    proc.remove(30)
    assert table.see(110, 60, b"cp", 10, above=(20, 10, 1)).job == 100
    # Of a loop whose shell was gone before it was read nothing else is left.
    assert table.see(111, 61, b"cp", 10, above=(30, 10, 1)).job == 101


def test_a_parent_that_goes_while_it_is_looked_at(
    proc: Proc, table: ProcessTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there at the first look and gone at the second: nothing is known of it, and it is no job."""
    proc.add(10, 1, "bash", session=9, ticks=10)
    assert table.see(100, 50, b"cp", 9).job == 100
    proc.add(51, 10, "timeout", session=9, ticks=20)
    read = procfs.read

    def going(root: str, pid: int) -> procfs.Facts | None:
        if pid == 51 and (proc.root / "51").exists():
            proc.remove(51)
        return read(root, pid)

    monkeypatch.setattr(procfs, "read", going)
    assert table.see(101, 51, b"cp", 9).job == 100
    assert table.see(102, 51, b"cp", 9).job == 100, "what is kept of it says nothing"
    # The number is another's by now, who reads.
    assert table.see(51, 40, b"cp", 9, at=time.monotonic())[:4] == (51, 100, 40, "cp")


def test_a_command_that_is_just_being_waited_for(proc: Proc, table: ProcessTable) -> None:
    """It still has a name in /proc, and a session no more (do_task_stat())."""
    assert table.see(100, 50, b"cp", 9).job == 100
    proc.add(101, 0, "cp", session=-1, state="X")
    assert table.see(101, 51, b"cp", 9).job == 100


def test_a_pid_that_is_used_again_by_the_kernels_word(proc: Proc, table: ProcessTable) -> None:
    """Both are gone before they can be read: they began to read at different times."""
    now = time.monotonic()
    assert table.see(100, 50, b"cp", 9, now - 60)[:4] == (100, 100, 50, "cp")
    table.exit(100)
    assert table.see(100, 50, b"cp", 9, now - 60)[:4] == (100, 100, 50, "cp"), "late counters of it"
    assert table.see(102, 60, b"cp", 8, now - 1).job == 102
    assert table.see(100, 61, b"cp", 8, now)[:4] == (100, 102, 61, "cp")


def test_a_parent_whose_pid_was_used_before(proc: Proc, table: ProcessTable) -> None:
    """The end of what does not read is not told: before it is taken for a parent it is looked at."""
    proc.add(10, 1, "bash", ticks=10)
    proc.add(20, 10, "timeout", ticks=20)
    proc.add(21, 20, "python3", ticks=21)
    assert table.see(21).job == 21
    table.exit(21)
    proc.remove(20, 21)
    proc.add(20, 10, "torchrun", ticks=90)
    proc.add(31, 20, "python3", ticks=91)
    assert table.see(31).job == 20
    # The end of a reader is told: it was no parent of what began to read later.
    now = time.monotonic()
    assert table.see(60, 10, b"cp", 9, now - 9).job == 60
    table.exit(60, now - 8)
    assert table.see(61, 60, b"cp", 8, now - 8.5).job == 60
    assert table.see(62, 60, b"cp", 8, now - 7.5).job == 62
    # One that is gone before it is looked at, and had another parent than the one that is known.
    proc.remove(20)
    assert table.see(41, 20, b"cp", 9, above=(30, 10)).job == 41


def test_the_shell_of_a_loop_is_looked_at_beside_a_parent_that_is_known(
    proc: Proc, table: ProcessTable
) -> None:
    """What was read as it went has no parent any more (do_task_stat())."""
    proc.add(10, 1, "bash", session=9, ticks=10)
    proc.add(20, 10, "bash", session=9, ticks=20)
    proc.add(30, 10, "bash", session=9, ticks=20)
    for number, shell in enumerate((20, 30)):
        proc.add(50 + number, 0, "timeout", session=-1, ticks=30, state="X")
        assert table.see(100 + number, 50 + number, b"cp", 9, above=(shell, 10, 1)).job == 100 + number
        proc.remove(50 + number)
    assert table.see(102, 52, b"cp", 9, above=(20, 10, 1)).job == 100


def test_many_commands_side_by_side_are_bounded(
    proc: Proc, table: ProcessTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "SIDE_BY_SIDE", 3)
    proc.add(10, 1, "bash", session=10, ticks=10)
    for pid in range(20, 40):
        proc.add(pid, 10, "bash", session=10, ticks=20)
    seen(table, *((100 + pid, pid, b"cp") for pid in range(20, 40)))
    later = seen(table, *((200 + pid, pid, b"cp") for pid in (39, 38, 37, 36)))
    assert later == [139, 138, 137, 236]


def test_what_is_gone_cannot_tell_that_it_was_a_rank(proc: Proc, table: ProcessTable) -> None:
    proc.add(10, 1, "torchrun", session=5)
    assert table.see(11, parent=10, comm=b"python3", session=11).job == 10


def test_commands_side_by_side_are_jobs_of_their_own(proc: Proc, table: ProcessTable) -> None:
    proc.add(10, 1, "bash", ticks=10)
    for pid in (11, 12, 13):
        proc.add(pid, 10, "python3", ticks=pid)
    assert [table.see(pid).job for pid in (11, 12, 13)] == [11, 12, 13]
    # Asked again, and after one of them has ended, they are what they were.
    proc.remove(12)
    table.exit(12)
    assert [table.see(pid).job for pid in (11, 13)] == [11, 13]


def test_a_command_long_after_the_last_is_a_job_of_its_own(proc: Proc, table: ProcessTable) -> None:
    """By when they began to read, however late that is looked at."""
    proc.add(10, 1, "bash", ticks=10)
    assert table.see(11, 10, b"cp", 9, at=1000.0).job == 11
    assert table.see(12, 10, b"cp", 9, at=1000.0 + LOOP / 2).job == 11
    assert table.see(13, 10, b"cp", 9, at=1000.0 + 2 * LOOP).job == 13


def test_children_of_one_that_was_gone_before_it_was_read(table: ProcessTable) -> None:
    """A script that took a few milliseconds, or a loader whose workers did."""
    rows = (11, 99, b"cp"), (12, 99, b"cp"), (13, 98, b"cp"), (14, 99, b"cp")
    assert seen(table, *rows) == [11, 11, 13, 11]


def test_a_shells_fork_that_runs_a_command_and_is_gone(proc: Proc, table: ProcessTable) -> None:
    """The shell reads the mount itself, so that its forks are told."""
    proc.add(10, 1, "bash", ticks=10)
    table.see(10)
    for pid in (11, 12):
        table.fork(10, pid)
        table.exec(pid)
        assert table.see(pid, parent=10, comm=b"cp").job == 11
        table.exit(pid)


def test_remembered_loops_are_bounded(
    proc: Proc, table: ProcessTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "LOOPS", 2)
    proc.add(10, 1, "bash", ticks=10)
    seen(table, (11, 10, b"a"), (12, 10, b"b"), (13, 10, b"c"))
    assert seen(table, (14, 10, b"a"), (15, 10, b"c")) == [14, 13]


# --- fork, exec, exit, reuse


def test_a_fork_is_what_its_parent_is_until_it_runs_something_else(proc: Proc, table: ProcessTable) -> None:
    proc.add(10, 1, "python3", command="python3 train.py")
    table.see(10)
    proc.add(11, 10, "python3", command="python3 train.py", ticks=2000)
    table.fork(10, 11)
    child = table.of(11)
    assert child is not None
    assert child[:5] == (11, 10, 10, "python3", "python3 train.py")
    proc.add(11, 10, "cp", command="cp a b", ticks=2000)
    assert table.of(11) == child, "read on every call"
    table.exec(11)
    child = table.of(11)
    assert child is not None
    assert child[:5] == (11, 10, 10, "cp", "cp a b")


def test_a_shells_fork_is_a_job_also_if_it_was_never_read(proc: Proc, table: ProcessTable) -> None:
    proc.add(10, 1, "bash")
    table.see(10)
    table.fork(10, 11)
    table.exit(11)
    child = table.of(11)
    assert child is not None
    assert child[:4] == (11, 11, 10, "bash")


def test_a_parent_that_ran_a_shell_since(proc: Proc, table: ProcessTable) -> None:
    proc.add(10, 1, "python3")
    table.see(10)
    proc.add(10, 1, "bash")
    table.exec(10)
    proc.add(12, 10)
    assert table.see(12).job == 12
    proc.add(10, 1, "zsh")
    table.exec(10)
    table.fork(10, 11)
    child = table.of(11)
    assert child is not None
    assert child[:4] == (11, 11, 10, "zsh")


def test_children_of_the_unknown_are_not_kept(table: ProcessTable) -> None:
    table.fork(70, 71)
    table.exec(71)
    table.exit(71)
    assert (table.of(71), len(table)) == (None, 0)


def test_a_zombie_keeps_what_it_was(proc: Proc, table: ProcessTable) -> None:
    proc.add(10, 1, "python3", command="python3 train.py", cgroup=f"0::/docker/{HEX}")
    before = table.see(10)
    proc.add(10, 1, "python3", state="Z", cgroup="0::/")
    table.exec(10)
    table.exit(10)
    assert table.of(10) == before


def test_a_zombie_still_tells_what_it_ran(proc: Proc, table: ProcessTable) -> None:
    proc.add(10, 1, "python3", command="python3 train.py")
    table.see(10)
    table.fork(10, 11)
    table.exec(11)
    proc.add(11, 10, "cp", state="Z")
    table.exit(11)
    proc.remove(11)
    child = table.of(11)
    assert child is not None
    assert child[:5] == (11, 10, 10, "cp", "")


@pytest.mark.parametrize("told", [True, False], ids=["exit told", "exit lost"])
def test_a_pid_used_again_is_another_process(told: bool, proc: Proc, table: ProcessTable) -> None:
    proc.add(10, 1, "old", ticks=10)
    proc.add(11, 10, "child", ticks=11)
    table.see(11)
    if told:
        table.exit(10)
    proc.add(10, 1, "new", ticks=500)
    old, new = table.of(10), table.see(10)
    assert old is not None
    assert (old.comm, new.comm) == ("old", "new")
    assert new.started > old.started
    # The child was the old one's, what is forked now is the new one's.
    assert table.see(11).job == 10
    proc.add(12, 10, ticks=20)
    assert table.see(12).job == 12, "older than what has its parent's pid now"


def test_a_parents_pid_used_again(proc: Proc, table: ProcessTable) -> None:
    proc.add(10, 1, ticks=10)
    table.see(10)
    table.exit(10)
    proc.add(9, 1, ticks=400)
    proc.add(10, 9, ticks=500)
    proc.add(11, 10, ticks=600)
    assert table.see(11).job == 9


def test_a_fork_takes_a_pid_from_one_that_ended(proc: Proc, table: ProcessTable) -> None:
    proc.add(10, 1)
    table.see(10)
    for pid in (11, 12):
        table.see(pid, comm=b"old")
    table.fork(99, 11)
    assert table.of(11) is None
    table.fork(10, 12)
    table.exec(12)
    proc.add(12, 10, "cp", ticks=2000)
    child = table.of(12)
    assert child is not None
    assert (child.comm, child.job) == ("cp", 10)


def test_a_pid_used_again_after_an_end_that_nobody_saw(proc: Proc, table: ProcessTable) -> None:
    table.see(10, parent=5, comm=b"gone")
    proc.add(10, 1, "new")
    assert table.see(10)[:4] == (10, 10, 1, "new")
    table.exit(10)
    table.see(20)
    table.fork(20, 10)
    assert table.of(10) is not None


# --- threads


def test_threads_are_folded_into_their_process(proc: Proc, table: ProcessTable) -> None:
    proc.add(10, 1, threads=(11, 12))
    assert [table.process_of(tid) for tid in (10, 11, 12)] == [10, 10, 10]
    assert table.process_of(99) is None
    assert table.process_of(0) is None
    proc.remove(10, 11, 12)
    assert table.process_of(11) == 10, "forgotten"
    table.exit(10)
    assert table.process_of(11) == 10
    proc.add(30, 1, threads=(11,))
    assert table.process_of(11) == 30, "a thread of a process that has ended is another's now"


def test_a_reader_is_read_anew_where_nobody_tells_of_changes(proc: Proc, table: ProcessTable) -> None:
    proc.add(10, 1, "bash", threads=(11,))
    assert (found := table.reader(11)) is not None
    assert (found.pid, found.comm) == (10, "bash")
    proc.add(10, 1, "grep", threads=(11,))  # it runs another program, and nobody said so
    table.told = True
    assert (found := table.reader(11)) is not None
    assert found.comm == "bash"
    table.told = False
    assert (found := table.reader(11)) is not None
    assert found.comm == "grep"
    proc.remove(10, 11)
    assert table.reader(11) is None
    assert table.reader(10) is None
    proc.add(10, 1, "tar", ticks=2000)
    assert (found := table.reader(10)) is not None
    assert found.comm == "tar", "the number is another process's now"


# --- bounds


def test_ended_processes_go_first_oldest_end_first(proc: Proc) -> None:
    table = ProcessTable(proc.root, limit=3)
    for pid in (10, 11, 12):
        proc.add(pid, 1)
        table.see(pid)
    table.exit(11)
    table.exit(10)
    proc.add(13, 1)
    table.see(13)
    assert [pid for pid in (10, 11, 12, 13) if table.of(pid)] == [10, 12, 13]
    proc.add(14, 1)
    table.see(14)
    assert [pid for pid in (10, 11, 12, 13, 14) if table.of(pid)] == [12, 13, 14]


def test_a_process_whose_end_was_lost_goes_before_one_that_lives(proc: Proc) -> None:
    table = ProcessTable(proc.root, limit=3)
    for pid in (10, 11, 12, 13):
        proc.add(pid, 1)
        if pid == 13:
            proc.remove(11)
        table.see(pid)
    assert [pid for pid in (10, 11, 12, 13) if table.of(pid)] == [10, 12, 13]


def test_ten_thousand_come_and_go(proc: Proc) -> None:
    table = ProcessTable(proc.root, limit=100)
    for pid in range(10, 10_000):
        table.see(pid, parent=9, comm=b"cat")
        table.fork(pid, pid + 20_000)
    assert len(table) == 100
    assert table.of(29_999) is not None


def test_a_proc_that_makes_no_sense(proc: Proc, table: ProcessTable) -> None:
    proc.add(10, 1)
    for text in ("", "10", "10 (x) S", "10 (x) S a b c", ")("):
        (proc.root / "10" / "stat").write_text(text)
        assert table.see(10, comm=b"told").comm == "told"
    proc.add(20, 21)
    proc.add(21, 20)
    assert table.see(20).job in (20, 21)
    proc.add(22, 22)
    assert table.see(22).job == 22


# --- containers


@pytest.mark.parametrize(
    ("path", "container"),
    [
        ("/", ""),
        ("/user.slice/user-0.slice/session-3.scope", ""),
        ("/system.slice/docker.service", ""),
        (f"/system.slice/docker-{HEX}.scope", SHORT),
        (f"/docker/{HEX}", SHORT),
        (f"/docker/{'f' * 64}/docker/{HEX}", SHORT),
        (f"/system.slice/docker-{HEX}.scope/init.scope", SHORT),
        (f"/../../docker-{HEX}.scope", SHORT),
        (f"/kubepods/burstable/pod2f4b7c5e-9a1d-4e52-8c3b-1f0e5d6a7b8c/{HEX}", SHORT),
        (
            f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-{POD}.slice/cri-containerd-{HEX}.scope",
            SHORT,
        ),
        (f"/kubepods.slice/kubepods-{POD}.slice/crio-{HEX}.scope", SHORT),
        (f"/system.slice/containerd.service/kubepods-burstable-{POD}.slice:cri-containerd:{HEX}", SHORT),
        (f"/kubepods.slice/kubepods-{POD}.slice", ""),
        (f"/machine.slice/libpod-{HEX}.scope/container", SHORT),
        (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{HEX}.scope", SHORT),
        (f"/libpod_parent/libpod-{HEX}", SHORT),
        (f"/machine.slice/libpod-conmon-{HEX}.scope", ""),
        (f"/system.slice/nerdctl-{HEX}.scope", SHORT),
        (f"/k8s.io/{HEX}", SHORT),
        (f"/ecs/cluster/{'a' * 32}/{HEX}", SHORT),
        (f"/ecs/{HEX[:32]}/{HEX[:32]}-1234567890", SHORT),
        ("/lxc/web1", "web1"),
        ("/lxc/web1/system.slice/nginx.service", "web1"),
        ("/lxc.payload.web1/init.scope", "web1"),
        ("/lxc.payload/web1", "web1"),
        ("/lxc.monitor.web1", ""),
        ("/machine.slice/machine-my\\x2dbox.scope/payload", "my-box"),
        ("/machine.slice/systemd-nspawn@debian.service/payload", "debian"),
    ],
)
def test_containers(path: str, container: str) -> None:
    assert procfs.placed(f"0::{path}\n") == (path, container)


@pytest.mark.parametrize(
    ("text", "placed"),
    [
        ("", ("", "")),
        ("no colons at all", ("", "")),
        ("0::/a (deleted)\n", ("/a", "")),
        ("9:name=systemd:/s\n4:memory:/m\n0::/\n", ("/s", "")),
        ("9:name=systemd:/\n4:memory:/m\n0::/\n", ("/m", "")),
        (f"9:name=systemd:/s\n4:memory:/docker/{HEX}\n", ("/s", SHORT)),
        ("0::/a:b\n", ("/a:b", "")),
    ],
)
def test_several_hierarchies(text: str, placed: tuple[str, str]) -> None:
    assert procfs.placed(text) == placed


# --- the real /proc

# Starts a worker, a rank and a server of its own, says who they are, and ends with its input.
TREE = """
import os, subprocess, sys, threading
wait = [sys.executable, "-c", "import sys; sys.stdin.read()"]
hold = threading.Event()
thread = threading.Thread(target=hold.wait)
thread.start()
worker = os.fork()
if not worker:
    os.close(1)
    sys.stdin.read()
    os._exit(0)
ranks = {**os.environ, "LOCAL_RANK": "1"}
rank = subprocess.Popen(wait, env=ranks, start_new_session=True)
server = subprocess.Popen(wait, start_new_session=True)
for process in (rank, server):
    # Popen returns within their execve, before the kernel has put their arguments in place.
    while not open(f"/proc/{process.pid}/cmdline").read():
        pass
print(worker, rank.pid, server.pid, thread.native_id, flush=True)
sys.stdin.read()
for process in (rank, server):
    process.wait()
os.waitpid(worker, 0)
hold.set()
"""


@pytest.fixture
def tree() -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    environment = {name: value for name, value in os.environ.items() if "RANK" not in name}
    with subprocess.Popen(
        [sys.executable, "-c", TREE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            output: IO[bytes] | None = process.stdout
            assert output is not None
            yield process, [int(word) for word in output.readline().split()]
        finally:
            # The end of their input ends all of them.
            process.communicate(timeout=60)


def test_a_real_tree(tree: tuple[subprocess.Popen[bytes], list[int]]) -> None:
    process, (worker, rank, server, thread) = tree
    table = ProcessTable()
    assert [table.see(pid).job for pid in (worker, rank, server)] == [process.pid, process.pid, server]
    assert table.process_of(thread) == process.pid
    root = table.of(process.pid)
    assert root is not None
    assert root.parent == os.getpid()
    assert "import os, subprocess" in root.command
    assert abs(root.started - time.time()) < 3600
    process.communicate(timeout=60)
    for pid in (worker, rank, server, process.pid):
        table.exec(pid)
        table.exit(pid)
    ended = table.of(rank)
    assert ended is not None
    assert (ended.job, "sys.stdin.read()" in ended.command) == (process.pid, True)


def test_ourselves() -> None:
    table = ProcessTable()
    assert table.process_of(os.getpid()) == os.getpid()
    found = table.see(os.getpid())
    assert (found.parent, found.command) != (0, "")
