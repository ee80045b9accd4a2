"""Who reads: forked workers, programs that are run, processes that end, and what is known of each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import posix
from support.probes import Lab
from swmld.patterns.feed import TouchKind


def ends(lab: Lab, pid: int) -> bool:
    return any(touch.kind is TouchKind.EXIT and touch.pid == pid for touch in lab.seen.about)


def test_a_forked_worker_has_its_parents_job(lab: Lab) -> None:
    """As torch's DataLoader makes them: the parent has read before it forks."""
    lab.make("of-parent", "of-worker", pages=4)
    (lab / "of-parent").read_bytes()
    lab.seen.settle()  # the parent is known, so its fork is told
    with posix.Child(lambda: (lab / "of-worker").read_bytes()) as worker:
        worker.wait()
    assert lab.pid("of-worker") == worker.pid
    assert any(
        (touch.kind, touch.pid, touch.file) == (TouchKind.FORK, os.getpid(), worker.pid)
        for touch in lab.seen.about
    )
    child, parent = lab.seen.process(worker.pid), lab.seen.process(os.getpid())
    assert child is not None
    assert parent is not None
    assert (child.parent, child.job) == (os.getpid(), parent.job), (child, parent, lab.seen.about)
    assert child.comm == parent.comm == Path("/proc/self/comm").read_text().strip()
    groups = {line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()}
    assert child.cgroup == parent.cgroup
    assert child.cgroup in groups


def test_the_end_of_a_reader_is_told_once(lab: Lab) -> None:
    lab.make("file", pages=4)
    with posix.Child(lambda: (lab / "file").read_bytes()) as child:
        child.wait()
    lab.seen.wait_for(lambda: ends(lab, child.pid), "its end was not told")
    lab.seen.settle()
    told = [touch for touch in lab.seen.about if touch.kind is TouchKind.EXIT and touch.pid == child.pid]
    assert len(told) == 1


def test_a_job_ends_with_its_root_not_with_its_readers(lab: Lab) -> None:
    """As torch's DataLoader makes them, anew for each epoch: the root reads nothing, and goes on."""
    lab.make("file", pages=4)
    program = (
        "import os, sys\n"
        "if not os.fork():\n"
        "    open(sys.argv[1], 'rb').read(); print(flush=True); sys.stdin.readline(); os._exit(0)\n"
        "os.wait(); print(flush=True); sys.stdin.readline()\n"
    )
    argv = [sys.executable, "-c", program, str(lab / "file")]
    root = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with root:
        assert root.stdin is not None
        assert root.stdout is not None
        try:
            root.stdout.readline()
            reader = lab.pid("file")
            assert reader != root.pid
            root.stdin.write("\n")
            root.stdin.flush()
            root.stdout.readline()
            lab.seen.wait_for(lambda: ends(lab, reader), "the reader's end was not told")
            lab.seen.snapshot()  # some may have been taken before that
            assert of(lab.seen.snapshot(), root.pid)["ended"] is False
            root.stdin.close()
            root.wait(30)
        finally:
            root.kill()
    while not of(lab.seen.snapshot(), root.pid)["ended"]:
        pass  # each waits for the next


def of(snapshot: dict[str, Any], number: int) -> dict[str, Any]:
    found = next((job for job in snapshot["jobs"] if job["job"] == number), None)
    assert found is not None, (number, [(job["job"], job["comm"], job["pids"]) for job in snapshot["jobs"]])
    assert isinstance(found, dict)
    return found


