"""Record the corpus anew: run each program of ``labels.yaml`` on a real mount, keep what the probes say.

    .venv/bin/python tests/corpus/record.py [--missing] [NAME ...]

Needs root, FUSE, the probes and the packages in ``programs``. What names the machine is left out of a trace:
see ``Scrubbed``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import data
import yaml
from support.mount import Daemon
from support.tree import work_dir
from swmld.api.client import Client
from swmld.errors import HostError
from swmld.observe.encoding import pack, unpack
from swmld.observe.recording import Writer

HERE = Path(__file__).parent

TICKS = 2.3
"""Seconds after a program's end in which the last counters come: they are read once a second."""

PROGRAM_SECONDS = 120.0

STATE = HERE.parent.parent / "build" / "corpus-state"
"""Of the daemons: a tree of kernel headers is made there once."""

_DIRECTORIES = re.compile(r"""(?<![^\s='":])(?:\.\.)?(?:/[^\s='":/]*)*/""")


class Scrubbed:
    """Lines of a trace without paths of this machine, control groups, and names of processes that are not
    ``root`` or below it.
    """

    def __init__(self, root: int) -> None:
        self._family = {root}

    def line(self, line: Mapping[str, Any]) -> dict[str, Any]:
        if "processes" not in line:
            return dict(line)
        columns = unpack("processes", line["processes"])
        fields = list(columns)
        rows = [dict(zip(fields, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        for _ in rows:  # a child may stand before its parent
            self._family |= {row["pid"] for row in rows if row["parent"] in self._family}
        for row in rows:
            mine = row["pid"] in self._family
            row["command"] = _DIRECTORIES.sub("", row["command"]) if mine else ""
            row["comm"] = row["comm"] if mine else "other"
            row["cgroup"], row["container"] = "/", ""
        return {**line, "processes": pack("processes", [tuple(row[name] for name in fields) for row in rows])}


class Recording:
    """Writes what the daemon streams, from its start to ``stop``."""

    def __init__(self, daemon: Daemon, path: Path) -> None:
        self.lost = 0
        self.lines: list[dict[str, Any]] = []
        self.probe = ""
        self._path = path
        self._ready = threading.Event()
        self._client = Client(next(daemon.run_dir.glob("*.sock")), timeout=60.0)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        if not self._ready.wait(30):
            raise SystemExit("the daemon has no probes")

    def _run(self) -> None:
        with suppress(HostError):  # interrupted
            self._client.call("trace", {"raw": True, "interval": 0.5}, self._told)

    def _told(self, progress: dict[str, Any]) -> None:
        if "raw" in progress:
            self.lost += progress["raw"].get("lost", 0)
            self.lines.append(progress["raw"])
        else:
            self.probe = progress["snapshot"]["probe"]["how"]
            if self.probe not in ("fuse", "off"):  # the probes are there
                self._ready.set()

    def stop(self, root: int, marks: list[float]) -> int:
        """Bytes of the file."""
        self._client.interrupt()
        self._thread.join()
        scrubbed = Scrubbed(root)
        with Writer(self._path, mount="/mnt", force=True) as writer:
            # Before the rest: who replays needs the marks from the beginning.
            writer.write({"state": {"root": root, "marks": marks, "probe": self.probe}})
            for line in self.lines:
                writer.write(scrubbed.line(line))
        self._path.chmod(0o644)
        return self._path.stat().st_size


def environment() -> dict[str, str]:
    """For programs: the tests' interpreter by its short name, no downloads, few threads."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/nonexistent", "LANG": "C.UTF-8", "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": "/nonexistent",
        "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore",
        "TQDM_DISABLE": "1", "TORCH_CPP_LOG_LEVEL": "ERROR",
    }  # fmt: skip


def run(command: str, mount: Path) -> tuple[int, list[float]]:
    """The program in the mount; the pid of its root and the times of its marks."""
    if command.split()[0].endswith(".py"):
        command = f"python3 {command}"
    command = re.sub(r"^python3 (\w+\.py)", r"python3 ../programs/\1", command)
    begun = time.monotonic()
    argv = ["sh", "-c", f"exec {command}"] if not set("|;&") & set(command) else ["sh", "-c", command]
    with subprocess.Popen(
        argv, cwd=mount, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(timeout=PROGRAM_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            raise SystemExit(f"{command}: still running after {PROGRAM_SECONDS} s") from None
    if process.returncode:
        raise RuntimeError(f"{command}: exit {process.returncode}\n{err[-2000:]}")
    marks = [float(line.split()[1]) for line in out.splitlines() if line.startswith("mark ")]
    return process.pid, marks or [begun]


def record(name: str, entry: Mapping[str, Any]) -> None:
    begun = time.monotonic()
    with work_dir("swmld-corpus-") as base:
        shutil.copytree(HERE / "programs", base / "programs", ignore=shutil.ignore_patterns("__pycache__"))
        source = base / "src"
        source.mkdir()
        for wanted in entry["data"]:
            data.make(source, wanted)
        mode = "passthrough" if entry.get("passthrough", True) else "native"
        options = ("--state-dir", str(STATE), "--probe", "ebpf", "--probe-rate", "0")
        with Daemon(base, mode, source=source, options=options, expect_log=(".*",)) as daemon:
            if entry.get("warm"):
                run(entry["run"], daemon.mount)
            recording = Recording(daemon, HERE / "traces" / f"{name}.swt")
            root, marks = 0, [0.0]
            try:
                root, marks = run(entry["run"], daemon.mount)
                time.sleep(TICKS)
            finally:
                size = recording.stop(root, marks)
            lost = daemon.call("patterns")["probe"]["lost"]
    if recording.probe in ("fuse", "off") or recording.lost or any(lost.values()):
        raise RuntimeError(f"{name}: seen by {recording.probe}, lost {recording.lost} batches and {lost}")
    seconds = time.monotonic() - begun
    print(f"{name}: {size} bytes, {len(marks)} marks, {recording.probe}, {seconds:.1f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--missing", action="store_true", help="only those that have no trace")
    args = parser.parse_args()
    entries = yaml.safe_load((HERE / "labels.yaml").read_text())
    failed = []
    for name, entry in entries.items():
        there = (HERE / "traces" / f"{name}.swt").exists()
        if (args.names and name not in args.names) or (args.missing and there):
            continue
        try:
            record(name, entry)
        except (RuntimeError, AssertionError) as error:
            failed.append(name)
            (HERE / "traces" / f"{name}.swt").unlink(missing_ok=True)
            print(f"{name}: {error}", file=sys.stderr, flush=True)
    if failed:
        print(f"not recorded: {' '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
