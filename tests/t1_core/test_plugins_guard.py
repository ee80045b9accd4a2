"""Plugins are asked with care: what misbehaves is not asked again, and nothing else stops."""

from __future__ import annotations

import errno
import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import trio
from swmld.plugins import answers, bounded, guard, known, registry
from swmld.plugins.guard import Guard
from swmld.plugins.interface import (
    HEAD,
    MOST_FILES,
    MOST_RANGES,
    NONE,
    READ_BYTES,
    READ_CALLS,
    Context,
    Hints,
    Range,
)
from swmld.plugins.known import Match, Plugins
from swmld.plugins.registry import Found, Loaded

LONG = 30.0
"""Seconds: a time limit that a sound call does not reach, whatever else runs."""
SHORT = 0.05


class Simple:
    """Its answers are given."""

    def __init__(self, detect: Any = 0.9, hints: Any = NONE) -> None:
        self._detect, self._hints = detect, hints
        self.asked: list[tuple[str, bytes]] = []

    def framework_name(self) -> str:
        return "simple"

    def detect(self, path: str, head: bytes) -> Any:
        self.asked.append((path, head))
        return self._detect(path) if callable(self._detect) else self._detect

    def hints(self, context: Context) -> Any:
        return self._hints(context) if callable(self._hints) else self._hints

    def default_rules(self) -> str:
        return ""

    def default_templates(self) -> str:
        return ""


def loaded(plugin: Any, name: str = "simple", extensions: tuple[str, ...] = (), **more: Any) -> Loaded:
    return Loaded(name, plugin, f"{name}.py", extensions=extensions, **more)


def context(size: int = 100, read: Callable[[int, int], bytes] | None = None, head: bytes = b"") -> Context:
    return Context("a.bin", size, head, read or (lambda offset, length: bytes(length)))


def asked(plugin: Any, *, limit: float = LONG, detect: bool = False, given: Context | None = None) -> Any:
    """One answer, and the guard afterwards."""
    one = Guard(loaded(plugin), limit=limit)

    async def main() -> Any:
        return await (one.detect("a", b"") if detect else one.hints(given or context()))

    answer = trio.run(main)
    one_state = one.disabled
    one.close()
    return answer, one_state


# ---- answers


def test_answers_are_passed_on() -> None:
    assert asked(Simple(0.7), detect=True) == (0.7, "")
    assert asked(Simple(1), detect=True) == (1.0, "")
    hints = Hints((Range(5, 6),), True, ("a", "b/c"), False, True, "because")
    assert asked(Simple(hints=hints)) == (hints, "")


def test_ranges_are_cut_to_the_file() -> None:
    ranges = (Range(90, 20), Range(0, 0), Range(100, 1), Range(1 << 62, 5), Range(10, 5))
    (answer, _) = asked(Simple(hints=Hints(ranges)))
    assert answer.ranges == (Range(90, 10), Range(10, 5))


def test_more_than_enough_is_not_looked_at() -> None:
    many = Hints((Range(0, 1),) * (MOST_RANGES + 5), files=("x",) * (MOST_FILES + 5), why="w " * 500)
    (answer, disabled) = asked(Simple(hints=many))
    assert (len(answer.ranges), len(answer.files), disabled) == (MOST_RANGES, MOST_FILES, "")
    assert len(answer.why) <= answers.LONGEST_WHY


