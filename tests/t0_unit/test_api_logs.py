"""Logs: one line a message, facts beside it, and never in the way of the event loop."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from swmld import logs
from swmld.logs import JsonFormatter, TextFormatter
from swmld.sdnotify import notify

ODD_NAME = os.fsdecode(b"a\xff\nb c")


def record(message: str, *args: object, **facts: object) -> logging.LogRecord:
    made = logging.LogRecord("swmld.x", logging.WARNING, __file__, 1, message, args, None)
    made.created = 1_700_000_000.1239
    vars(made).update(facts)
    return made


def test_text_is_one_line_with_the_facts() -> None:
    line = TextFormatter().format(record("file %s gone", ODD_NAME, path=ODD_NAME, files=3, empty=""))
    assert line == (
        r"2023-11-14T22:13:20.123Z warning swmld.x: file a\udcff\nb c gone"
        r' path="a\\udcff\\nb c" files=3 empty=""'
    )


def test_json_is_one_object_a_line() -> None:
    line = JsonFormatter().format(record("gone %d", 7, path=b"a\xff", time="not the time"))
    assert "\n" not in line
    found = json.loads(line)
    assert found == {
        "time": "2023-11-14T22:13:20.123Z",
        "level": "warning",
        "logger": "swmld.x",
        "message": "gone 7",
        "path": "a\udcff",
    }


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_traceback_is_kept(formatter: logging.Formatter) -> None:
    made = record("failed")
    try:
        raise KeyError("why")
    except KeyError:
        made.exc_info = sys.exc_info()
    assert "KeyError: 'why'" in formatter.format(made)


PROGRAM = """
import logging, sys
from swmld import logs

class Settings:
    log_level, log_format = sys.argv[1:3]

logs.setup(Settings())
log = logging.getLogger("swmld.test")
{body}
"""


def run(body: str, level: str = "info", kind: str = "json") -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body), level, kind],
        stderr=subprocess.PIPE,
        timeout=60,
        check=True,
    )
    return done.stderr.decode().splitlines()


def test_a_process_writes_all_its_lines_before_it_ends() -> None:
    lines = run("for number in range(3000): log.info('line', extra={'number': number})")
    assert [json.loads(line)["number"] for line in lines] == list(range(3000))


def test_levels_are_kept_and_libraries_told_down() -> None:
    body = "log.info('no'); log.warning('yes'); logging.getLogger('other').info('no')"
    assert [json.loads(line)["message"] for line in run(body, "warning")] == ["yes"]
    body = "log.debug('yes'); logging.getLogger('other').info('no'); logging.getLogger('other').error('yes')"
    assert [json.loads(line)["message"] for line in run(body, "debug")] == ["yes", "yes"]


def test_a_second_setup_takes_over() -> None:
    lines = run("Settings.log_format = 'text'; logs.setup(Settings()); log.info('once')")
    assert len(lines) == 1
    assert re.fullmatch(r"\S+Z info swmld.test: once", lines[0])


def test_a_reader_that_stops_costs_lines_but_never_blocks() -> None:
    """More is logged than pipe and queue hold while nobody reads: the process goes on all the same."""
    amount = logs.QUEUE_LINES + 10_000
    program = PROGRAM.format(
        body=f"""
for number in range({amount}):
    log.info('x' * 100)
print('done', flush=True)
sys.stdin.read()
log.info('last')
"""
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, "info", "json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"done\n"
        # Now somebody reads: what was queued comes, then the number of what was not.
        first = process.stderr.readline()
        for _ in range(logs.QUEUE_LINES // 2):
            process.stderr.readline()
        process.stdin.close()
        rest = process.stderr.read().splitlines()
    assert json.loads(first)["message"] == "x" * 100
    found = [json.loads(line) for line in rest]
    dropped = [line["lines"] for line in found if line["message"] == "log lines dropped"]
    kept = 1 + logs.QUEUE_LINES // 2 + sum(line["message"] == "x" * 100 for line in found)
    assert kept + sum(dropped) == amount
    assert found[-1]["message"] == "last"


def test_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    assert not notify("READY=1")  # nobody listens
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        assert notify("READY=1\nSTATUS=é")
        assert manager.recv(100) == "READY=1\nSTATUS=é".encode()


def test_notify_at_an_abstract_address(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"swmld-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        assert notify("STOPPING=1")
        assert manager.recv(100) == b"STOPPING=1"
