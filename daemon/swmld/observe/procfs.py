"""What /proc says of one process: a few dozen microseconds, one system call at a time, and nothing raised."""

from __future__ import annotations

import os
import re
import sys
import time
from typing import NamedTuple

from swmld.hiding import hidden

COMMAND_LENGTH = 200
# More of a command line is not read; a cgroup file has a line a controller, a path each.
_READ = 4096
_TICKS = os.sysconf("SC_CLK_TCK")
# proc(5): fields of stat after the name: state, ppid, pgrp, session, ..., starttime (the 22nd field of all).
_STATE, _PARENT, _SESSION, _FLAGS, _STARTED = 0, 1, 3, 6, 19
_PF_EXITING = 4  # include/linux/sched.h

# Who sets them: torchrun and accelerate, Open MPI, MPICH and Intel MPI, PMIx, Slurm.
_RANK = re.compile(
    rb"(?:^|\0)(?:LOCAL_RANK|OMPI_COMM_WORLD_RANK|PMI_RANK|MPI_LOCALRANKID|PMIX_RANK|SLURM_LOCALID)="
)

# Ids of 64 hexadecimal digits: Docker, containerd, CRI-O, Podman, nerdctl and Kubernetes with all of them; by
# systemd as PREFIX-ID.scope, by cgroupfs as ID, PREFIX-ID or SLICE:PREFIX:ID.
_LONG_ID = re.compile(r"(?:^|[-:])([0-9a-f]{64})(?:\.scope)?$")
# Fargate: TASK-NUMBER.
_TASK_ID = re.compile(r"^([0-9a-f]{32})-\d+$")
_NAMED = re.compile(
    r"^(?:lxc\.payload\.(?P<lxc>.+)|machine-(?P<machine>.+)\.scope|systemd-nspawn@(?P<nspawn>.+)\.service)$"
)
# They watch over a container from outside.
_MONITOR = re.compile(r"conmon|^lxc\.monitor")
SHORT_ID = 12


class Facts(NamedTuple):
    """``ticks``: start in clock ticks since boot; with the pid it names a process for good.

    ``session`` is None, ``command``, ``cgroup`` and ``container`` are "" where they are not known. What is
    secret in a command is stars: traces are given to others, and the endpoint asks nobody who he is. Session
    0 has a leader outside of our pid namespace; of what has ended the kernel says -1 (do_task_stat()).
    """

    parent: int
    session: int | None
    ticks: int
    comm: str
    command: str
    cgroup: str
    container: str


def read(proc: str, pid: int) -> Facts | None:
    """Facts of a process or thread; None if it is gone, or the files are not what proc(5) says."""
    try:
        directory = os.open(f"{proc}/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    # Through this descriptor nothing is found once the process is gone, even if its pid is used again.
    try:
        command = hidden(_content(directory, "cmdline")).replace(b"\0", b" ").decode(errors="replace")
        cgroup, container = placed(_content(directory, "cgroup").decode(errors="replace"))
        # Last: what ends meanwhile has lost its arguments and its control group before that shows here.
        stat = _content(directory, "stat")
        opened, closed = stat.find(b"("), stat.rfind(b")")
        fields = stat[closed + 2 :].split()
        session = int(fields[_SESSION])
        if fields[_STATE] in (b"Z", b"X") or int(fields[_FLAGS]) & _PF_EXITING:
            command, cgroup, container = "", "", ""
        return Facts(
            int(fields[_PARENT]),
            session if session >= 0 else None,
            int(fields[_STARTED]),
            sys.intern(stat[opened + 1 : closed].decode(errors="replace")),
            " ".join(command.split())[:COMMAND_LENGTH],
            sys.intern(cgroup),
            sys.intern(container),
        )
    except (OSError, ValueError, IndexError):
        return None
    finally:
        os.close(directory)


def ticks(proc: str, pid: int) -> int | None:
    """When the process began, in clock ticks since boot; None if it is gone."""
    try:
        stat = _content(None, f"{proc}/{pid}/stat")
        return int(stat[stat.rfind(b")") + 2 :].split()[_STARTED])
    except (OSError, ValueError, IndexError):
        return None


def started(ticks: int) -> float:
    """Seconds since the epoch of a moment in clock ticks since boot; right to some 10 ms."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / _TICKS


def thread_group(proc: str, tid: int) -> int | None:
    """The process of a thread; None if it is gone."""
    try:
        _, _, rest = _content(None, f"{proc}/{tid}/status").partition(b"\nTgid:")
        return int(rest.split(None, 1)[0])
    except (OSError, ValueError, IndexError):
        return None


def is_rank(proc: str, pid: int) -> bool:
    """Whether the process was started as one rank of several, by what a launcher put into its environment."""
    try:
        with open(f"{proc}/{pid}/environ", "rb") as file:
            return _RANK.search(file.read()) is not None
    except OSError:
        return False


def placed(text: str) -> tuple[str, str]:
    """The cgroup's path and the container, from the text of /proc/PID/cgroup.

    With several hierarchies the path is that of cgroup 2, else systemd's, else any, "/" last of all. The
    container is the innermost, as 12 digits of its id or its name, "" if there is none.
    """
    paths: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        paths[controllers] = path.removesuffix(" (deleted)")
    ordered = [paths[name] for name in ("", "name=systemd") if name in paths] + list(paths.values())
    known = (path for path in ordered if path.strip("/"))
    cgroup = next(known, ordered[0] if ordered else "")
    return cgroup, next(filter(None, map(container, dict.fromkeys(ordered))), "")


def container(path: str) -> str:
    """The innermost container that a cgroup's path names, "" if none does."""
    parts = path.split("/")
    for part, above in zip(reversed(parts), reversed(["", *parts[:-1]]), strict=True):
        if _MONITOR.search(part):
            return ""
        number = _LONG_ID.search(part) or _TASK_ID.search(part)
        if number:
            return number[1][:SHORT_ID]
        named = _NAMED.search(part)
        if named:
            # systemd writes what a unit's name cannot hold as \xNN.
            return re.sub(
                r"\\x([0-9a-f]{2})", lambda code: chr(int(code[1], 16)), named[named.lastgroup or 0]
            )
        if above in ("lxc", "lxc.payload") and part:
            return part
    return ""


def _content(directory: int | None, name: str) -> bytes:
    """The beginning of a file in a directory, or of the one with this path. Raises OSError."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(fd, _READ)
    finally:
        os.close(fd)