@pytest.mark.parametrize(
    "nonsense",
    [
        None,
        "hints",
        (),
        Hints(ranges=None),  # type: ignore[arg-type]
        Hints(ranges=((0, 1),)),  # type: ignore[arg-type]
        Hints(ranges=(Range(0.5, 1),)),  # type: ignore[arg-type]
        Hints(ranges=(Range(True, 1),)),
        Hints(ranges=(Range(0, -1),)),
        Hints(ranges=(Range(1 << 64, 1),)),
        Hints(files="abc"),  # type: ignore[arg-type]
        Hints(files=("",)),
        Hints(files=("a/../../b",)),
        Hints(files=(b"a",)),  # type: ignore[arg-type]
        Hints(again=None),  # type: ignore[arg-type]
    ],
    ids=lambda value: str(value)[:40],
)
def test_nonsense_disables(nonsense: object, caplog: pytest.LogCaptureFixture) -> None:
    answer, disabled = asked(Simple(hints=nonsense))
    assert answer == NONE
    assert "expected" in disabled
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "plugin simple is not used any more: hints: " in caplog.text


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -0.1, 1.1, True, "0.5", None])
def test_confidence_is_a_number(nonsense: object) -> None:
    answer, disabled = asked(Simple(nonsense), detect=True)
    assert answer == 0.0
    assert "expected a number from 0 to 1" in disabled


# ---- what goes wrong


