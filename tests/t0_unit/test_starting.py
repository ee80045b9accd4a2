"""How a daemon begins: who reads the command line, and what it keeps of that."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from swmld.cli import starting
from swmld.cli.main import app
from swmld.config import live
from swmld.config.load import resolve
from swmld.config.models import PathRule, Settings
from swmld.config.settled import settled


def test_the_commands_are_known() -> None:
    command = typer.main.get_command(app)
    assert set(command.commands) == starting.COMMANDS  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "daemon"),
    [
        ("--mount /m", True),
        ("--mount /m --source seaweedfs://h:1/x", True),
        ("", True),
        ("--bogus", True),
        ("status", False),
        ("--mount /m status", False),
        ("--mount /m --demo", False),
        ("--help", False),
        ("-h", False),
        ("--version", False),
    ],
)
def test_what_asks_for_a_daemon(arguments: str, daemon: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("_SWMLD_COMPLETE", raising=False)
    assert starting.is_daemon(arguments.split()) is daemon
    monkeypatch.setenv("_SWMLD_COMPLETE", "complete_bash")
    assert not starting.is_daemon(arguments.split())


def settings() -> Settings:
    options = {"mount": "/m/n", "source": "s3://bucket/x?region=eu", "cache_size": "1GiB", "free_floor": "3%"}
    resolved = resolve([], options, {}, {"paths": [{"glob": "*.bin", "check": "strict"}]})
    return resolved.settings


def test_what_a_daemon_keeps_reads_the_same() -> None:
    before = settings()
    after = pickle.loads(pickle.dumps(settled(before)))
    for key in (*Settings.model_fields, "name", "socket_path"):
        if key != "paths":
            assert getattr(after, key) == getattr(before, key), key
    assert after.paths == (SimpleNamespace(glob="*.bin", check=before.check.STRICT, interval=None),)
    assert {*vars(after.paths[0])} == {*PathRule.model_fields}


def test_what_a_daemon_keeps_takes_over_changes() -> None:
    before = settled(settings())
    after = live.taken_over(before, {"cache_size": "2GiB"}, {"free_floor"})
    assert after.cache_size == 2 << 30
    assert before.cache_size == 1 << 30
    assert after.free_floor == before.free_floor
    assert after.source == before.source


HEAVY = ("pydantic", "pydantic_core", "typer", "click", "rich", "yaml", "prometheus_client", "hypercorn")


def test_a_daemon_holds_nothing_that_only_commands_need(tmp_path: Path) -> None:
    """Each of these is 1 to 8 MB of its memory."""
    (tmp_path / "mnt").mkdir()
    (tmp_path / "src").mkdir()
    program = (
        "import sys\n"
        "from swmld.cli import starting\n"
        "import swmld.app\n"
        "def run(settings, fixed, watched):\n"
        f"    held = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "    print(held, settings.cache_size, sorted(fixed))\n"
        "    return 7\n"
        "swmld.app.run = run\n"
        "sys.exit(starting.start(sys.argv[1:]))\n"
    )
    options = ["--mount", tmp_path / "mnt", "--source", tmp_path / "src", "--cache-dir", tmp_path / "cache"]
    argv = [sys.executable, "-c", program, *options, "--run-dir", tmp_path / "run"]
    done = subprocess.run([*argv, "--cache-size", "1GiB"], capture_output=True, text=True, check=False)
    assert done.stdout == f"[] {1 << 30} ['cache_dir', 'cache_size', 'mount', 'run_dir', 'source']\n"
    assert done.returncode == 7
    file = tmp_path / "swmld.yaml"
    file.write_text("chunk_size: 1MiB\n")
    done = subprocess.run([*argv, "--config", file], capture_output=True, text=True, check=False)
    assert "'pydantic'" not in done.stdout
    assert done.returncode == 7


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [(["--bogus"], 2, "No such option"), (["--mount", "/no/such"], 2, "/no/such"), ([], 2, "mount")],
)
def test_what_is_wrong_is_said_once(options: list[str], code: int, said: str) -> None:
    argv = [sys.executable, "-m", "swmld.cli", *options]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.startswith("swmld: ")
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_reader_that_is_killed_is_told(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from swmld.cli import starting\n"
        "starting._read = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.exit(starting.start(['--mount', '/m']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 128 + 9
