"""What a full cache keeps: by default what was read again, and models where the shipped rules serve them."""

from __future__ import annotations

import sqlite3
import subprocess
from pathlib import Path

from support.mount import Daemon
from support.tree import require_mode
from test_fuse_rules import CHUNK, LIMIT, Ruled

ROOM = 41
"""Files of a chunk that the cache has room for."""
SERVING = """
templates:
  - id: serving
    rules: [model_preloading]
    parameters: {optimization_level: latency}
"""
OPTIONS = ("--chunk-size", "64KiB", "--cache-size", str(ROOM * (CHUNK + 4096)))


def serve(base: Path, *options: str) -> Daemon:
    require_mode("passthrough")
    return Daemon(base, "passthrough", options=(*OPTIONS, *options))


def scan(directory: Path) -> None:
    """Read all below it once, in order."""
    done = subprocess.run(["grep", "-rc", "no such words", directory], capture_output=True, timeout=LIMIT)
    assert done.returncode == 1, done.stderr


def let_an_hour_pass(daemon: Daemon) -> None:
    """For what is cached, by moving its uses back: they are compared with the clock of the machine."""
    daemon.stop()
    with sqlite3.connect(daemon.cache / "index.db") as index:
        index.execute("UPDATE files SET last_used=last_used - 3600")
    index.close()
    daemon.start()


def test_a_scan_does_not_drive_out_what_was_read_again(base: Path) -> None:
    """No rules: a `grep -r` through more than the cache holds."""
    with serve(base) as daemon:
        here = Ruled(daemon, base)
        work = [f"work/{number:02}" for number in range(24)]
        here.make(*work, *(f"scan/{number:03}" for number in range(2 * ROOM)), size=CHUNK)
        here.read(*work)
        let_an_hour_pass(daemon)
        here.read(*work)
        scan(here.mount / "scan")
        cached = set(here.cached())
        assert set(work) <= cached
        assert cached - set(work), "what was scanned last is there as well"
        here.read(*work)


def test_models_stay_while_data_streams_past_them(base: Path) -> None:
    """The built-in ``model_preloading``, as a configuration for inference names it. Models are read once."""
    rules = base / "rules.yaml"
    rules.write_text(SERVING)
    with serve(base, "--rules", str(rules)) as daemon:
        here = Ruled(daemon, base)
        here.make("models/a.safetensors", "models/b.pt", size=8 * CHUNK)
        here.make(*(f"requests/{number:03}" for number in range(2 * ROOM)), size=CHUNK)
        here.read("models/a.safetensors", "models/b.pt")
        scan(here.mount / "requests")
        cached = here.cached()
        assert cached["models/a.safetensors"] == cached["models/b.pt"] == 8 * CHUNK
        assert daemon.metric("swmld_evictions_total") > 0
