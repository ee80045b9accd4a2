"""The live view: what its keys do, at which sizes it can be read, and how it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.traces import Table, batch, dataset, finding, job, snapshot, stream, touch
from swmld.api.patterns import Wanted
from swmld.cli.trace_rows import FILES, SORTS
from swmld.cli.trace_source import Batch, Source, Tell
from swmld.cli.trace_view import Lines, TraceApp
from swmld.errors import HostError
from swmld.observe.encoding import Raw
from swmld.patterns.feed import TouchKind
from textual.pilot import Pilot
from textual.widgets import Input

SIZES = [(80, 24), (200, 50)]
TWO = snapshot(
    job(datasets=[dataset(path="imgs", role=finding("samples"))], streams=[stream(path="imgs/1.jpg")]),
    job(job=50, comm="scan", rate=1.0, pids=[50], datasets=[],
        streams=[stream(pid=50, file=n, path=f"tables/{n}.npy", rate=float(n), bytes=9 - n)
                 for n in range(3)]),
)  # fmt: skip


class FakeSource:
    """Tells what the test gave it, then waits to be stopped, or raises ``error``."""

    title, only = "/mnt/ml", ""

    def __init__(self, *told: Any, error: BaseException | None = None, ends: bool = False) -> None:
        self.told = told
        self.error = error
        self.ends = ends
        self.zooms: list[tuple[Wanted, FakeSource]] = []
        self.stopped = threading.Event()

    def run(self, tell: Tell) -> None:
        for message in self.told:
            tell(message)
        if self.error is not None:
            raise self.error
        if not self.ends:
            assert self.stopped.wait(60), "nobody stopped the source"

    def stop(self) -> None:
        self.stopped.set()

    def zoomed(self, wanted: Wanted) -> Source | None:
        table = Table()
        touches = [touch(float(at), 50, 2, kind=TouchKind.WINDOW, first=at, last=at) for at in range(100)]
        self.zooms.append((wanted, FakeSource(Batch(Raw(9.0, touches), table, table))))
        return self.zooms[-1][1]


class Replayed(FakeSource):
    """One that tells all batches by itself."""

    def zoomed(self, wanted: Wanted) -> Source | None:
        self.zooms.append((wanted, self))
        return None


App = TraceApp
Script = Callable[[App, Pilot[int]], Awaitable[None]]


def drive(test: Script, source: FakeSource | None = None, size: tuple[int, int] = (80, 24)) -> App:
    """Run ``test`` on a view of ``size`` that shows ``TWO``; the view, ended."""
    app = TraceApp(source or FakeSource(TWO))

    async def main() -> None:
        async with app.run_test(size=size) as pilot:
            if source is None:
                await until(pilot, lambda: app.shown is not None)
            await test(app, pilot)

    asyncio.run(asyncio.wait_for(main(), 60))
    return app


async def until(pilot: Pilot[int], true: Callable[[], bool]) -> None:
    """Let the source's thread and the loop go on until ``true``; ``drive`` has the limit."""
    while not true():
        await pilot.pause(0.01)


def screen(app: App) -> list[str]:
    """What stands on the terminal."""
    return [strip.text.rstrip() for strip in app.screen._compositor.render_strips()]


def names(app: App) -> list[str]:
    return [row.name for row in app._base.query_one(Lines).rows]


def chosen(app: App) -> str:
    row = app._base.query_one(Lines).row
    assert row is not None
    return row.name


ROWS = ["train.py 4242", "imgs/", "scan 50", "tables/2.npy", "tables/1.npy", "tables/0.npy"]


@pytest.mark.parametrize("size", SIZES)
def test_what_it_shows(size: tuple[int, int]) -> None:
    async def test(app: App, pilot: Pilot[int]) -> None:
        text = screen(app)
        assert len(text) == size[1]
        assert max(map(len, text)) <= size[0]
        assert text[0].startswith("/mnt/ml  2 jobs")
        assert "lost 0" in text[0]
        assert "prefetch 1GiB, wasted 3MiB" in " ".join(text[:2])
        assert text[-1].startswith(" enter zoom")
        assert names(app) == ROWS
        whole = "\n".join(text)
        for word in (
            "train.py 4242",
            "training",
            "imgs/",
            "shuffled",
            "e2",
            "51%",
            "12%",
            "tables/2.npy",
            "90",
        ):
            assert word in whole, word
        assert "train.py 4242: training, 95 % sure: epochs of the same files, shuffled" in " ".join(text)
        if size[0] >= 150:
            assert "812 of 1000 files out of order" in whole

    drive(test, size=size)


