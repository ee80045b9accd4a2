"""What the kernel holds of BPF, and the loader of the probes by itself."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

KINDS = ("prog", "map", "link")
_ID = re.compile(r"^(prog|map|link)_id:\s*(\d+)$", re.MULTILINE)
GONE = 20.0  # seconds; the kernel frees programs and maps after a grace period of its own

Ids = set[tuple[str, int]]


def ask(*what: str | int) -> list[dict[str, Any]]:
    done = subprocess.run(["bpftool", "--json", *map(str, what)], capture_output=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout or b"[]")
    return found


def in_kernel() -> Ids:
    """All programs, maps and links there are, of whomever."""
    return {(kind, one["id"]) for kind in KINDS for one in ask(kind)}


def pids() -> list[int]:
    """Of all processes."""
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def held(*pids: int) -> Ids:
    """What these processes keep alive: by descriptors, and what that refers to."""
    found: Ids = set()
    for pid in pids:
        for path in Path(f"/proc/{pid}/fdinfo").glob("*"):
            with contextlib.suppress(OSError):
                text = path.read_text()
                found |= {(kind, int(number)) for kind, number in _ID.findall(text)}
    loaded = [one for one in ask("prog") if ("prog", one["id"]) in found]
    used = {("map", number) for one in loaded for number in one.get("map_ids", [])}
    return found | used


def wait_gone(ids: Ids) -> None:
    deadline = time.monotonic() + GONE
    while left := ids & in_kernel():
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.05)


def load(state: Path, way: str, **environment: str) -> dict[str, Any]:
    """The report of the loader alone."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "swmld.observe.loader", "--state", state, "--way", way],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    (line,) = done.stdout.splitlines()
    report: dict[str, Any] = json.loads(line)
    return report


def python(base: Path, code: str) -> dict[str, str]:
    """An environment whose interpreters run this first."""
    place = base / "before"
    place.mkdir()
    (place / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH")]))}


def without_bcc(base: Path) -> dict[str, str]:
    """An interpreter that finds no bcc."""
    return python(base, "import sys\nsys.modules['bcc'] = None\n")