def test_a_thread_that_ends_is_not_the_end_of_its_process(lab: Lab) -> None:
    lab.make("first", "second", pages=4)
    program = (
        "import sys, threading\n"
        "thread = threading.Thread(target=lambda: open(sys.argv[1], 'rb').read())\n"
        "thread.start(); thread.join()\n"
        "print(flush=True); input(); open(sys.argv[2], 'rb').read()\n"
    )
    argv = [sys.executable, "-c", program, str(lab / "first"), str(lab / "second")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        try:
            reader.stdout.readline()
            assert lab.pid("first") == reader.pid
            assert not ends(lab, reader.pid)
            reader.stdin.write("\n")
            reader.stdin.close()
            assert reader.wait(30) == 0
        finally:
            reader.kill()
    assert lab.pid("second") == reader.pid
    lab.seen.wait_for(lambda: ends(lab, reader.pid), "its end was not told")


def test_a_short_lived_program_is_known_by_name(lab: Lab) -> None:
    lab.make("file", pages=2)
    subprocess.run(["cat", lab / "file"], stdout=subprocess.DEVNULL, check=True)
    process = lab.seen.process(lab.pid("file"))
    assert process is not None
    assert process.comm == "cat"


@pytest.mark.parametrize(
    "command",
    ["cat $f > /dev/null", "n=$(head -c 9 $f | cat)", "timeout 60 cat $f > /dev/null", "n=$(cat $f)"],
)
def test_a_shells_loop_over_files_is_one_job(lab: Lab, command: str) -> None:
    """Each command has ended long before anybody looks into /proc, some with the process that started it."""
    names = [f"{number:02}" for number in range(30)]
    lab.make(*names, pages=2)
    # Two shells: what this process starts itself is told to the daemon.
    argv = ["sh", "-c", 'bash -c "$1"; true', "sh", f"for f in *; do {command}; done"]
    subprocess.run(argv, cwd=lab.path, start_new_session=True, check=True)
    lab.seen.settle()
    pids = frozenset().union(*(lab.seen.pids(f"{lab.name}/{name}") for name in names))
    found = [lab.seen.process(pid) for pid in sorted(pids)]
    assert len(found) >= 30
    jobs = {process.job for process in found if process is not None}
    assert len(jobs) == 1, found
    # The next loop is another session's, though it begins at once.
    subprocess.run(argv, cwd=lab.path, start_new_session=True, check=True)
    lab.seen.settle()
    more = frozenset().union(*(lab.seen.pids(f"{lab.name}/{name}") for name in names)) - pids
    others = {process.job for pid in more if (process := lab.seen.process(pid)) is not None}
    assert len(others) == 1
    assert others != jobs


@pytest.mark.parametrize("command", ["cat $f", "timeout 60 cat $f", "n=$(timeout 60 cat $f | wc)"])
def test_loops_side_by_side_are_two_jobs(lab: Lab, base: Path, command: str) -> None:
    """Two loops of a command in one session, each in a fork of a shell that lives until all are known. What
    started a command there may be gone before anybody looks."""
    names = [f"{part}{number:02}" for part in "ab" for number in range(30)]
    lab.make(*names, pages=2)
    hold = base / "hold"
    os.mkfifo(hold)
    held = os.open(hold, os.O_RDWR | os.O_CLOEXEC)
    loops = " ".join(
        f"(for f in {part}*; do {command} > /dev/null; done; echo; read x < {hold}) &" for part in "ab"
    )
    # Two shells: what this process starts itself is told to the daemon.
    argv = ["sh", "-c", 'bash -c "$1"; true', "sh", f"{loops} wait"]
    jobs: list[set[int]] = []
    with subprocess.Popen(argv, cwd=lab.path, start_new_session=True, stdout=subprocess.PIPE) as shell:
        try:
            assert shell.stdout is not None
            assert shell.stdout.readline() + shell.stdout.readline() == b"\n\n"
            lab.seen.settle()
            for part in "ab":
                pids = (lab.seen.pids(f"{lab.name}/{part}{number:02}") for number in range(30))
                found = [lab.seen.process(pid) for pid in sorted(frozenset().union(*pids))]
                jobs.append({process.job for process in found if process is not None})
        finally:
            os.close(held)  # both forks read the end
    assert [len(part) for part in jobs] == [1, 1]
    assert jobs[0] != jobs[1]


def test_a_pid_that_is_used_again(lab: Lab) -> None:
    """Both readers are gone before anybody looks: the kernel's books of the first are not the second's."""
    tries = [f"file{number}" for number in range(20)]
    lab.make("first", *tries, pages=2)
    subprocess.run(["sh", "-c", "cat first; true"], cwd=lab.path, stdout=subprocess.DEVNULL, check=True)
    pid = lab.pid("first")
    lab.seen.wait_for(lambda: ends(lab, pid), "its end was not told")
    program = f'echo {pid - 1} > /proc/sys/kernel/ns_last_pid; cat "$1"; true'
    for name in tries:  # until nobody else on this machine is quicker
        argv = ["sh", "-c", program, "sh", name]
        with subprocess.Popen(argv, cwd=lab.path, stdout=subprocess.DEVNULL) as shell:
            shell.wait(30)
        if lab.pid(name) == pid:
            break
    else:
        pytest.fail("others took the pid each time")
    process = lab.seen.process(pid)
    assert process is not None
    assert (process.comm, process.parent) == ("cat", shell.pid)


def test_what_a_reader_starts_is_known_by_what_it_runs(lab: Lab) -> None:
    """A shell that reads nothing itself: its fork is told before it is a shell, and what it starts is its.
    No other test has such a command: those of one name that follow each other may be a loop."""
    lab.make("own", "file", pages=2)
    (lab / "own").read_bytes()
    lab.seen.settle()  # this process is known, so its forks are told
    program = (
        "import os, sys; sys.stdin.readline()\n"
        "os.execlp('sh', 'sh', '-c', 'tac \"$1\" > /dev/null; echo; read x', 'sh', sys.argv[1])"
    )
    argv = [sys.executable, "-c", program, str(lab / "file")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        try:
            lab.seen.settle()  # its fork has been told, and it was read as what it is up to now
            shell.stdin.write("\n")
            shell.stdin.flush()
            shell.stdout.readline()
            process = lab.seen.process(lab.pid("file"))
            shell.stdin.close()
            shell.wait(30)
        finally:
            shell.kill()
    assert process is not None
    assert (process.comm, process.parent, process.job) == ("tac", shell.pid, process.pid)


def test_a_reader_that_runs_another_program(lab: Lab) -> None:
    lab.make("before", "after", pages=2)
    program = "import os, sys; open(sys.argv[1], 'rb').read(); os.execlp('cat', 'cat', sys.argv[2])"
    argv = [sys.executable, "-c", program, lab / "before", lab / "after"]
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    pid = lab.pid("after")
    assert lab.pid("before") == pid
    assert any(touch.kind is TouchKind.EXEC and touch.pid == pid for touch in lab.seen.about)
    process = lab.seen.process(pid)
    assert process is not None
    assert process.comm == "cat"


def test_of_processes_that_do_not_read_the_mount_nothing_is_told_but_what_they_run(lab: Lab) -> None:
    lab.seen.settle()
    before = len(lab.seen.about)
    quiet = subprocess.Popen(["cat", __file__], stdout=subprocess.DEVNULL)
    assert quiet.wait(30) == 0
    lab.seen.settle()
    about = lab.seen.about[before:]
    assert {touch.kind for touch in about if touch.pid == quiet.pid} <= {TouchKind.EXEC}