def test_a_smaller_and_a_larger_terminal() -> None:
    async def test(app: App, pilot: Pilot[int]) -> None:
        for size in ((40, 10), (20, 5), (300, 80), (80, 24)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            assert max(map(len, screen(app))) <= size[0]
        assert "shuffled" in "\n".join(screen(app))

    drive(test)


def test_titles_stand_above_their_columns_whatever_the_size() -> None:
    streams = [stream(pid=50, file=n, path=f"f{n:03}", rate=500.0 - n) for n in range(300)]
    many = FakeSource(snapshot(job(job=50, datasets=[], streams=streams)))

    async def test(app: App, pilot: Pilot[int]) -> None:
        await until(pilot, lambda: app.shown is not None)
        for size in ((80, 24), (140, 40), (60, 14), (170, 30)):
            await pilot.resize_terminal(*size)
            while places(app, *size) is None:
                await pilot.pause(0.01)
            assert places(app, *size) == (True, True), (size, screen(app)[:5])

    drive(test, many)


def places(app: App, width: int, height: int) -> tuple[bool, bool] | None:
    """Whether the first column begins, and the last one ends, below its title; None: not drawn yet."""
    text = screen(app)
    titles, first = (next((one for one in text if word in one), "") for word in ("PATTERN", "training"))
    if len(text) != height or not titles or "12%" not in first:
        return None
    ends = titles.index("WAIT") + 4 == first.index("12%") + 3
    return titles.index("PATTERN") == first.index("training"), ends


def test_moving() -> None:
    async def test(app: App, pilot: Pilot[int]) -> None:
        moves = {"down": 1, "j j": 3, "up": 2, "end": 5, "j": 5, "home": 0, "k": 0, "pagedown": 5}
        for keys, row in moves.items():
            await pilot.press(*keys.split())
            await pilot.pause()
            assert chosen(app) == ROWS[row], keys
        await pilot.click(Lines, offset=(5, 4))
        assert chosen(app) == ROWS[4]

    drive(test)


def test_a_long_list_scrolls() -> None:
    streams = [stream(pid=50, file=n, path=f"f{n:03}", rate=500.0 - n) for n in range(300)]
    many = FakeSource(snapshot(job(job=50, datasets=[], streams=streams)))

    async def test(app: App, pilot: Pilot[int]) -> None:
        await until(pilot, lambda: app.shown is not None)
        await pilot.press("end")
        await until(pilot, lambda: any("f299" in text for text in screen(app)))
        assert not any("f000" in text for text in screen(app))
        assert screen(app)[-1].startswith(" enter zoom")
        app.show(snapshot(job(job=50, datasets=[], streams=streams[:3])))
        await pilot.pause()
        assert chosen(app) == "f002"
        await until(pilot, lambda: any("f000" in text for text in screen(app)))

    drive(test, many)


def test_the_chosen_row_stays_chosen_wherever_it_goes() -> None:
    async def test(app: App, pilot: Pilot[int]) -> None:
        await pilot.press("down", "down", "down")
        await pilot.pause()
        assert chosen(app) == "tables/2.npy"
        await pilot.press("s", "s")  # by bytes: it is last then
        await pilot.pause()
        assert [name for name in names(app) if name.startswith("tables")][-1] == chosen(app) == "tables/2.npy"

    drive(test)


def test_sorting_goes_round() -> None:
    async def test(app: App, pilot: Pilot[int]) -> None:
        for sort in (*SORTS[1:], SORTS[0]):
            await pilot.press("s")
            await pilot.pause()
            assert app.sort == sort
            assert (f"sort {sort}" in screen(app)[0]) == (sort != "rate")
        assert names(app) == ROWS

    drive(test)


def test_files_of_datasets() -> None:
    async def test(app: App, pilot: Pilot[int]) -> None:
        await pilot.press("f")
        assert app.files == FILES[1]
        assert "imgs/1.jpg" in names(app)
        await pilot.press("f")
        assert names(app) == ["train.py 4242", "imgs/", "scan 50"]
        await pilot.press("f")
        assert names(app) == ROWS

    drive(test)


def test_filtering_as_it_is_typed() -> None:
    async def test(app: App, pilot: Pilot[int]) -> None:
        await pilot.press("slash", *"1.np")
        await pilot.pause()
        assert names(app) == ["scan 50", "tables/1.npy"]
        await pilot.press("s", "q")  # text, not keys
        await pilot.pause()
        assert (names(app), app.sort) == ([], "rate")
        assert "Nothing has '1.npsq' in it" in "\n".join(screen(app))
        await pilot.press("backspace", "backspace", "enter")
        await pilot.pause()
        assert not app.query_one(Input).has_class("open")
        assert "/1.np" in screen(app)[0]
        await pilot.press("down")
        assert chosen(app) == "tables/1.npy"
        await pilot.press("escape")
        await pilot.pause()
        assert names(app) == ROWS
        await pilot.press("slash", "x", "escape")
        await pilot.pause()
        assert (names(app), app.query_one(Input).has_class("open")) == (ROWS, False)

    drive(test)


def test_holding() -> None:
    async def test(app: App, pilot: Pilot[int]) -> None:
        await pilot.press("space")
        await pilot.pause()
        assert "HELD" in screen(app)[0]
        await pilot.press("enter")
        await pilot.pause()
        assert "HELD" in screen(app)[0]
        await pilot.press("space")
        await pilot.pause()
        assert "HELD" not in screen(app)[0]
        await pilot.press("space", "s", "f", "slash")  # the last three are keys of the lines alone
        await pilot.press("escape")
        await pilot.pause()
        assert (app.sort, app.files, app.query_one(Input).has_class("open")) == ("rate", "some", False)
        assert "HELD" in screen(app)[0]
        app.told(snapshot(job(comm="later")))
        await pilot.pause()
        assert names(app) == ROWS
        await pilot.press("space")
        app.told(snapshot(job(comm="later")))
        await until(pilot, lambda: names(app)[0] == "later 4242")
        assert "HELD" not in screen(app)[0]

    drive(test)


def test_help() -> None:
    async def test(app: App, pilot: Pilot[int]) -> None:
        for close in ("escape", "q", "enter"):
            await pilot.press("question_mark")
            await pilot.pause()
            text = "\n".join(screen(app))
            assert all(word in text for word in ("zoom in", "sort by", "MEM%", "closes this"))
            await pilot.press(close)
            await pilot.pause()
            assert len(app.screen_stack) == 1
        assert app.return_code in (None, 0)

    drive(test)


@pytest.mark.parametrize("size", SIZES)
def test_zoom_into_a_file(size: tuple[int, int]) -> None:
    source = FakeSource(TWO)

    async def test(app: App, pilot: Pilot[int]) -> None:
        await until(pilot, lambda: app.shown is not None)
        await pilot.press("down", "down", "down", "enter")
        ((wanted, zoom),) = source.zooms
        assert wanted == Wanted(pid=50, path="tables/2.npy")
        await until(pilot, lambda: bool(app.screen.history._reads))
        app.told(snapshot(TWO["jobs"][1]))
        await until(pilot, lambda: any("\u2800" < char <= "\u28ff" for text in screen(app) for char in text))
        text = screen(app)
        assert text[0].startswith("tables/2.npy")
        assert text[-1].startswith(" escape back")
        assert max(map(len, text)) <= size[0]
        whole = "\n".join(text)
        for word in ("4,000 in memory", "512MiB of 1GiB", "1GiB │", "0 │", "ago", "now"):
            assert word in whole, word
        app.told(snapshot(job(job=50, streams=[])))
        await until(pilot, lambda: "not read any more" in screen(app)[0])
        await pilot.press("escape")
        await pilot.pause()
        assert zoom.stopped.is_set(), "the batches must end with the zoom"
        assert screen(app)[0].startswith("/mnt/ml")

    drive(test, source, size)


def test_zoom_into_a_job_and_a_dataset() -> None:
    source = FakeSource(TWO)

    async def test(app: App, pilot: Pilot[int]) -> None:
        await until(pilot, lambda: app.shown is not None)
        await pilot.press("enter")
        await pilot.pause()
        assert "python train.py --epochs 90" in "\n".join(screen(app))
        assert "no file was begun since this is open" in "\n".join(screen(app))
        await pilot.press("escape", "down", "enter")
        await pilot.pause()
        assert "510 of 1,000 files" in "\n".join(screen(app))
        assert [wanted for wanted, _ in source.zooms] == [Wanted(job=4242), Wanted(job=4242, path="imgs")]
        await pilot.resize_terminal(30, 8)
        await pilot.pause()
        await pilot.press("escape")

    drive(test, source)


def test_a_source_that_tells_all_has_a_history_already() -> None:
    table = Table()
    for number in range(30):
        table.add(number, str(number), 1, index=number)
    table.start(4243, 4242)
    raws = [Batch(batch(float(at), [(4243, at)]), table, table) for at in range(30)]
    source = Replayed(*raws, TWO)

    async def test(app: App, pilot: Pilot[int]) -> None:
        await until(pilot, lambda: app.shown is not None)
        await pilot.press("enter")
        await pilot.pause()
        await until(pilot, lambda: "30 │" in "\n".join(screen(app)))

    drive(test, source)


@pytest.mark.parametrize(("key", "code"), [("q", 0), ("ctrl+c", 130), ("ctrl+q", 0)])
def test_leaving(key: str, code: int) -> None:
    source = FakeSource(TWO)

    async def test(app: App, pilot: Pilot[int]) -> None:
        await pilot.press(key)

    app = drive(test, source)
    assert app.return_value == code
    assert source.stopped.wait(10)


def test_ctrl_c_leaves_from_anywhere() -> None:
    async def test(app: App, pilot: Pilot[int]) -> None:
        await pilot.press("slash", "x", "ctrl+c")

    assert drive(test).return_value == 130


def test_the_end_of_the_daemon_ends_the_view() -> None:
    error = HostError("the daemon ended before it answered")

    async def test(app: App, pilot: Pilot[int]) -> None:
        await until(pilot, lambda: app.return_value is not None)

    app = drive(test, FakeSource(TWO, error=error))
    assert (app.return_value, app.error) == (1, error)


def test_the_end_of_a_recording_stays_to_be_looked_at() -> None:
    async def test(app: App, pilot: Pilot[int]) -> None:
        await until(pilot, lambda: app.ended)
        await until(pilot, lambda: "ended" in screen(app)[0])
        assert names(app) == ROWS
        await pilot.press("q")

    assert drive(test, FakeSource(TWO, ends=True)).return_value == 0


def test_before_anything_is_told() -> None:
    async def test(app: App, pilot: Pilot[int]) -> None:
        await pilot.press("enter", "s", "f", "space", "space", "down", "slash", "x", "escape")
        await pilot.pause()
        assert screen(app)[0].startswith("/mnt/ml")

    drive(test, FakeSource())


def test_nothing_to_see_is_explained() -> None:
    off = {"how": "off", "why": "switched off", "lost": {"events": 0, "cursors": 0, "processes": 0}}

    async def test(app: App, pilot: Pilot[int]) -> None:
        await until(pilot, lambda: app.shown is not None)
        await pilot.pause()
        assert "The probes are off: switched off" in "\n".join(screen(app))

    drive(test, FakeSource({**snapshot(), "jobs": [], "probe": off}))


def test_what_it_is_limited_to_is_said() -> None:
    source = FakeSource({**snapshot(), "jobs": []})
    source.only = "path none"

    async def test(app: App, pilot: Pilot[int]) -> None:
        await until(pilot, lambda: app.shown is not None)
        await pilot.pause()
        assert "only path none" in screen(app)[0]
        assert "Nothing that was asked for (path none) has been read here yet." in "\n".join(screen(app))

    drive(test, source)


def test_long_words_in_a_zoom_stand_below_each_other() -> None:
    source = FakeSource(snapshot(job(command="train.py " + "--more " * 40)))

    async def test(app: App, pilot: Pilot[int]) -> None:
        await until(pilot, lambda: app.shown is not None)
        await pilot.press("enter")
        await pilot.pause()
        lines = [text for text in screen(app) if "--more" in text]
        assert len(lines) > 3
        assert lines[0].startswith("   command train.py --more")
        assert all(text.startswith(" " * 11 + "--more") for text in lines[1:])

    drive(test, source)


def test_a_plot_ends_now_not_with_the_last_read() -> None:
    source = FakeSource({**TWO, "at": 500.0})

    async def test(app: App, pilot: Pilot[int]) -> None:
        await until(pilot, lambda: app.shown is not None)
        await pilot.press("down", "down", "down", "enter")
        await pilot.pause()
        await until(pilot, lambda: bool(app.screen.history._reads))  # of seconds 0 to 99
        app.told({**TWO, "at": 1000.0})
        await until(pilot, lambda: "16m40s ago" in "\n".join(screen(app)))
        plot = [text.partition("│")[2] for text in screen(app) if "│" in text]
        assert max(map(len, plot)) < 20, plot  # a tenth of the time, at the left

    drive(test, source)


def test_snapshots_that_come_too_fast_are_left_out() -> None:
    async def test(app: App, pilot: Pilot[int]) -> None:
        drawn: list[float] = []
        show = app.show

        def counted(found: dict[str, Any]) -> None:
            drawn.append(found["at"])
            show(found)

        app.show = counted  # type: ignore[method-assign]
        posted: list[Any] = []
        post = app.post_message
        app.post_message = lambda message: posted.append(message) or post(message)  # type: ignore[func-returns-value]
        for number in range(1000):
            app.told(snapshot(at=float(number)))
        assert len(posted) == 1, "each message waits its turn in the loop"
        await until(pilot, lambda: bool(drawn) and drawn[-1] == 999.0)
        assert len(drawn) < 10

    drive(test)


def test_the_terminals_own_colours_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No colour may be fixed: what is written for a dark background is lost on a light one."""

    async def test(app: App, pilot: Pilot[int]) -> None:
        for keys in ([], ["down", "enter"], ["escape", "question_mark"], ["escape", "slash", "x"]):
            await pilot.press(*keys)
            await pilot.pause()
            for strip in app.screen._compositor.render_strips():
                for segment in strip:
                    style = segment.style
                    for color in (style.color, style.bgcolor) if style is not None else ():
                        assert color is None or color.is_default or color.is_system_defined, (segment, color)

    drive(test)
