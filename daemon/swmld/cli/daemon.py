"""Find the running daemon that a command means, and talk to it."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from swmld.api.address import sockets
from swmld.api.client import STATUS_TIMEOUT, Client
from swmld.api.messages import Status
from swmld.cli.text import printable
from swmld.config.models import mount_name
from swmld.config.values import mount_point
from swmld.errors import SwmldError, UsageError
from swmld.mount.mountpoint import FSTYPE, mounts

_ONLY_ROOT = "needs root, as the daemon does: run it with sudo"


@dataclass(frozen=True, slots=True)
class Running:
    """A daemon that answered."""

    socket: Path
    status: Status

    @property
    def mount(self) -> str:
        return self.status["mount"]

    def connect(self) -> Client:
        """A connection for one command, without a time limit."""
        return Client(self.socket)


def running(run_dir: Path) -> list[Running]:
    """Every daemon that answers in ``run_dir``; sockets of daemons that are gone are passed over.

    Raises UsageError if only root can look there, or ask any of them.
    """
    if os.geteuid() != 0 and run_dir.exists() and not os.access(run_dir, os.R_OK | os.X_OK):
        raise UsageError(_ONLY_ROOT)
    found, refused = [], False
    for path in sockets(run_dir):
        try:
            found.append(Running(path, _status(path)))
        except SwmldError:
            # A directory of --run-dir may be open to all; the socket in it never is.
            refused = refused or (os.geteuid() != 0 and path.exists() and not os.access(path, os.W_OK))
    if refused and not found:
        raise UsageError(_ONLY_ROOT)
    return found


def pick(run_dir: Path, mount: str | None, path: str | None = None) -> Running:
    """The daemon of ``mount``, else the one whose mount holds ``path``, else the only one that runs.

    Raises UsageError, with the mounts that are served, if that is none or not clear.
    """
    found = running(run_dir)
    if mount is not None:
        return _serving(found, run_dir, mount)
    holders = [daemon for daemon in found if path is not None and holds(daemon.mount, path)]
    if holders:
        # A mount may lie inside another one: the inner one holds the path.
        return max(holders, key=lambda daemon: len(daemon.mount))
    if path is not None and os.path.isabs(path) and found:
        raise UsageError(f"{path} is not under a mount of swmld; {_listed(found)}")
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(none_runs(run_dir))
    raise UsageError(f"several daemons run, choose one with --mount DIR; {_listed(found)}")


def none_runs(run_dir: Path) -> str:
    """What to say where no daemon answers."""
    return "\n".join(killed(run_dir)) or "no swmld daemon runs here; start one with: swmld --mount DIR"


def killed(run_dir: Path) -> list[str]:
    """A line for each mount that a daemon left behind: its socket is in ``run_dir``, and nobody listens. The
    mounts themselves are not asked, which could hang."""
    left = dict.fromkeys(os.fsdecode(one.path) for one in mounts() if one.fstype == FSTYPE)
    return [_killed(mount) for mount in left if _abandoned(run_dir / f"{mount_name(Path(mount))}.sock")]


def _killed(mount: str) -> str:
    command = f"swmld --mount {shlex.quote(mount)}"
    return printable(f"the daemon of {mount} was killed; start it again with its options: {command}")


def _abandoned(socket: Path) -> bool:
    """Whether there is a socket that nobody listens on."""
    if not socket.exists():
        return False
    try:
        Client(socket, timeout=STATUS_TIMEOUT).close()
    except UsageError:
        return True
    except SwmldError:
        pass  # it does not answer
    return False


def holds(mount: str, path: str) -> bool:
    """Whether ``path`` lies in ``mount``; a relative path counts from the current directory."""
    absolute = os.path.abspath(path)
    prefix = mount.rstrip("/") + "/"
    return (absolute + "/").startswith(prefix) or (os.path.realpath(absolute) + "/").startswith(prefix)


def sent(mount: str, path: str) -> str:
    """How ``path`` is sent: absolute if it lies in the mount, else as given, relative to the mount."""
    if not holds(mount, path):
        return path
    absolute = os.path.abspath(path)
    inside = (absolute + "/").startswith(mount.rstrip("/") + "/")
    return absolute if inside else os.path.realpath(absolute)


def _serving(found: list[Running], run_dir: Path, mount: str) -> Running:
    wanted = mount_point(mount)
    for daemon in found:
        if daemon.mount == str(wanted):
            return daemon
    socket = run_dir / f"{mount_name(wanted)}.sock"
    if socket.exists() and not any(daemon.socket == socket for daemon in found):
        if (line := _killed(str(wanted))) in killed(run_dir):
            raise UsageError(line)
        # Ask it again for the reason: it may be stuck, or gone.
        return Running(socket, _status(socket))
    raise UsageError(f"no daemon serves {wanted}; {_listed(found)}")


def _status(path: Path) -> Status:
    with Client(path, timeout=STATUS_TIMEOUT) as client:
        return cast(Status, client.call("status"))


def _listed(found: list[Running]) -> str:
    if not found:
        return "none runs here"
    return "served: " + ", ".join(sorted(daemon.mount for daemon in found))
