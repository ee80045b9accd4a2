"""Rules files change under a running daemon: real files, the real watcher, a head that notes what it gets."""

from __future__ import annotations

import errno
import gc
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import watchfiles
from swmld.config.load import check, said
from swmld.head import reload
from swmld.head.reload import first, watch
from swmld.head.rulesfiles import Files
from swmld.rules.decide import Engine
from swmld.rules.ruleset import RulesError, RuleSet

NEVER = 3600.0
OFTEN = 0.05


def text(*names: str) -> str:
    rules = [f"  - {{id: {name}, conditions: [size > 1], actions: [{{type: cache}}]}}\n" for name in names]
    return "rules:\n" + "".join(rules) if rules else "rules: []\n"


def put(path: Path, content: str) -> None:
    """Write the file such that nobody sees half of it."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(content)
    os.replace(new, path)


class FakeHead:
    """What is in use: ids of rules, and each of their sets so far."""

    def __init__(self) -> None:
        self.sets: list[list[str]] = []
        self.reviews = 0
        self.swapped = trio.Event()
        self.old: list[object] = []
        self.main = threading.get_ident()

    def swap(self, rules: RuleSet, engine: Engine | None = None) -> list[object]:
        assert threading.get_ident() == self.main
        assert engine is not None, "it is compiled elsewhere"
        assert list(engine.rules) == list(rules.rules)
        self.sets.append([rule.id for rule in rules.rules])
        self.swapped.set()
        self.old = list[object]([rules, *rules.rules])
        return self.old

    def review(self) -> int:
        assert threading.get_ident() != self.main
        self.reviews += 1
        return 0


class Watching:
    """A watcher of one path that runs, and waits for what it should do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _, self.loaded = first([path], None)
        self.head = FakeHead()
        self.announced: list[list[str]] = []

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait for a condition; the deadline is far beyond what it takes."""
        with trio.fail_after(30):
            while not done():  # noqa: ASYNC110  (files and the kernel set no event)
                await trio.sleep(0.005)

    async def uses(self, *names: str) -> None:
        await self.until(lambda: self.head.sets[-1:] == [list(names)])

    async def refuses(self, count: int = 1) -> None:
        await self.until(lambda: self.loaded.errors == count)


def watched() -> set[int]:
    """Inodes of the directories that this process is told about."""
    found = set()
    for name in os.listdir("/proc/self/fdinfo"):
        try:
            lines = Path("/proc/self/fdinfo", name).read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith("inotify "):
                found.add(int(line.split(" ino:")[1].split()[0], 16))
    return found


@asynccontextmanager
async def watching(path: Path, every: float = NEVER) -> AsyncIterator[Watching]:
    """Runs ``watch``; with ``NEVER``, changes are known only from the kernel, which is asked by then."""
    it = Watching(path)
    async with trio.open_nursery() as nursery:
        task = lambda: watch([path], None, it.head, it.loaded, every=every, clock=lambda: 7.0)  # noqa: E731
        nursery.start_soon(task)
        if every == NEVER:
            await it.until(lambda: path.parent.stat().st_ino in watched())
        yield it
        nursery.cancel_scope.cancel()


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rules each line of the log told to be in use."""
    found: list[int] = []
    monkeypatch.setattr(reload, "announce", lambda rules: found.append(len(rules.rules)))
    return found


pytestmark = pytest.mark.usefixtures("announced")


def test_the_first_reading_is_of_the_files_or_an_error(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text("a", "b"))
    rules, loaded = first([path], None, lambda: 5.0)
    assert [rule.id for rule in rules.rules] == ["a", "b"]
    assert (loaded.paths, loaded.at, loaded.reloads, loaded.errors, loaded.error) == ((path,), 5.0, 0, 0, "")
    path.write_text("rulez: 1\n")
    with pytest.raises(RulesError, match=r"^.*r.yaml:1:1: rulez: unknown section"):
        first([path], None)


@pytest.mark.trio
async def test_a_file_that_is_written_is_read_again(tmp_path: Path, announced: list[int]) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text("a"))
    async with watching(path) as it:
        path.write_text(text("b", "c"))
        await it.uses("b", "c")
        await it.until(lambda: it.head.reviews == len(it.head.sets))
        assert (it.loaded.reloads, it.loaded.at, it.loaded.errors) == (len(it.head.sets), 7.0, 0)
    assert announced[-1] == 2


@pytest.mark.trio
async def test_an_editor_replaces_the_file_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    put(path, text("a"))
    async with watching(path) as it:
        for name in ("b", "c"):
            put(path, text(name))
            await it.uses(name)
        # As vim with backupcopy=no: the old one away, a new one in its place.
        path.rename(tmp_path / "r.yaml~")
        put(path, text("d"))
        await it.uses("d")