@pytest.mark.parametrize(
    "error", [RuntimeError("no\nway"), SystemExit(3), KeyboardInterrupt(), RecursionError()]
)
def test_what_raises_is_not_asked_again(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    def fails(_: object) -> None:
        raise error

    one = Guard(loaded(Simple(hints=fails)), limit=LONG)

    async def main() -> None:
        for _ in range(3):
            assert await one.hints(context()) == NONE

    trio.run(main)
    assert one.calls == 1
    assert one.disabled.startswith(f"hints raised {type(error).__name__}")
    assert "test_plugins_guard.py" in one.disabled
    assert "\n" not in one.disabled
    assert len(caplog.records) == 1


def test_a_loop_is_ended_and_its_thread_too() -> None:
    threads: list[threading.Thread] = []

    def loops(_: object) -> None:
        threads.append(threading.current_thread())
        while True:
            try:
                while True:
                    pass
            except Exception:  # what ends it is none
                continue

    answer, disabled = asked(Simple(hints=loops), limit=SHORT)
    assert answer == NONE
    assert disabled == f"hints took longer than {SHORT:g} s"
    threads[0].join(LONG)
    assert not threads[0].is_alive()


def test_what_sleeps_for_ever_keeps_nothing_from_ending() -> None:
    """Not even the interpreter."""
    script = f"""
import sys, time, trio
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_plugins_guard import *
answer = asked(Simple(hints=lambda _: time.sleep(100_000)), limit={SHORT})
print(answer[1])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"hints took longer than {SHORT:g} s"


def test_one_call_at_a_time() -> None:
    inside: list[int] = []
    most: list[int] = []

    def slow(_: object) -> Hints:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.001)
        inside.pop()
        return NONE

    one = Guard(loaded(Simple(hints=slow)), limit=LONG)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one.hints, context())

    trio.run(main)
    one.close()
    assert most == [1] * 20


def test_who_goes_away_leaves_the_plugin_usable() -> None:
    entered, leave = threading.Event(), threading.Event()

    def waits(given: Context) -> Hints:
        if given.size == 1:
            entered.set()
            leave.wait(LONG)
        return Hints(whole=True)

    one = Guard(loaded(Simple(hints=waits)), limit=LONG)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.hints, context(size=1))
            assert await trio.to_thread.run_sync(entered.wait, LONG)
            nursery.cancel_scope.cancel()
        assert (await one.hints(context())).whole
        leave.set()

    trio.run(main)
    assert one.disabled == ""
    one.close()


def test_calls_that_never_come_back_count_though_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    stays = threading.Event()
    entered = threading.Semaphore(0)

    def sleeps(_: object) -> None:
        entered.release()
        stays.wait(LONG)

    one = Guard(loaded(Simple(hints=sleeps)), limit=LONG)

    async def main() -> None:
        for _ in range(guard.LEFT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.hints, context())
                await trio.to_thread.run_sync(entered.acquire)
                nursery.cancel_scope.cancel()
        assert one.disabled == ""
        await one.hints(context())

    trio.run(main)
    stays.set()
    assert one.disabled == f"{guard.LEFT} calls did not come back"


# ---- reading


def test_reading_is_cut_to_the_file_and_has_limits() -> None:
    seen: list[Any] = []

    def reads(given: Context) -> Hints:
        seen.append(len(given.head))
        seen.append(given.read(90, 100))
        seen.append(given.read(100, 1))
        for _ in range(READ_CALLS - 2):
            given.read(0, 1)
        try:
            given.read(0, 1)
        except OSError as error:
            seen.append(error.errno)
        return Hints(whole=True)

    answer, disabled = asked(Simple(hints=reads), given=context(head=bytes(3 * HEAD)))
    assert (answer.whole, disabled) == (True, "")
    assert seen == [HEAD, bytes(10), b"", errno.EDQUOT]


def test_bytes_are_counted_before_they_are_read() -> None:
    read: list[int] = []

    def source(offset: int, length: int) -> bytes:
        read.append(length)
        return b""

    def reads(given: Context) -> Hints:
        given.read(0, READ_BYTES)
        given.read(0, 1)
        raise AssertionError

    assert asked(Simple(hints=reads), given=context(READ_BYTES + 5, source)) == (NONE, "")
    assert read == [READ_BYTES]


def test_time_in_reading_is_not_the_plugins() -> None:
    """Twice its limit, in a source that is slow."""
    limit = 0.25

    def slow(offset: int, length: int) -> bytes:
        time.sleep(2 * limit)
        return bytes(length)

    def reads(given: Context) -> Hints:
        data = given.read(0, 1)
        time.sleep(5 * guard._LOOK)  # it is looked at again meanwhile
        return Hints(whole=data == b"\0")

    assert asked(Simple(hints=reads), limit=limit, given=context(read=slow)) == (Hints(whole=True), "")


def test_slow_reading_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "READ_SECONDS", 0.0)
    reads: list[int] = []

    def slow(offset: int, length: int) -> bytes:
        time.sleep(0.001)
        reads.append(offset)
        return bytes(length)

    def forever(given: Context) -> Hints:
        while True:
            given.read(0, 1)

    assert asked(Simple(hints=forever), given=context(read=slow)) == (NONE, "")
    assert len(reads) == 1


def test_an_error_of_the_source_is_not_the_plugins() -> None:
    def broken(offset: int, length: int) -> bytes:
        raise OSError(errno.EIO, "broken")

    def crazy(offset: int, length: int) -> bytes:
        raise KeyError("who reads for us")

    def reads(given: Context) -> Hints:
        return Hints(whole=bool(given.read(0, 1)))

    def own(given: Context) -> Hints:
        raise OSError(errno.EIO, "its own")

    assert asked(Simple(hints=reads), given=context(read=broken)) == (NONE, "")
    assert asked(Simple(hints=reads), given=context(read=crazy)) == (NONE, "")
    assert "raised OSError" in asked(Simple(hints=own))[1]
    assert "raised TypeError" in asked(Simple(hints=lambda given: given.read(-1, 5)))[1]


# ---- all plugins


def ask(plugins: Plugins, *files: tuple[str, bytes]) -> list[Match | None]:
    async def main() -> list[Match | None]:
        return [await plugins.framework(path, head) for path, head in files]

    found = trio.run(main)
    plugins.close()
    return found


def test_the_surest_counts_and_the_first_of_two() -> None:
    kinds = {"a": 0.6, "b": 0.8, "c": 0.8, "d": 0.49}
    plugins = Plugins(Found([loaded(Simple(sure), name) for name, sure in kinds.items()]), limit=LONG)
    assert ask(plugins, ("x", b"")) == [("b", 0.8)]
    assert plugins.recall("x") == ("b", 0.8)
    unsure = Plugins(Found([loaded(Simple(0.49), "d")]), limit=LONG)
    assert ask(unsure, ("x", b"")) == [None]
    assert unsure.remembers("x")


def test_plugins_are_asked_about_their_extensions() -> None:
    tar, every = Simple(0.9), Simple(0.5)
    plugins = Plugins(
        Found([loaded(tar, "tar", (".tar", ".tar.gz")), loaded(every, "every")]), limit=LONG
    )  # fmt: skip
    files = ["a.tar", "b.tar.gz", "c.gz", "d.TAR", "tar", "x.tar/e"]
    assert [match and match.framework for match in ask(plugins, *((name, b"") for name in files))] == [
        "tar", "tar", "every", "tar", "every", "every",
    ]  # fmt: skip
    assert [path for path, _ in tar.asked] == ["a.tar", "b.tar.gz", "d.TAR"]
    only = Plugins(Found([loaded(Simple(), "tar", (".tar",))]))
    assert only.concerns("a.tar")
    assert not only.concerns("a.jpg")
    assert ask(only, ("a.jpg", b"")) == [None]
    assert not only.remembers("a.jpg"), "what nobody is asked about takes no memory"


def test_a_file_is_asked_about_once_and_again_with_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Simple(0.9)
    plugins = Plugins(Found([loaded(one)]), limit=LONG)
    ask(plugins, ("a", b""), ("a", b""), ("a", b"head"), ("a", b"head"), ("a", b""), ("a", b"other"))
    assert one.asked == [("a", b""), ("a", b"head"), ("a", b"other")]
    monkeypatch.setattr(known, "REMEMBERED", 2)
    few = Plugins(Found([loaded(Simple())]), limit=LONG)
    ask(few, ("a", b""), ("b", b""), ("a", b""), ("c", b""))
    assert [few.remembers(path) for path in "abc"] == [True, False, True]


def test_hints_are_those_of_the_surest(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    sure = Simple(0.9, lambda given: Hints(whole=True) if given.path == "a" else 1 / 0)
    plugins = Plugins(Found([loaded(Simple(0.8), "other"), loaded(sure, "sure")]), limit=LONG)

    async def main() -> None:
        given = Context("a", 10, b"", lambda offset, length: b"")
        assert await plugins.hints(given) == Hints(whole=True)
        assert await plugins.hints(Context("b", 10, b"", given.read)) == NONE
        assert await plugins.framework("new") == ("other", 0.8), "the others go on"

    trio.run(main)
    plugins.close()
    states = {state.name: state for state in plugins.states()}
    assert states["sure"].disabled.startswith("hints raised ZeroDivisionError")
    assert states["other"].disabled == "closed"
    assert states["sure"].calls == 4


def test_without_plugins_nothing_is_known() -> None:
    plugins = Plugins(Found(problems=["x.py: wrong"]))
    assert ask(plugins, ("a.pt", b"")) == [None]
    assert not plugins.concerns("a.pt")
    assert plugins.problems == ("x.py: wrong",)


def test_frameworks_are_known_by_libraries() -> None:
    first = loaded(Simple(), "tensorflow", libraries=("/libtf[.]so",))
    second = loaded(Simple(), "arrays", libraries=("/numpy/.*_umath", "/libarr"))
    plugins = Plugins(Found([first, second]))
    site = "/usr/lib/python3/site-packages"
    numpy, jax = f"{site}/numpy/core/_multiarray_umath.so", f"{site}/jaxlib/xla_extension.so"
    assert plugins.frameworks_of([numpy, "/x/libtf.so.2"]) == ("tensorflow", "arrays")
    assert plugins.frameworks_of([numpy, jax]) == ("jax", "arrays")
    assert plugins.frameworks_of(["/x/libarr\udcff.so"]) == ("arrays",)
    assert plugins.frameworks_of(["/lib/libc.so.6"]) == ()


def test_calls_in_a_thread_with_an_end() -> None:
    assert bounded.call(lambda: 5, LONG) == 5
    with pytest.raises(SystemExit):
        bounded.call(lambda: sys.exit(2), LONG)
    with pytest.raises(bounded.TooLong):
        bounded.call(lambda: time.sleep(LONG), SHORT)
    assert registry.told(ValueError("a\nb")) == "raised ValueError: a b"
