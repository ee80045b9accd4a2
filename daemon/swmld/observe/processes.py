"""Who reads: processes by pid, also ended ones, and the job that each belongs to.

A job is a tree of processes that work on one thing: a trainer with its loader's workers, torchrun with its
ranks, xargs with what it starts. Its root is found by going from parent to parent, up to where a process was
started by something that starts unrelated things: a shell, a session, a service manager, a container's shim.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from swmld.observe import procfs
from swmld.patterns.feed import Process

LIMIT = 65536
# A chain of parents longer than this is not followed; real ones have some ten.
DEPTH = 64
# A full table with no ended process in it: so many of the oldest are asked whether they still live.
LOOKS = 8

# Seconds: commands of one name that begin to read within so much of one another, in one session and each
# when the one before has ended, are a shell's loop over files, and one job. What trains, or is tried by hand,
# takes longer.
LOOP = 2.0
# Sessions and names whose last commands are remembered, and loops of one name in one session.
LOOPS = 1024
SIDE_BY_SIDE = 32

# Shells: each command is the next thing that somebody does, or a script.
_SHELLS = "sh bash rbash dash ash busybox zsh fish ksh ksh93 mksh csh tcsh nu pwsh xonsh"
SHELLS = frozenset(_SHELLS.split())

# Whose children are jobs of their own, by the kernel's name of a process (at most 15 characters). Not here:
# xargs and parallel, what they start are pieces of one work; torchrun, mpirun, raylet and slurmstepd, the
# ranks of a job share them; env, nice, nohup and other wrappers that become the program.
_STARTERS = (
    _SHELLS,
    # Multiplexers and terminals: one process holds all windows.
    "tmux screen zellij dtach abduco script expect ttyd xterm kitty alacritty konsole gnome-terminal-",
    # Logins, and those who run a command as somebody else.
    "login agetty getty sshd sshd-session dropbear mosh-server su sudo doas runuser pkexec machinectl",
    # Service managers, timers, and the init of a container or of kernel threads.
    "systemd init (sd-pam) runsv runsvdir s6-supervise s6-svscan supervisord start-stop-daem",
    "cron crond anacron atd tini dumb-init docker-init catatonit kthreadd",
    # Containers: one shim or engine starts the first process of each, and every exec into it.
    "containerd-shim containerd conmon runc crun dockerd docker podman lxc-start lxd incusd kubelet crio",
    # Schedulers' daemons on a node.
    "slurmd pbs_mom sge_execd sge_shepherd condor_startd condor_starter sbatchd nomad",
    # Notebook servers and editors: a kernel or a terminal is a job.
    "jupyter jupyter-lab jupyter-noteboo jupyter-server jupyterhub jupyterhub-sing code-server",
    # Recipes, and wrappers that wait for one command: the command is what people look for.
    "make ninja just snakemake watch entr timeout time flock setsid strace ltrace gdb perf nsys ncu uv conda",
)
STARTERS = frozenset(name for group in _STARTERS for name in group.split())
# Slurm gives each task of a step a cgroup of its own.
_SLURM_TASK = re.compile(r"(/job_\d+/step_[^/]+)/.*")


class _Turn(NamedTuple):
    """The last command of a loop; ``at``: when it began to read, seconds, monotonic; ``above``: its parent,
    that one's parent and so on, as far as they were met."""

    pid: int
    job: int
    at: float
    above: tuple[int, ...]


@dataclass(slots=True)
class _Entry:
    process: Process
    session: int | None = None  # None: not known; 0: its leader is outside our pid namespace
    ticks: int = 0  # of its start, since boot; 0: not known
    stale: bool = False  # it forked or ran another program since /proc was read
    at: float = 0.0  # when it began to read, else was met, seconds, monotonic
    told: float | None = None  # the same by the kernel's word: of two with one pid it differs
    above: tuple[int, ...] = ()  # its parent's parent and so on when it began to read; 0: not known
    turn: str = ""  # the name under which its job was found among a shell's commands