@pytest.mark.trio
async def test_an_invalid_file_keeps_the_old_rules(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "r.yaml"
    put(path, text("a"))
    async with watching(path) as it:
        with caplog.at_level(logging.INFO):
            put(path, "rules: 1\nrulez: 2\nsettings: 3\n")
            await it.refuses()
            assert it.head.sets == []
            assert it.loaded.error.splitlines() == [
                f"{path}:1:8: rules: expected a list, got '1'",
                f"{path}:2:1: rulez: unknown section; did you mean rules?",
                f"{path}:3:11: settings: expected keys with values, got '3'",
            ]
            assert (it.loaded.error_at, it.loaded.reloads) == (7.0, 0)
            put(path, text("b"))
            await it.uses("b")
            await it.until(lambda: it.loaded.error == "")
            assert it.loaded.errors == 1
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"rules were changed and cannot be used, the old ones stay: {path}:1:8: rules: expected a list, "
        "got '1' (and 2 more: swmld rules ls)"
    ]


@pytest.mark.trio
async def test_changed_settings_of_the_daemon_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, night = tmp_path / "c" / "default" / "r.yaml", tmp_path / "c" / "environments" / "night.yaml"
    for file in (path, night):
        file.parent.mkdir(parents=True)
        put(file, "")
    put(path, text("a") + "cache_size: 1GiB\nsettings: {chunk_size: 4MiB}\n")
    _, loaded = first([tmp_path / "c"], None, also=check, said=said)
    for content, pending in (
        (text("b") + "cache_size: 1GiB\nsettings: {chunk_size: 4MiB}\n", ()),
        (text("b") + "cache_size: 2GiB\nread_only: true\n", ("cache_size", "chunk_size", "read_only")),
        (text("c") + "cache_size: 2GiB\nread_only: true\n", ("cache_size", "chunk_size", "read_only")),
        (text("c") + "cache_size: 2GiB\nchunk_size: huge\n", ("cache_size", "chunk_size", "read_only")),
        (text("c") + "cache_size: 1GiB\nchunk_size: 4MiB\n", ()),
    ):
        put(path, content)
        put(night, "log_level: debug\n")
        await reload._reload(Files([tmp_path / "c"]), None, FakeHead(), loaded, lambda: 7.0)
        assert loaded.pending == pending
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    keys = "cache_size, chunk_size, read_only"
    assert warned == [f"changed settings of the daemon count from its next start on: {keys}"]
    assert (loaded.errors, loaded.reloads) == (1, 4)


