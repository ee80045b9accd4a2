"""``swmld trace``, ``record`` and ``replay`` as commands: what is printed, where, and the exit code."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from support.traces import FakeFeed, Table, batch, job, snapshot, stream
from swmld.api.control import ControlServer
from swmld.api.patterns import PatternsApi
from swmld.cli import trace
from swmld.cli.main import run
from swmld.observe.encoding import Encoder
from swmld.observe.recording import Reader, Writer

LIMIT = 60
"""Seconds after which a child that does not end is killed: a test that hangs fails."""


class Daemon:
    """The control socket of a daemon with a fake feed, in a thread."""

    def __init__(self, run_dir: Path, mount: str = "/mnt/ml") -> None:
        self.feed = FakeFeed()
        self.mount = mount
        self._path = run_dir / (mount.strip("/").replace("/", "-") + ".sock")
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))

    def __enter__(self) -> Daemon:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        with contextlib.suppress(trio.RunFinishedError):  # it may be at its end by itself
            self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def call(self, function: Callable[[], Any]) -> Any:
        """Run it on the daemon's loop."""
        return trio.from_thread.run_sync(function, trio_token=self._token)

    async def _main(self) -> None:
        async def status(params: dict[str, Any], progress: Any) -> dict[str, Any]:
            return {"mount": self.mount}

        server = ControlServer(self._path, {"status": status, **PatternsApi(self.feed).handlers()})
        async with trio.open_nursery() as nursery:
            self._scope, self._token = nursery.cancel_scope, trio.lowlevel.current_trio_token()
            await nursery.start(server.run)
            self._ready.set()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def daemon(run_dir: Path) -> Iterator[Daemon]:
    with Daemon(run_dir) as one:
        yield one


@pytest.fixture
def swmld(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: str, there: bool = True) -> tuple[int, str, str]:
        code = run([*arguments, *(["--run-dir", str(run_dir)] if there else [])])
        out, err = capsys.readouterr()
        return code, out, err

    return call


# --- one table, lines


def test_once(daemon: Daemon, swmld: Any) -> None:
    code, out, err = swmld("trace", "--once")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "/mnt/ml  1 job  238.4MiB/s  lost 0  prefetch 1GiB, wasted 3MiB  probe btf"
    assert lines[1].split()[-1] == "WHY"
    assert lines[2].startswith("train.py 4242 ")
    assert lines[2].endswith("epochs of the same files, shuffled")
    assert "\x1b" not in out
    assert len(lines) == 5


def test_once_as_json(daemon: Daemon, swmld: Any) -> None:
    code, out, _ = swmld("trace", "--once", "--json")
    assert code == 0
    (line,) = out.splitlines()
    assert json.loads(line) == {"mount": "/mnt/ml", **json.loads(json.dumps(daemon.feed.found))}


def test_json_has_what_help_says(daemon: Daemon, swmld: Any) -> None:
    found = json.loads(swmld("trace", "--once", "--json")[1])
    said = trace.HELP[trace.HELP.index("--json prints") :]
    one = found["jobs"][0]
    views = {"A job has": one, "a dataset": one["datasets"][0], "a stream": one["streams"][0]}
    for words, view in views.items():
        part = re.split(r"[;.]", said[said.index(words) :].replace("\n", " "))[0]
        names = re.findall(r"[a-z_]+", re.sub(r"\(.*?\)", "", part.removeprefix(words)))
        assert {name for name in names if name not in ("and", "of")} <= set(view), words
    assert {"at", "jobs", "probe", "prefetch", "left_out"} <= set(found)


def test_lines_until_the_time_is_over(daemon: Daemon, swmld: Any) -> None:
    code, out, err = swmld("trace", "--json", "--for", "300ms", "--interval", "100ms")
    assert (code, err) == (0, "")
    assert 3 <= len(out.splitlines()) <= 5
    assert {json.loads(line)["mount"] for line in out.splitlines()} == {"/mnt/ml"}
    code, out, _ = swmld("trace", "--for", "100ms", "--interval", "1h")
    assert code == 0
    assert out.count("JOB, DATASET, FILE") == 2


