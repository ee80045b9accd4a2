"""Files that are made to hurt: each command that reads one refuses it soon, in little memory, with a line."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
)
MEMORY = 1 << 30
"""Bytes of address space that the commands may take: those of the interpreter, its libraries, and 150 MB."""
SECONDS = 100
"""After which they are taken to hang; they take some seconds together."""


def text(content: str | bytes) -> Callable[[Path], None]:
    return lambda path: (path.write_bytes(content if isinstance(content, bytes) else content.encode()), None)[
        1
    ]


def large(path: Path) -> None:
    path.touch()
    os.truncate(path, 100 << 20)


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "bomb": (text(BOMB), "expected at most"),
    "bomb of rules": (text(BOMB + "\nrules: *a11\n"), "expected at most"),
    "cycle": (text("rules: &r\n  - *r\n"), "&r holds itself"),
    "cycle of merges": (text("settings: &s\n  <<: *s\n"), "&s holds itself"),
    "duplicate keys": (
        text("settings: {debug: true}\nsettings: {debug: false}\n"),
        "given twice, first in line 1",
    ),
    "duplicate keys below": (
        text("rules:\n- {id: a, id: b, conditions: [], actions: [{type: cache}]}\n"),
        "given twice",
    ),
    "100 MB": (large, "at most"),
    "depth": (text("rules: " + "[" * 100_000), "nested too deeply"),
    "depth of mappings": (text("rules: " + "{a: " * 3000 + "}" * 3000), "nested too deeply"),
    "binary": (text(b"\x7fELF\x02\x01\x01\0\0\xff\xfe" * 1000), "not YAML"),
    "no UTF-8": (text(b"rules: \xff\xfe\n"), "not YAML"),
    "FIFO": (os.mkfifo, "expected a file or a directory"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "expected a file or a directory"),
    "loop": (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    "nothing": (lambda path: None, "No such file or directory"),
    "slow expression": (
        text("rules:\n- {id: r, condition: '" + "(" * 4000 + "', actions: [{type: cache}]}\n"),
        "expression",
    ),
    "tag": (text("settings: !!python/object/apply:os.system ['touch hurt']\n"), "expected keys with values"),
}
COMMANDS = {
    "validate": ["validate", "{}"],
    "validate --json": ["validate", "--json", "{}"],
    "rules match": ["rules", "match", "{}", "--facts", "{}"],
    "config show": ["config", "show", "--config", "{}"],
    "config show --rules": ["config", "show", "--rules", "{}"],
    "test-rules": ["test-rules", "{}", "/dev/null"],
    "daemon": ["--mount", "/nowhere", "--config", "{}"],
}
# In one process, so that the interpreter starts once.
PROGRAM = """
import contextlib, functools, io, json, sys
import typer.main
from swmld.cli.main import run
typer.main.get_command = functools.cache(typer.main.get_command)  # most of the time of a command that refuses
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(arguments)
    print(json.dumps([code, out.getvalue()[-3000:], err.getvalue()[-3000:]]), flush=True)
"""


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


Results = dict[str, list[tuple[int, str, str]]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    base = tmp_path_factory.mktemp("hostile")
    wanted = []
    for number, (make, _) in enumerate(HOSTILE.values()):
        path = base / f"{number}.yaml"
        make(path)
        wanted += [[each.format(path) for each in command] for command in COMMANDS.values()]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(wanted), cwd=base, preexec_fn=limited,
        capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(wanted)
    assert not (base / "hurt").exists()
    every = len(COMMANDS)
    return {name: lines[n * every : (n + 1) * every] for n, name in enumerate(HOSTILE)}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused(name: str, results: Results) -> None:
    said = HOSTILE[name][1]
    for command, (code, out, err) in zip(COMMANDS, results[name], strict=True):
        assert code == 2, (command, out, err)
        assert all(line.startswith("swmld: ") for line in err.splitlines()), command
        # What is wrong with rules alone the daemon tells after it has looked for the mount.
        later = command == "daemon" and "/nowhere does not exist" in err
        assert said in out + err or later, (
            command,
            out,
            err,
        )