@pytest.mark.trio
async def test_what_is_taken_over_waits_for_no_start(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    put(path, text("a") + "cache_size: 1GiB\n")
    _, loaded = first([path], None, also=check, said=said)
    taken: list[Any] = []

    def live(now: Mapping[str, Any]) -> set[str]:
        taken.append(now.get("cache_size"))
        return {"cache_size"}

    loaded.live = live
    for content, pending in (
        (text("b") + "cache_size: 2GiB\nread_only: true\n", ("read_only",)),
        (text("b") + "cache_size: huge\n", ("read_only",)),  # not in use
        (text("b"), ()),
    ):
        put(path, content)
        await reload._reload(Files([path]), None, FakeHead(), loaded, lambda: 7.0)
        assert loaded.pending == pending
    assert taken == ["2GiB", None]


@pytest.mark.trio
@pytest.mark.parametrize("content", [text(*map(str, range(300))), "rules: [{id: broken}]\n"])
async def test_no_collection_of_garbage_stops_the_loop_meanwhile(tmp_path: Path, content: str) -> None:
    """One goes over all objects there are, and holds the interpreter's lock."""
    path, head = tmp_path / "r.yaml", FakeHead()
    put(path, "rules: []\n")
    _, loaded = first([path], None)
    put(path, content)
    collected: list[int] = []

    def told(phase: str, info: dict[str, int]) -> None:
        if threading.get_ident() != head.main:
            collected.append(info["generation"])

    gc.callbacks.append(told)
    before = gc.get_threshold()
    gc.set_threshold(200, 2, 2)
    try:
        await reload._reload(Files([path]), None, head, loaded, lambda: 7.0)
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(told)
    assert loaded.reloads + loaded.errors == 1
    assert 2 not in collected
    assert gc.isenabled()
    assert head.old == [], "what is not in use any more is let go of"


@pytest.mark.trio
async def test_what_goes_wrong_unexpectedly_keeps_the_old_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.yaml"
    put(path, text("a"))

    def broken(*_: object) -> Any:
        raise RecursionError("too deep")

    async with watching(path) as it:
        with monkeypatch.context() as patch:
            patch.setattr(reload, "read_files", broken)
            put(path, text("b"))
            await it.refuses()
            assert it.loaded.error == "internal error: RecursionError: too deep"
        put(path, text("c"))
        await it.uses("c")


@pytest.mark.trio
async def test_a_file_that_vanishes_keeps_the_rules_and_may_come_back(tmp_path: Path) -> None:
    path = tmp_path / "d" / "r.yaml"
    path.parent.mkdir()
    put(path, text("a"))
    async with watching(path) as it:
        path.unlink()
        await it.refuses()
        assert it.loaded.error == f"{path}: No such file or directory"
        path.parent.rmdir()
        await it.until(lambda: tmp_path.stat().st_ino in watched())
        assert it.head.sets == []
        path.parent.mkdir()
        await it.until(lambda: path.parent.stat().st_ino in watched())
        put(path, text("b"))
        await it.uses("b")


@pytest.mark.trio
async def test_a_directory_gets_and_loses_files_and_directories(tmp_path: Path) -> None:
    top = tmp_path / "rules"
    (top / "default").mkdir(parents=True)
    put(top / "default" / "a.yaml", text("a"))
    async with watching(top) as it:
        await it.until(lambda: (top / "default").stat().st_ino in watched())
        put(top / "default" / "b.yaml", text("b"))
        await it.uses("a", "b")
        (top / "custom").mkdir()
        await it.until(lambda: (top / "custom").stat().st_ino in watched())
        put(top / "custom" / "c.json", text("c"))
        await it.uses("a", "b", "c")
        (top / "default" / "a.yaml").unlink()
        await it.uses("b", "c")
        (top / "custom" / "c.json").unlink()
        (top / "custom").rmdir()
        await it.uses("b")
        assert it.loaded.errors == 0


@pytest.mark.trio
@pytest.mark.parametrize("named", ["file", "directory"])
@pytest.mark.parametrize("step", ["renamed", "truncated"])
async def test_an_editor_in_the_middle_of_its_work_takes_no_rules_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, named: str
) -> None:
    """The pause is when it does the rest."""
    path = tmp_path / "rules" / "r.yaml"
    path.parent.mkdir()
    put(path, text("a"))
    pauses = 0

    async def pause() -> None:
        nonlocal pauses
        pauses += 1
        path.write_text(text("b"))

    monkeypatch.setattr(reload, "_pause", pause)
    async with watching(path.parent if named == "directory" else path) as it:
        await it.until(lambda: path.parent.stat().st_ino in watched())
        if step == "renamed":
            path.rename(path.with_name("r.yaml~"))
        else:
            path.write_text("")
        await it.uses("b")
        assert pauses == 1
        assert [] not in it.head.sets
        assert it.loaded.errors == 0


@pytest.mark.trio
async def test_other_files_of_the_directory_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    put(path, text("a"))
    async with watching(path) as it:
        put(tmp_path / "other.yaml", "rulez: 1")
        put(tmp_path / "note", "x")
        put(path, text("b"))
        await it.uses("b")
        assert it.loaded.errors == 0


@pytest.mark.trio
async def test_a_change_before_the_kernel_was_asked_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    put(path, text("a"))
    it = Watching(path)
    put(path, text("late", "later"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: watch([path], None, it.head, it.loaded, every=NEVER))
        await it.uses("late", "later")
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_what_the_kernel_cannot_tell_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file behind a symbolic link: nothing happens in the directory that is watched.
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    real, path = tmp_path / "there" / "r.yaml", tmp_path / "here" / "r.yaml"
    put(real, text("a"))
    path.symlink_to(real)
    async with watching(path, OFTEN) as it:
        put(real, text("b", "c"))
        await it.uses("b", "c")

    def full(*_: object, **__: object) -> Any:
        raise OSError(errno.ENOSPC, "no more watches")
        yield

    monkeypatch.setattr(watchfiles, "watch", full)
    async with watching(path, OFTEN) as it:
        put(real, text("d"))
        await it.uses("d")


@pytest.mark.trio
async def test_the_same_files_are_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    put(path, text("a"))
    looks = 0
    files = reload.Files

    def look(paths: Any) -> Any:
        nonlocal looks
        looks += 1
        return files(paths)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reload, "Files", look)
        async with watching(path, OFTEN) as it:
            await it.until(lambda: looks >= 4)
            assert it.head.sets == []
            put(path, "rulez: 1")
            await it.refuses()
            so_far = looks
            await it.until(lambda: looks >= so_far + 4)
            assert it.loaded.errors == 1, "nor are those that cannot be used"