class ProcessTable:
    """``patterns.feed.Processes``. Loop-only; nothing raises for a process that is gone.

    ``limit`` processes (35 MB) and as many threads are kept; those that ended first go first. Reading a
    process takes 20 to 50 microseconds, once, and once after each exec.
    """

    def __init__(self, proc: Path = Path("/proc"), limit: int = LIMIT) -> None:
        self._proc = str(proc)
        self._limit = limit
        self._entries: dict[int, _Entry] = {}
        # When, seconds, monotonic, by the kernel's word; None: it is just not there any more.
        self._ended: dict[int, float | None] = {}
        self._threads: dict[int, int] = {}
        # By session, where that is not known by parent; of each loop the last one, the latest at the end.
        self._turns: dict[tuple[int, str], list[_Turn]] = {}
        self.told = False
        """The kernel tells of forks, execs and exits; else ``reader`` alone is right about a pid that is used
        again."""

    def of(self, pid: int) -> Process | None:
        """From memory; None for a process that was never met. Read anew after fork and exec."""
        entry = self._entries.get(pid)
        if entry is None:
            return None
        return (self._see(pid) if entry.stale else entry).process

    def see(
        self,
        pid: int,
        parent: int = 0,
        comm: bytes = b"",
        session: int = 0,
        at: float | None = None,
        above: tuple[int, ...] = (),
    ) -> Process:
        """Meet a process, read it from /proc; the rest is the kernel's word (0, b"": none). ``above``: its
        parent's parent and so on.

        The parent that is known first stays: /proc names another once it has ended. A pid that is used again
        gives the new process. ``started`` of a process that was gone before it could be read is now.
        """
        entry = self._entries.get(pid)
        if entry is not None and pid in self._ended and at not in (None, entry.told):
            self._forget(pid)  # it began to read when that one had ended
        return self._see(pid, parent, comm, session, at, above).process

    def fork(self, parent: int, child: int) -> None:
        """A process that is known made another; children of others are met when they are seen."""
        self._forget(child)
        above = self._entries.get(parent)
        if above is None:
            return
        if above.stale:
            above = self._see(parent)
        job = child if _starts_jobs(above.process) else above.process.job
        process = above.process._replace(pid=child, job=job, parent=parent, started=time.time())
        self._keep(child, _Entry(process, above.session, stale=True))

    def exec(self, pid: int) -> None:
        """The process runs another program from now on."""
        if self._alive(pid):
            self._entries[pid].stale = True

    def exit(self, pid: int, at: float | None = None) -> None:
        """The process has ended, with all its threads. Until it is waited for, /proc still has its name.
        ``at``: when, by the kernel's word."""
        if self._alive(pid):
            if self._entries[pid].stale:
                self._see(pid)
            self._ended[pid] = at
        elif at is not None and pid in self._ended:
            self._ended[pid] = at

    def process_of(self, tid: int) -> int | None:
        """The pid of a thread; None if it is gone and was not met before."""
        if self._alive(tid):
            return tid
        known = self._threads.get(tid)
        if known is not None and self._alive(known):
            return known
        pid = procfs.thread_group(self._proc, tid)
        if pid is None:
            return tid if tid in self._entries else known
        if not self._alive(pid):
            self._see(pid)
        if pid != tid:
            self._threads.pop(tid, None)
            self._threads[tid] = pid
            if len(self._threads) > self._limit:
                del self._threads[next(iter(self._threads))]
        return pid

    def reader(self, tid: int) -> Process | None:
        """The process of a thread that waits for us, read anew unless the kernel tells of
        changes; None if it is gone."""
        if self.told:
            pid = self.process_of(tid)
            return None if pid is None else self.of(pid)
        pid = procfs.thread_group(self._proc, tid)
        return None if pid is None else self.see(pid)

    def __len__(self) -> int:
        return len(self._entries)

    def _alive(self, pid: int) -> bool:
        return pid in self._entries and pid not in self._ended

    def _exists(self, pid: int) -> bool:
        return os.path.exists(f"{self._proc}/{pid}")

    def _see(
        self,
        pid: int,
        parent: int = 0,
        comm: bytes = b"",
        session: int = 0,
        at: float | None = None,
        above: tuple[int, ...] = (),
        *,
        depth: int = DEPTH,
    ) -> _Entry:
        facts = procfs.read(self._proc, pid)
        entry = self._entries.get(pid)
        # No ticks: it was not read yet. If it had ended before, this one is another.
        known = entry is not None and (entry.ticks or pid in self._ended)
        if entry is not None and facts is not None and known and entry.ticks != facts.ticks:
            self._forget(pid)
            entry = None
        new = entry is None
        if entry is None:
            name = comm.rstrip(b"\0").decode(errors="replace")
            entry = _Entry(Process(pid, pid, parent, name, "", time.time(), "", ""), session or None)
            entry.at = time.monotonic() if at is None else at
            self._keep(pid, entry)
        entry.stale = False
        entry.told = entry.told if at is None else at
        entry.above = above or entry.above
        name = entry.process.comm
        if facts is not None:
            _take(entry, facts)
        else:
            _take_name(entry, comm)
            self._ended.setdefault(pid, None)
        if new or facts is not None or entry.process.comm != name:
            entry.process = entry.process._replace(job=self._job(entry, depth))
        return entry

    def _job(self, entry: _Entry, depth: int) -> int:
        """The parent's job where it is the same, else the process is the root of its own."""
        process = entry.process
        if process.parent <= 1:
            return process.pid
        above = self._parent(process.parent, depth, entry)
        if above is None:  # it ended before it could be read
            return self._in_turn(entry, entry.session) if process.job == process.pid else process.job
        if entry.ticks and above.ticks > entry.ticks:
            return process.job
        if _elsewhere(process.cgroup, above.process.cgroup):
            return process.pid
        if _starts_jobs(above.process):
            session = entry.session or above.session
            known = session or _name(above.process) in SHELLS
            return self._in_turn(entry, session) if known else process.pid
        # A rank of torchrun has a session of its own; so has what a server starts that is not known here.
        # What is gone cannot be asked whether it was one.
        moved = entry.ticks and None not in (entry.session, above.session) and entry.session != above.session
        if moved and not procfs.is_rank(self._proc, process.pid):
            return process.pid
        return above.process.job

    def _parent(self, pid: int, depth: int, child: _Entry) -> _Entry | None:
        """None for one that ended before it could be read, be it while it was looked at."""
        found = self._entries.get(pid)
        above = next(iter(child.above), 0)
        ended = self._ended.get(pid)
        # The pid of a parent that has ended may be another's by now: then what is there is read. The end of
        # one that is no reader is not told.
        current = found is not None and pid not in self._ended and not found.stale
        if current and found is not None and found.told is None:
            ticks = procfs.ticks(self._proc, pid)
            if ticks is None and above not in (0, found.process.parent):
                return None
            current = ticks in (None, found.ticks)
        if not current and depth and self._exists(pid):
            found = self._see(pid, depth=depth - 1)
        elif ended is not None and child.told is not None and ended < child.told:
            return None  # it was another's pid: a parent has not ended before its child begins to read
        return found if found is not None and (found.ticks or found.process.comm) else None

    def _in_turn(self, entry: _Entry, session: int | None) -> int:
        """The job of a command: in a loop over files that of the one before it.

        A loop is known by its session: ``$(grep x $file)`` and ``timeout 5 grep x $file`` have another parent
        each time. Loops side by side, each in a shell's fork, are told apart by those forks, which the kernel
        names where the parent was gone before it could be read.
        """
        process = entry.process
        if entry.turn == process.comm:
            return process.job
        entry.turn = process.comm
        for pid in entry.above:  # whose loop it is depends on which of them live
            if pid > 1 and not self._alive(pid) and self._exists(pid):
                self._see(pid)
        key = session or process.parent, process.comm
        turns = [turn for turn in self._turns.pop(key, ()) if entry.at - turn.at < LOOP]
        above, known = self._above(entry)
        before = self._before(turns, above, known)
        if before is not None:
            turns.remove(before)
        job = process.pid if before is None else before.job
        self._turns[key] = [*turns[1 - SIDE_BY_SIDE :], _Turn(process.pid, job, entry.at, above)]
        if len(self._turns) > LOOPS:
            del self._turns[next(iter(self._turns))]
        return job

    def _before(self, turns: list[_Turn], above: tuple[int, ...], known: bool) -> _Turn | None:
        """The last command of the same loop: a shell begins the next one when that one has ended, and what it
        was started by. Of several loops the one with the nearest of ``above``; ``known``: these are all."""
        best, nearest = None, DEPTH + 1
        for turn in reversed(turns):
            if self._lives(turn.pid):
                continue
            near = next((place for place, pid in enumerate(above) if pid in turn.above), DEPTH)
            own = turn.above[: turn.above.index(above[near]) if near < DEPTH else None]
            if near < nearest and not (known and any(map(self._lives, own))):
                best, nearest = turn, near
        return best

    def _above(self, entry: _Entry) -> tuple[tuple[int, ...], bool]:
        """Its parent, that one's parent and so on, and whether these are all; not so where one had ended
        before it could be read, and was not among those that the kernel named."""
        above = list[int]()
        told = iter(entry.above)
        parent = entry.process.parent
        while parent > 1 and len(above) < DEPTH:
            above.append(parent)
            further = next(told, 0)
            if not further:
                found = self._entries.get(parent)
                if found is None or not (found.ticks or found.process.parent):
                    return tuple(above), False
                further = found.process.parent
            parent = further
        return tuple(above), True

    def _lives(self, pid: int) -> bool:
        return self._alive(pid) and self._exists(pid)

    def _keep(self, pid: int, entry: _Entry) -> None:
        self._entries[pid] = entry
        if len(self._entries) > self._limit:
            self._forget(next(iter(self._ended), None) or self._oldest())

    def _forget(self, pid: int) -> None:
        self._entries.pop(pid, None)
        self._ended.pop(pid, None)
        self._threads.pop(pid, None)

    def _oldest(self) -> int:
        """The process met first; one that is gone, if there is one among the first few."""
        for _ in range(LOOKS):
            pid = next(iter(self._entries))
            if not self._exists(pid):
                return pid
            self._entries[pid] = self._entries.pop(pid)
        return next(iter(self._entries))


