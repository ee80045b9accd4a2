"""The live view of ``swmld trace``.

The colours are the terminal's own, on its own background, so that it looks right on a light one, and
nothing is said by colour alone. The source runs in a thread; the view takes the last snapshot whenever it
gets to it, so a slow terminal (ssh) shows fewer of them and never falls behind.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.screen import ModalScreen
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Input, Static

from swmld.api.patterns import Wanted
from swmld.cli import trace_rows
from swmld.cli.text import printable
from swmld.cli.trace_history import History
from swmld.cli.trace_rows import FILES, SORTS, Row
from swmld.cli.trace_source import Batch, Source, Told
from swmld.cli.trace_zoom import Zoom

KEYS = (
    ("up, down", "choose a line; page up, page down, home and end too"),
    ("enter", "zoom in: what is known, and a plot of what is read"),
    ("s", "sort by the next of: " + ", ".join(SORTS)),
    ("/", "show only lines with some text; escape shows all again"),
    ("f", "single files of a dataset: " + ", ".join(FILES)),
    ("space", "hold the picture still, or go on"),
    ("q", "quit"),
)
EXPLAINED = (
    ("RATE/s", "bytes a second over about 5 seconds"),
    ("MEM%", "reads that found their pages in memory (page cache)"),
    ("DISK", "reads in % that waited for the cache's disk"),
    ("SRC%", "reads that waited for the source"),
    ("WAIT", "share of a job's reading time; seconds so far for a file"),
    ("?", "behind a pattern: less than half sure"),
)
OF_LINES = frozenset(("sort", "files", "filter", "unfilter", "zoom"))
HINT = " enter zoom  s sort  / filter  f files  space hold  ? help  q quit"


class Lines(ScrollView, can_focus=True):
    """The rows, one of them chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)"),
        Binding("down,j", "move(1)"),
        Binding("pageup", "page(-1)"),
        Binding("pagedown", "page(1)"),
        Binding("home,g", "move(-1000000)"),
        Binding("end,G", "move(1000000)"),
    ]
    chosen: reactive[int] = reactive(0)

    class Moved(Message):
        """Another row is chosen."""

    class Shaped(Message):
        """There is room for other columns."""

        def __init__(self, shape: trace_rows.Layout) -> None:
            super().__init__()
            self.shape = shape

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Row] = []
        self._shape: trace_rows.Layout | None = None
        self._drawn: list[Text] = []

    @property
    def row(self) -> Row | None:
        return self.rows[self.chosen] if self.chosen < len(self.rows) else None

    def show(self, rows: list[Row]) -> None:
        """Other rows; the chosen one stays chosen if it is still there."""
        key = self.row.key if self.row is not None else None
        self.rows = rows
        self._draw()
        at = next((number for number, row in enumerate(rows) if row.key == key), self.chosen)
        self._choose(at)
        self.refresh()

    def _draw(self) -> None:
        # The bar beside more rows than there are lines takes a cell; there is no event of that.
        scrolls = len(self.rows) > self.outer_size.height
        shape = trace_rows.layout(max(40, self.outer_size.width - scrolls))
        if shape != self._shape:
            self._shape = shape
            self.post_message(self.Shaped(shape))
        self._drawn = [trace_rows.line(row, shape) for row in self.rows]
        self.virtual_size = Size(self.size.width, len(self.rows))

    def on_resize(self, event: events.Resize) -> None:
        self._draw()
        self.refresh()

    def render_line(self, y: int) -> Strip:
        number = y + self.scroll_offset.y
        width = self.size.width
        base = self.rich_style
        if number >= len(self._drawn):
            return Strip.blank(width, base)
        segments = self._drawn[number].render(self.app.console, end="")
        if number == self.chosen:
            segments = Segment.apply_style(segments, Style(reverse=True))
        return Strip(Segment.apply_style(segments, base)).adjust_cell_length(width, base)

    def _choose(self, number: int) -> None:
        number = max(0, min(len(self.rows) - 1, number))
        self.chosen = number
        top, height = self.scroll_offset.y, max(1, self.size.height)
        if not top <= number < top + height:
            self.scroll_to(y=number if number < top else number - height + 1, animate=False)
        self.post_message(self.Moved())

    def action_move(self, by: int) -> None:
        self._choose(self.chosen + by)

    def action_page(self, by: int) -> None:
        self._choose(self.chosen + by * max(1, self.size.height - 1))

    def on_click(self, event: events.Click) -> None:
        if event.y + self.scroll_offset.y < len(self.rows):
            self._choose(event.y + self.scroll_offset.y)


