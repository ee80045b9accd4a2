"""``swmld staged`` and ``swmld flush``: what the daemon answers, and what they print."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from support.source_fakes import Held
from support.staging_kit import Area, On, nothing
from support.waiting import until
from swmld.api import staging as api
from swmld.api.client import Client
from swmld.api.control import ControlServer
from swmld.api.messages import METHODS
from swmld.api.metrics import StagedFigures
from swmld.api.staging import StagingApi
from swmld.cli import staged
from swmld.cli.main import run
from swmld.errors import UsageError

Call = Callable[..., tuple[int, str, str]]


pytestmark = pytest.mark.usefixtures("no_waiting_for_disks")


def below(given: object) -> bytes:
    if not isinstance(given, str):
        raise UsageError("path: expected text")
    return os.fsencode(given.removeprefix("/mnt/ml").strip("/"))


class Daemon:
    """A control socket alone, in a thread, with the methods of the staging area of ``/mnt/ml``."""

    def __init__(self, run_dir: Path, answering: StagingApi) -> None:
        self.path = run_dir / "mnt-ml.sock"
        self._answering = answering
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,), daemon=True)

    def __enter__(self) -> Daemon:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(30)
        assert not self._thread.is_alive()

    async def _main(self) -> None:
        async def status(params: dict[str, Any], progress: object) -> Any:
            return {"mount": "/mnt/ml"}

        server = ControlServer(self.path, {"status": status, **self._answering.handlers()})
        async with trio.open_nursery() as nursery:
            self._scope, self._token = nursery.cancel_scope, trio.lowlevel.current_trio_token()
            await nursery.start(server.run)
            self._ready.set()


@pytest.fixture
def daemon(back: Area, tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "run", StagingApi(back.staging, "", below)) as one:
        yield one


@pytest.fixture
def swmld_(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run([*arguments, "--run-dir", str(daemon.path.parent)])
        return code, *capsys.readouterr()

    return call


def test_the_methods_are_known(back: Area) -> None:
    assert set(StagingApi(back.staging, "", below).handlers()) <= set(METHODS)


def test_nothing_is_staged(swmld_: Call) -> None:
    assert swmld_("staged") == (0, "nothing is staged\n", "")
    assert swmld_("staged", "--json") == (0, "[]\n", "")
    assert swmld_("flush") == (0, "nothing waits to be uploaded\n", "")


def test_what_is_staged_is_listed(back: Area, swmld_: Call) -> None:
    back.put(b"a\xff", bytes(2048))
    back.put(b"other", b"x")
    (back.root / "other").write_bytes(b"theirs")
    file = back.create(b"open")
    back.source.meets = On("write", errno.EACCES, b"a\xff")
    assert len(back.drained()) == 1
    code, out, err = swmld_("staged")
    assert (code, err) == (0, "2 files, 2KiB wait; 1 put aside\n")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["NUMBER", "STATE", "SIZE", "AGE", "PATH", "WHY"]
    assert [(*line[:3], *line[4:7]) for line in lines[1:]] == [
        ("1", "failing", "2KiB", "a\\udcff", "Permission", "denied"),
        ("2", "aside", "1B", "other", "the", "source"),
        ("3", "open", "0B", "open"),
    ]
    aside = back.item(b"other")
    assert out.splitlines()[2].endswith(f"; FILE {aside.file}")
    items = json.loads(swmld_("staged", "--json")[1])
    assert [(item["number"], os.fsencode(item["path"]), item["state"]) for item in items] == [
        (1, b"a\xff", "failing"), (2, b"other", "aside"), (3, b"open", "open"),
    ]  # fmt: skip
    assert items[1]["file"] == str(aside.file)
    assert items[0]["changed"] > 0
    back.close_file(file)


def test_many_are_listed_in_pieces(back: Area, swmld_: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "ENTRIES_PER_LINE", 2)
    for number in range(5):
        back.put(b"%d" % number, b"x")
    assert len(json.loads(swmld_("staged", "--json")[1])) == 5


def test_what_was_put_aside_can_be_dropped(back: Area, swmld_: Call) -> None:
    back.put(b"waits", b"x")
    back.put(b"f", b"ours")
    (back.root / "f").write_bytes(b"theirs")
    back.source.meets = On("write", errno.EACCES, b"waits")
    assert len(back.drained()) == 1
    why = "swmld: 1: no file was put aside with this number; swmld staged lists them\n"
    assert swmld_("staged", "--drop", "1") == (2, "", why)
    assert swmld_("staged", "--drop", "2") == (0, "dropped f, 4B\n", "")
    assert swmld_("staged", "--drop", "2")[0] == 2
    assert back.items() == {b"waits": "failing"}
    back.source.meets = nothing


def test_flush_uploads_and_tells(back: Area, swmld_: Call) -> None:
    (back.root / "d").mkdir()
    for path in (b"a", b"d/b"):
        back.put(path, bytes(1024))
    with back.uploading_once_awaited():
        code, out, err = swmld_("flush", "/mnt/ml/d")
        assert (code, out.split(" in ")[0], err) == (0, "1 files uploaded, 1KiB", "")
        until(lambda: back.items() == {})
        assert json.loads(swmld_("flush", "--json")[1])["failed"] == []
    assert back.tree().keys() == {b"a", b"d/b"}


def test_flush_tells_what_could_not_be_uploaded(back: Area, swmld_: Call) -> None:
    for path in (b"a", b"b", b"c"):
        back.put(path, b"x")
    (back.root / "b").write_bytes(b"theirs")
    back.source.meets = On("write", errno.EACCES, b"a")
    with back.uploading_once_awaited():
        code, out, err = swmld_("flush")
    assert code == 1
    assert out.startswith("1 files uploaded, 1B in ")
    assert err.splitlines() == [
        "swmld: b: the source has another generation of it than the one that it was made of",
        "swmld: a: Permission denied",
        "swmld: 2 files are not uploaded: swmld staged",
    ]


def test_flush_tells_what_others_wait_for(back: Area, swmld_: Call) -> None:
    for path in (b"a", b"b"):
        back.put(path, b"x")
    back.source.meets = On("write", errno.EIO)
    with back.uploading_once_awaited():
        code, _, err = swmld_("flush", "/mnt/ml/b")
    assert code == 1
    assert err.splitlines()[0] == f"swmld: b: waits behind a: {os.strerror(errno.EIO)}"


def test_flush_tells_how_far_it_is(back: Area, daemon: Daemon) -> None:
    back.put(b"a", bytes(10))
    back.put(b"b", bytes(20))
    held = Held("write")
    back.source.meets = lambda kind, path: held(kind, path) if path == b"b" else None
    told: list[dict[str, Any]] = []

    def tell(at: dict[str, Any]) -> None:
        told.append(at)
        if at["done_files"] == 1:
            held.let_go()

    with back.uploading_once_awaited(), Client(daemon.path) as client:
        result = client.call("flush", {}, tell)
    assert {"done_bytes": 10, "total_bytes": 30, "done_files": 1, "total_files": 2} in told
    assert told[-1] == {"done_bytes": 30, "total_bytes": 30, "done_files": 2, "total_files": 2}
    assert (result["uploaded_files"], result["uploaded_bytes"], result["failed"]) == (2, 30, [])


def test_what_was_removed_meanwhile_is_neither(back: Area) -> None:
    for path in (b"a", b"b"):
        back.put(path, bytes(10))
    flush = back.staging.begin_flush(b"")
    back.staging.remove(b"a")
    back.put(b"c", bytes(5))
    at = flush.progress()
    assert (at.files, at.size, at.uploaded, at.failed) == (3, 25, 0, [(b"b", ""), (b"c", "")])
    back.drained()
    at = flush.progress()
    assert (at.uploaded, at.uploaded_bytes, at.failed) == (2, 15, [])


def test_where_nothing_is_staged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answering = StagingApi(None, "nothing is staged at /mnt/ml: it is read-only", below)
    assert (answering.status(), answering.figures(), answering.problems()) == (None, None, [])
    with Daemon(tmp_path / "run", answering):
        for command in (["staged"], ["flush"], ["flush", "/mnt/ml/x"], ["staged", "--drop", "1"]):
            assert run([*command, "--run-dir", str(tmp_path / "run")]) == 2
            assert capsys.readouterr() == ("", "swmld: nothing is staged at /mnt/ml: it is read-only\n")


def test_bad_requests(daemon: Daemon) -> None:
    with Client(daemon.path) as client:
        for method, params in (("staged.drop", {}), ("staged.drop", {"number": "x"}), ("flush", {"path": 7})):
            with pytest.raises(Exception, match="expected"):
                client.call(method, params)


def test_figures_and_problems(back: Area) -> None:
    answering = StagingApi(back.staging, "", below)
    assert answering.problems() == []
    back.put(b"a", bytes(3))
    back.put(b"f", b"ours")
    (back.root / "f").write_bytes(b"theirs")
    back.source.meets = On("write", errno.EACCES, b"a")
    assert len(back.drained()) == 1
    assert answering.figures() == StagedFigures(1, 3, 1, {"done": 0, "failed": 1, "conflict": 1}, 0)
    assert answering.status() == {
        "write": "back", "files": 1, "waiting_bytes": 3, "failing": 1, "aside": 1,
    }  # fmt: skip
    assert answering.problems() == [
        "uploads fail (Permission denied): 1 file is staged, see swmld staged",
        "conflicts: 1 file is put aside, see swmld staged",
    ]
    back.source.meets = nothing
    assert back.drained() == []
    back.staging.drop(back.item(b"f").number)
    assert answering.problems() == []


def test_an_age_is_never_negative() -> None:
    item = api.StagedItem(number=1, path="f", size=0, state="open", why="", changed=10.0, file="/x")
    assert staged.listing([item], 5.0)[1].split() == ["1", "open", "0B", "0ms", "f"]