def _take(entry: _Entry, facts: procfs.Facts) -> None:
    """What /proc says now; a zombie's arguments and place are what they were."""
    old = entry.process
    started = old.started if entry.ticks == facts.ticks else procfs.started(facts.ticks)
    # What is just being waited for has lost its session.
    entry.session = entry.session if facts.session is None else facts.session
    entry.ticks = facts.ticks
    entry.process = old._replace(
        parent=old.parent or facts.parent,
        comm=facts.comm,
        command=facts.command or (old.command if facts.comm == old.comm else ""),
        started=started,
        cgroup=facts.cgroup or old.cgroup,
        container=facts.container if facts.cgroup else old.container,
    )


def _take_name(entry: _Entry, comm: bytes) -> None:
    """What ran another program since /proc was read, and is gone, has the kernel's word alone."""
    name = comm.rstrip(b"\0").decode(errors="replace")
    if name and name != entry.process.comm:
        entry.process = entry.process._replace(comm=name, command="")


def _name(process: Process) -> str:
    """A title such as "tmux: server" begins with the program's name."""
    return process.comm.partition(":")[0]


def _starts_jobs(process: Process) -> bool:
    return _name(process) in STARTERS


def _elsewhere(cgroup: str, above: str) -> bool:
    """Whether two processes are in different control groups, as far as is known. A Slurm step is one."""
    if not cgroup or not above:
        return False
    return _SLURM_TASK.sub(r"\1", cgroup) != _SLURM_TASK.sub(r"\1", above)