class Help(ModalScreen[None]):
    """The keys and the columns."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,enter,space", "app.pop_screen")]
    DEFAULT_CSS = """
    Help { align: center middle; }
    Help > Static { width: 76; height: auto; max-height: 100%; padding: 0 1; border: solid ansi_default;
                    background: ansi_default; color: ansi_default; }
    """

    def compose(self) -> ComposeResult:
        text = Text()
        for title, rows in (("Keys", KEYS), ("Columns", EXPLAINED)):
            text.append(f"{title}\n", "bold")
            for name, what in rows:
                text.append(f"  {name:<9}", "bold").append(f" {what}\n")
        text.append("\nAny of escape, enter and q closes this.")
        yield Static(text)


class TraceApp(App[int]):
    """Shows what ``source`` tells, until q (exit code 0), Ctrl-C (130), a signal, or ``ends`` seconds are
    over.

    ``error`` is what ended the source, if something did.
    """

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    * { scrollbar-size-vertical: 1; scrollbar-background: ansi_default; scrollbar-color: ansi_blue; }
    Screen, Static, Lines, Input, Input:focus { background: ansi_default; color: ansi_default; }
    ModalScreen { background: ansi_default; }
    Lines { height: 1fr; }
    #summary { height: auto; max-height: 2; }
    #titles, #keys { height: 1; text-style: bold reverse; }
    #why { height: 2; }
    Input, Input:focus { height: 1; border: none; padding: 0; display: none; }
    Input.open { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "leave(0)"),
        Binding("ctrl+c", "leave(130)", priority=True),
        Binding("ctrl+q", "leave(0)", priority=True),
        Binding("s", "sort"),
        Binding("f", "files"),
        Binding("slash", "filter"),
        Binding("space,p", "hold"),
        Binding("enter", "zoom"),
        Binding("question_mark,h", "help"),
        Binding("escape", "unfilter"),
    ]

    class Arrived(Message):
        """The source has told something."""

    def __init__(self, source: Source, *, ends: float | None = None) -> None:
        super().__init__(ansi_color=True)
        self.source = source
        self.ends = ends
        self.error: BaseException | None = None
        self.ended = False
        self.held = False
        self.sort = SORTS[0]
        self.files = FILES[0]
        self.find = ""
        self.shown: dict[str, Any] | None = None
        self.history = History()
        self._thread = threading.Thread(target=self._pump, name="swmld-trace", daemon=True)
        self._lock = threading.Lock()
        self._latest: dict[str, Any] | None = None
        self._batches: list[Batch] = []

    # ---- the source's thread

    def _pump(self) -> None:
        try:
            self.source.run(self.told)
        except BaseException as error:
            self.error = error
        self.ended = True
        self.post_message(self.Arrived())

    def told(self, message: Told) -> None:
        """Keep ``message`` for the loop; from any thread. What was not shown yet is replaced."""
        with self._lock:
            pending = self._latest is not None or self._batches
            if isinstance(message, Batch):
                # Bounded: at 30,000 touches a second the history holds two seconds anyway.
                self._batches = [*self._batches[-MOST_BATCHES:], message]
            else:
                self._latest = message
        if not pending:
            self.post_message(self.Arrived())

    def _take(self) -> tuple[dict[str, Any] | None, list[Batch]]:
        with self._lock:
            taken = self._latest, self._batches
            self._latest, self._batches = None, []
        return taken

    # ---- the loop

    def compose(self) -> ComposeResult:
        yield Static(id="summary")
        yield Static(id="titles")
        yield Lines()
        yield Static(id="why")
        yield Input(placeholder="text in a name, pattern or explanation")
        yield Static(HINT, id="keys")

    def on_mount(self) -> None:
        self.query_one(Lines).focus()
        self.query_one("#why", Static).update(f"waiting for {self.source.title} ...")
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self.action_leave, 128 + number)
        if self.ends is not None:
            self.set_timer(self.ends, lambda: self.action_leave(0))
        self._thread.start()

    def on_unmount(self) -> None:
        self.source.stop()

    def on_resize(self, event: events.Resize) -> None:
        self._summary()

    def on_trace_app_arrived(self, message: Arrived) -> None:
        latest, batches = self._take()
        for batch in batches:
            self.history.add(batch)
        if latest is not None and not self.held:
            self.show(latest)
        if self.error is not None:
            self.exit(1)
        elif self.ended:
            self._summary()

    def on_lines_moved(self, message: Lines.Moved) -> None:
        self._why()

    def show(self, snapshot: dict[str, Any]) -> None:
        """Draw ``snapshot``."""
        self.shown = snapshot
        self._rows()
        self._summary()
        for zoom in self._zooms():
            zoom.show(snapshot)

    def _zooms(self) -> list[Zoom]:
        return [screen for screen in self.screen_stack if isinstance(screen, Zoom)]

    def _rows(self) -> None:
        if self.shown is not None:
            rows = trace_rows.rows(self.shown, sort=self.sort, find=self.find, files=self.files)
            self._base.query_one(Lines).show(rows)
            self._why()

    @property
    def _base(self) -> Any:
        return self.screen_stack[0]

    def on_lines_shaped(self, message: Lines.Shaped) -> None:
        self._base.query_one("#titles", Static).update(trace_rows.header(message.shape))

    def _summary(self) -> None:
        state = [
            "HELD" if self.held else "", "ended" if self.ended else "",
            f"sort {self.sort}" if self.sort != SORTS[0] else "",
            f"files {self.files}" if self.files != FILES[0] else "",
            f"/{self.find}" if self.find else "",
            f"only {self.source.only}" if self.source.only else "",
        ]  # fmt: skip
        parts = [Text(printable(self.source.title), "bold")]
        parts += [Text(printable(word), "bold magenta") for word in state if word]
        parts += trace_rows.summary(self.shown) if self.shown is not None else []
        self._base.query_one("#summary", Static).update(Text("  ").join(parts))

    def _why(self) -> None:
        row = self._base.query_one(Lines).row
        text = ""
        if self.shown is not None:
            text = trace_rows.explained(self.shown, self.source.only)
        if row is not None:
            text = f"{row.name}: {row.said}"
        elif self.find:
            text = f"Nothing has {self.find!r} in it; escape shows all."
        self._base.query_one("#why", Static).update(Text(printable(text)))

    # ---- keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        # In a zoom these would change what is not to be seen.
        return action not in OF_LINES or len(self.screen_stack) == 1

    def action_leave(self, code: int) -> None:
        self.exit(code)

    def action_sort(self) -> None:
        self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]
        self._again()

    def action_files(self) -> None:
        self.files = FILES[(FILES.index(self.files) + 1) % len(FILES)]
        self._again()

    def action_hold(self) -> None:
        self.held = not self.held
        for zoom in self._zooms():
            zoom.hold(self.held)
        self._again()

    def _again(self) -> None:
        self._rows()
        self._summary()

    def action_filter(self) -> None:
        field = self._base.query_one(Input)
        field.value = self.find
        field.add_class("open")
        field.focus()

    def action_unfilter(self) -> None:
        self._filtered("")

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.has_class("open"):
            self.find = event.value
            self._again()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self._filtered(event.value)

    def _filtered(self, text: str) -> None:
        self.find = text
        self._base.query_one(Input).remove_class("open")
        self._base.query_one(Lines).focus()
        self._again()

    def action_help(self) -> None:
        self.push_screen(Help())

    def action_zoom(self) -> None:
        row = self._base.query_one(Lines).row
        if row is None:
            return
        wanted = zoom_of(row)
        source = self.source.zoomed(wanted)
        # A source that tells all has its history already; another begins one.
        history = self.history if source is None else History()
        at = self.shown["at"] if self.shown is not None else 0.0
        self.push_screen(Zoom(row, wanted, history, source, at=at, held=self.held))


MOST_BATCHES = 200


def zoom_of(row: Row) -> Wanted:
    """Which raw batches say more about ``row``."""
    if row.kind == "job":
        return Wanted(job=row.job)
    if row.kind == "dataset":
        return Wanted(job=row.job, path=row.view["path"] or None)
    return Wanted(pid=row.view["pid"], path=row.view["path"])
