"""What works now: for Kubernetes' probes, load balancers and ``swmld status``.

Alive is who serves the mount: a source that does not answer is no reason to restart a daemon that still
serves what is cached, and whose end would take the files away that are open. Ready is who can serve all that
is read. So the source counts for readiness alone; a cache that takes nothing, rules that cannot be read and
uploads that fail cost no answers, and count for neither.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from swmld.api.messages import Health, Probe, RulesStatus
from swmld.config.floor import FreeFloor
from swmld.mount import mountpoint

DiskState = Literal["ok", "full", "failing"]


def health_of(
    *,
    mount: str,
    uptime: float,
    unserved: str,
    source_down: bool,
    disk: tuple[DiskState, str],
    probe: Probe,
    rules: RulesStatus | None,
    staged: Sequence[str] = (),
) -> Health:
    """What there is to say of what was found out. ``unserved``: why the mount does not serve; "": it does.
    ``staged``: what is wrong with files that were written."""
    problems = [unserved] if unserved else []
    if source_down:
        problems.append("the source does not answer: what is not cached cannot be read")
    if disk[0] != "ok":
        problems.append(f"{disk[1]}: nothing more is cached")
    if rules is not None and rules["error"]:
        problems.append(
            "the rules files changed and cannot be used: swmld rules ls"
            if rules["ruled"]
            else "the configuration changed and cannot be used: swmld status"
        )
    problems += staged
    return Health(
        status="down" if unserved else "degraded" if problems else "ok",
        ready=not unserved and not source_down,
        problems=problems,
        mount=mount,
        uptime=uptime,
        source="failing" if source_down else "ok",
        cache_disk=disk[0],
        probe=probe,
        rules=_rules_state(rules),
    )


def _rules_state(rules: RulesStatus | None) -> Literal["none", "valid", "kept-old"]:
    if rules is not None and rules["error"]:
        return "kept-old"
    return "valid" if rules is not None and rules["ruled"] else "none"


def why_unserved(mount: Path, mount_id: int) -> str:
    """Why nobody reaches our mount by its path; "" if they do. Blocking, and never asks the mount itself."""
    found = mountpoint.mount_at(mount)
    if found is not None and found.mount_id == mount_id:
        return ""
    if any(one.mount_id == mount_id for one in mountpoint.mounts()):
        return f"something else is mounted over {mount}"
    return f"{mount} is not mounted any more: only files that are open are served"


def disk_state(directory: Path, floor: FreeFloor, held: int, least: int) -> tuple[DiskState, str]:
    """Whether the cache could take ``least`` bytes more if all ``held`` bytes of it went; and why not.
    Blocking.
    """
    try:
        found = os.statvfs(directory)
    except OSError as error:
        return "failing", f"the cache's disk cannot be asked ({error.strerror})"
    if found.f_flag & os.ST_RDONLY:
        return "failing", "the cache's disk is read-only"
    free = found.f_bavail * found.f_frsize
    if free + held - floor.of(found.f_blocks * found.f_frsize) < least:
        return "full", "other files leave the cache no room on its disk"
    return "ok", ""