def test_filters_are_the_daemons(daemon: Daemon, swmld: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    two = snapshot(job(), job(job=50, pids=[50], datasets=[], streams=[stream(pid=50, path="val/a.npy")]))
    daemon.feed.found = two

    def jobs(*arguments: str) -> list[int]:
        return [one["job"] for one in json.loads(swmld("trace", "--once", "--json", *arguments)[1])["jobs"]]

    assert jobs("--job", "50") == jobs("--pid", "50") == jobs("--path", "val") == [50]
    assert jobs("--path", "/mnt/ml/train") == [4242]
    assert jobs("--path", "/mnt/ml") == [4242, 50]
    assert jobs("--path", "*.npy") == [50]
    assert jobs("--path", "none/*") == []


def test_a_path_that_is_there_may_be_read_yet(
    daemon: Daemon, swmld: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "lexists", lambda path: path == "/mnt/ml/later")
    code, out, _ = swmld("trace", "--once", "--json", "--path", "later")
    assert (code, json.loads(out)["jobs"]) == (0, [])
    assert swmld("trace", "--once", "--path", "late")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pid", "99"], "no process 99 has read this mount"),
        (["--job", "99"], "no job 99 has read this mount"),
        (["--once", "--pid", "99"], "no process 99 has read this mount"),
        (["--path", "/etc"], "--path: /etc is not under /mnt/ml"),
        (["--path", "../x"], "--path: /mnt/x is not under /mnt/ml"),
        (["--for", "soon"], "--for: cannot read 'soon'"),
        (["--for", "1ms"], "--for: expected 100ms or more"),
        (["--interval", "1ms"], "--interval: expected 100ms to 1h"),
        (["--mount", "/other"], "no daemon serves /other; served: /mnt/ml"),
        (["--path", "none"], "--path: none is not there, and nobody has read it"),
        (["--once", "--json", "--path", "/mnt/ml/none"], "--path: none is not there, and nobody has read it"),
        (["--pid", "x"], "Invalid value for '--pid': expected a whole number (see"),
        (["replay", "f", "--speed", "x"], "Invalid value for '--speed': expected a number (see"),
        (["bogus"], "No such command 'bogus'"),
    ],
)
def test_what_cannot_work_is_one_line(daemon: Daemon, swmld: Any, arguments: list[str], said: str) -> None:
    code, out, err = swmld("trace", *arguments, there=arguments[0] not in ("bogus", "replay"))
    assert (code, out) == (2, "")
    assert err.startswith("swmld: ")
    assert said in err
    assert err.count("\n") == 1


def test_options_of_record_stand_after_it(swmld: Any, tmp_path: Path) -> None:
    code, _, err = swmld("trace", "--mount", "/mnt/ml", "record", str(tmp_path / "f"), there=False)
    assert (code, err) == (2, "swmld: swmld trace record: its options stand after its name\n")
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("command", [["trace"], ["trace", "--once"], ["trace", "record", "/nonexistent/f"]])
def test_without_a_daemon(swmld: Any, command: list[str]) -> None:
    code, _, err = swmld(*command)
    assert (code, err) == (2, "swmld: no swmld daemon runs here; start one with: swmld --mount DIR\n")


def test_a_dead_daemon(swmld: Any, run_dir: Path) -> None:
    run_dir.mkdir()
    (run_dir / "mnt-ml.sock").touch()
    code, _, err = swmld("trace", "--mount", "/mnt/ml")
    assert code == 2
    assert err.count("\n") == 1


def test_only_root_may(swmld: Any, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert swmld("trace") == (2, "", "swmld: needs root, as the daemon does: run it with sudo\n")


def test_only_root_may_where_the_directory_is_open_to_all(
    swmld: Any, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir.mkdir(mode=0o755)
    (run_dir / "mnt-ml.sock").touch()  # who may write to it is refused by nobody, and who listens is gone
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert swmld("trace")[2].startswith("swmld: no swmld daemon runs here")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert swmld("trace") == (2, "", "swmld: needs root, as the daemon does: run it with sudo\n")


def test_a_daemon_that_dies_meanwhile(daemon: Daemon, swmld: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_print", lambda *arguments, **options: daemon.stop())
    code, _, err = swmld("trace", "--json", "--interval", "100ms")
    assert (code, err) == (1, "swmld: the daemon ended before it answered\n")


def test_ctrl_c(daemon: Daemon, swmld: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trace, "_print", interrupted)
    assert swmld("trace", "--json") == (130, "", "")


# --- recording


def test_record_and_what_is_in_it(daemon: Daemon, swmld: Any, tmp_path: Path) -> None:
    feed = daemon.feed
    feed.names.add(10, "x", 100_000, index=0)
    feed.processes.start(5, 4)
    sent = batch(1.0, [(5, 10)])

    def send() -> None:
        trio.from_thread.run(feed.subscribed.wait, trio_token=daemon._token)
        daemon.call(lambda: feed.send(sent._replace(lost=3)))

    sender = threading.Thread(target=send)
    sender.start()
    code, out, err = swmld("trace", "record", str(tmp_path / "f"), "--for", "500ms")
    sender.join(10)
    assert (code, out) == (0, "")
    assert re.match(rf"{tmp_path}/f: \S+ of /mnt/ml in \S+B\nswmld: 3 batches came faster", err)
    with Reader(tmp_path / "f") as reader:
        assert list(reader) == [sent._replace(lost=3)]
        assert reader.header["mount"] == "/mnt/ml"
        assert reader.state["probe"]["how"] == "btf"
        assert reader.of(5).job == 4  # type: ignore[union-attr]


def test_record_does_not_replace(daemon: Daemon, swmld: Any, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("dear")
    code, _, err = swmld("trace", "record", str(tmp_path / "f"))
    assert (code, err) == (2, f"swmld: {tmp_path}/f exists already; --force replaces it\n")
    assert (tmp_path / "f").read_text() == "dear"
    assert swmld("trace", "record", str(tmp_path / "f"), "--force", "--for", "100ms")[0] == 0
    with Reader(tmp_path / "f"):
        pass


def test_record_on_a_full_disk(daemon: Daemon, swmld: Any) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    code, _, err = swmld("trace", "record", "/dev/full", "--force", "--for", "200ms")
    assert (code, err) == (1, "swmld: /dev/full: No space left on device\n")


def test_a_daemon_that_dies_leaves_a_whole_recording(daemon: Daemon, swmld: Any, tmp_path: Path) -> None:
    def end() -> None:
        trio.from_thread.run(daemon.feed.subscribed.wait, trio_token=daemon._token)
        daemon.call(daemon._scope.cancel)

    threading.Thread(target=end).start()
    code, _, err = swmld("trace", "record", str(tmp_path / "f"))
    assert (code, err) == (1, "swmld: the daemon ended before it answered\n")
    with Reader(tmp_path / "f") as reader:
        assert list(reader) == []
        assert reader.cut is None


# --- replay


def recorded(path: Path, seconds: int = 5) -> Path:
    """A run of ``seconds`` in which a process reads one directory's files in order, twenty a second."""
    table = Table()
    table.start(5, 5)
    count = seconds * 20
    table.folders[2] = table.folders[2]._replace(files=count)
    for number in range(count):
        table.add(100 + number, f"{number:05}.jpg", 100_000, index=number)
    encoder = Encoder(table, table)
    with Writer(path, mount="/mnt/ml") as writer:
        for at in range(seconds):
            files = [(5, 100 + at * 20 + number) for number in range(20)]
            for line in encoder.lines(batch(1000.0 + at, files, 0.05)):
                writer.write(line)
        writer.write({"state": {"prefetch": {"used_bytes": 1 << 20, "wasted_bytes": 0}}})
    return path


def test_replay_once(tmp_path: Path, swmld: Any) -> None:
    recorded(tmp_path / "f")
    code, out, err = swmld("trace", "replay", str(tmp_path / "f"), "--once", there=False)
    assert (code, err) == (0, "")
    assert "prefetch 1MiB, wasted 0B" in out
    assert re.search(r"^  train/ +sorted ", out, re.MULTILINE), out
    assert re.search(r"^train.py 5 ", out, re.MULTILINE), out


def test_replay_as_json(tmp_path: Path, swmld: Any) -> None:
    recorded(tmp_path / "f")
    code, out, _ = swmld("trace", "replay", str(tmp_path / "f"), "--json", "--speed", "0", there=False)
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [round(line["at"] - lines[0]["at"]) for line in lines] == [0, 1, 2, 3, 4, 4]
    assert [len(line["jobs"]) for line in lines] == [0, 1, 1, 1, 1, 1]
    (view,) = lines[-1]["jobs"]
    assert (view["job"], view["datasets"][0]["files_seen"]) == (5, 100)
    code, out, _ = swmld("trace", "replay", str(tmp_path / "f"), "--once", "--json", "--path", "/mnt/ml/none",
                         there=False)  # fmt: skip
    assert [json.loads(line)["jobs"] for line in out.splitlines()] == [[]]


@pytest.mark.parametrize(
    "state",
    [7, [], {}, {"probe": "btf"}, {"probe": {"lost": 7}},
     {"probe": {"how": "btf", "why": "", "lost": {"x": "y"}}},
     {"prefetch": {"used_bytes": 1}}, {"prefetch": {"used_bytes": "1", "wasted_bytes": 2}}],
)  # fmt: skip
def test_replay_of_another_writers_state(tmp_path: Path, swmld: Any, state: Any) -> None:
    with Writer(tmp_path / "f") as writer:
        writer.write({"state": state})
    code, out, err = swmld("trace", "replay", str(tmp_path / "f"), "--once", there=False)
    assert (code, err) == (0, "")
    assert out.startswith(f"{tmp_path}/f  0 jobs")


def test_replay_of_what_was_cut_off(tmp_path: Path, swmld: Any) -> None:
    data = recorded(tmp_path / "f", 200).read_bytes()
    (tmp_path / "f").write_bytes(data[: len(data) * 3 // 4])
    code, out, err = swmld("trace", "replay", str(tmp_path / "f"), "--once", there=False)
    assert code == 0
    assert err.startswith(f"swmld: {tmp_path}/f is cut off")
    assert "train/" in out


@pytest.mark.parametrize("arguments", [["--once"], ["--json"], []])
def test_replay_of_a_foreign_file(tmp_path: Path, swmld: Any, arguments: list[str]) -> None:
    (tmp_path / "f").write_text("text")
    code, out, err = swmld("trace", "replay", str(tmp_path / "f"), *arguments, there=False)
    assert (code, out, err) == (2, "", f"swmld: {tmp_path}/f is not a recording of swmld trace\n")
    code, _, err = swmld("trace", "replay", str(tmp_path / "none"), there=False)
    assert (code, err) == (2, f"swmld: {tmp_path}/none: No such file or directory\n")


# --- as processes: signals, terminals, pipes


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "TERM": "xterm-256color", **more}


class Terminal:
    """``swmld`` on a terminal of its own of 80 columns and 24 lines."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            try:
                os.environ.update(environment(**variables))
                os.execv(sys.executable, [sys.executable, "-m", "swmld.cli", *arguments])
            finally:
                os._exit(127)
        self.text = ""
        self.code: int | None = None

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)

    def until(self, word: str) -> None:
        """Read until ``word`` is written."""
        while word not in self.text:
            assert self._read(), f"ended before {word!r}: {self.text!r}"

    def write(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def end(self) -> int:
        """The exit code."""
        while self._read():
            pass
        _, status = os.waitpid(self.pid, 0)
        self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def _read(self) -> bool:
        ready, _, _ = select.select([self._fd], [], [], LIMIT)
        assert ready, f"nothing came in {LIMIT} seconds after {self.text[-500:]!r}"
        try:
            piece = os.read(self._fd, 65536)
        except OSError:  # EIO: the other end is closed
            return False
        self.text += piece.decode(errors="replace")
        return bool(piece)


RESTORED = "\x1b[?1049l"
"""Leaves the alternate screen."""


@pytest.mark.parametrize(
    ("leave", "code"),
    [
        (lambda terminal: terminal.write("q"), 0),
        (lambda terminal: terminal.write("\x03"), 130),
        (lambda terminal: os.kill(terminal.pid, signal.SIGTERM), 128 + signal.SIGTERM),
        (lambda terminal: os.kill(terminal.pid, signal.SIGHUP), 128 + signal.SIGHUP),
    ],
    ids=["q", "ctrl-c", "SIGTERM", "SIGHUP"],
)
def test_the_terminal_is_given_back(
    daemon: Daemon, run_dir: Path, leave: Callable[[Terminal], None], code: int
) -> None:
    with Terminal("trace", "--run-dir", str(run_dir)) as terminal:
        terminal.until("shuffled")
        leave(terminal)
        assert terminal.end() == code
        assert RESTORED in terminal.text
        assert "Traceback" not in terminal.text


def test_the_live_view_ends_with_its_daemon(daemon: Daemon, run_dir: Path) -> None:
    with Terminal("trace", "--run-dir", str(run_dir)) as terminal:
        terminal.until("shuffled")
        daemon.stop()
        assert terminal.end() == 1
        assert "swmld: the daemon ended before it answered" in terminal.text.partition(RESTORED)[2]


def test_the_live_view_ends_after_some_time(daemon: Daemon, run_dir: Path) -> None:
    with Terminal("trace", "--for", "1s", "--run-dir", str(run_dir)) as terminal:
        assert terminal.end() == 0
        assert "shuffled" in terminal.text


def test_an_unknown_process_leaves_the_terminal_alone(daemon: Daemon, run_dir: Path) -> None:
    with Terminal("trace", "--pid", "99", "--run-dir", str(run_dir)) as terminal:
        assert terminal.end() == 2
        assert terminal.text.endswith("swmld: no process 99 has read this mount\r\n")


def test_a_terminal_that_can_nothing_gets_lines(daemon: Daemon, run_dir: Path) -> None:
    with Terminal("trace", "--for", "100ms", "--run-dir", str(run_dir), TERM="dumb") as terminal:
        assert terminal.end() == 0
        assert "shuffled" in terminal.text
        assert "\x1b" not in terminal.text


def test_no_color(daemon: Daemon, run_dir: Path) -> None:
    with Terminal("trace", "--once", "--run-dir", str(run_dir)) as terminal:
        assert terminal.end() == 0
        assert re.search(r"\x1b\[[0-9;]*3[0-7]", terminal.text)
    with Terminal("trace", "--once", "--run-dir", str(run_dir), NO_COLOR="1") as terminal:
        assert terminal.end() == 0
        assert not re.search(r"\x1b\[[0-9;]*[34][0-7]", terminal.text)


def test_a_live_replay(tmp_path: Path) -> None:
    recorded(tmp_path / "f")
    with Terminal("trace", "replay", str(tmp_path / "f"), "--speed", "0") as terminal:
        terminal.until("sorted")
        terminal.until("ended")
        terminal.write("q")
        assert terminal.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_recording_is_ended_by_a_signal(
    daemon: Daemon, run_dir: Path, tmp_path: Path, number: signal.Signals
) -> None:
    argv = [
        sys.executable,
        "-m",
        "swmld.cli",
        "trace",
        "record",
        str(tmp_path / "f"),
        "--run-dir",
        str(run_dir),
    ]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, env=environment()) as process:
        try:
            trio.from_thread.run(daemon.feed.subscribed.wait, trio_token=daemon._token)
            for at in range(10):
                daemon.call(lambda at=at: daemon.feed.send(batch(float(at), [(5, 10)])))
            process.send_signal(number)
            _, err = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    assert process.returncode == 0
    assert b"of /mnt/ml in" in err
    with Reader(tmp_path / "f") as reader:
        assert len(list(reader)) <= 10
        assert reader.cut is None


def test_a_pipe_that_closes_is_no_traceback(daemon: Daemon, run_dir: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "swmld.cli",
        "trace",
        "--json",
        "--interval",
        "100ms",
        "--run-dir",
        str(run_dir),
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        try:
            assert process.wait(LIMIT) == 1
            assert process.stderr is not None
            assert process.stderr.read() == b""
        finally:
            process.kill()
