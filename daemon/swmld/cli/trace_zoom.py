"""One job, dataset or file of ``swmld trace``: what is known of it, and where it reads over time."""

from __future__ import annotations

import textwrap
import threading
from typing import Any, ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Static

from swmld.api.patterns import Wanted
from swmld.cli import trace_plot, trace_rows
from swmld.cli.text import printable
from swmld.cli.trace_history import History
from swmld.cli.trace_rows import Row
from swmld.cli.trace_source import Batch, Source, Told
from swmld.units import format_duration, format_size

SHORTEST = 10.0
"""Seconds that the plot spans at least, so that its first marks do not stretch over all of it."""


MARGIN = 11
"""Cells of the names of what is known."""


class Zoom(Screen[None]):
    """``row`` in full, as it was ``at`` that time. ``source`` tells batches for ``history`` as long as this
    is open; None: another does. ``held``: the picture stands still.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,backspace,enter,z", "app.pop_screen")]
    DEFAULT_CSS = """
    Zoom > Static { height: auto; }
    Zoom > #known { max-height: 50%; }
    Zoom > #plot { height: 1fr; }
    """

    class Arrived(Message):
        """The source has told something."""

    def __init__(
        self,
        row: Row,
        wanted: Wanted,
        history: History,
        source: Source | None,
        *,
        at: float = 0.0,
        held: bool = False,
    ) -> None:
        super().__init__()
        self.row = row
        self.history = history
        self.gone = False
        self.at = at
        """When the last snapshot was taken, seconds of the same clock as the marks'."""
        self.held = held
        self._wanted = wanted
        self._source = source
        self._lock = threading.Lock()
        self._batches: list[Batch] = []
        self._error: BaseException | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield Static(id="known")
        yield Static(id="plot")
        yield Static(" escape back  space hold  ? help  q quit", id="keys")

    def on_mount(self) -> None:
        self._draw()
        if self._source is not None:
            threading.Thread(target=self._pump, args=(self._source,), name="swmld-zoom", daemon=True).start()

    def on_unmount(self) -> None:
        if self._source is not None:
            self._source.stop()

    def on_resize(self, event: events.Resize) -> None:
        self._draw()

    # ---- the source's thread

    def _pump(self, source: Source) -> None:
        try:
            source.run(self._told)
        except BaseException as error:
            self._error = error
        self.post_message(self.Arrived())

    def _told(self, message: Told) -> None:
        if isinstance(message, Batch):
            with self._lock:
                self._batches.append(message)
            self.post_message(self.Arrived())

    # ---- the loop

    def on_zoom_arrived(self, message: Arrived) -> None:
        with self._lock:
            batches, self._batches = self._batches, []
        for batch in batches:
            self.history.add(batch)

    def show(self, snapshot: dict[str, Any]) -> None:
        """Draw what ``snapshot`` says of the row; what it was, if it is gone."""
        rows = trace_rows.rows(snapshot, files="all")
        found = next((row for row in rows if row.key == self.row.key), None)
        self.gone = found is None
        self.row = found or self.row
        self.at = snapshot["at"]
        self._draw()

    def hold(self, held: bool) -> None:
        """Say whether the picture stands still."""
        self.held = held
        self._draw()

    def _draw(self) -> None:
        gone = "  (not read any more)" if self.gone else ""
        title = Text(printable(self.row.name) + gone, "bold")
        self.query_one("#title", Static).update(title.append("  HELD" if self.held else "", "magenta"))
        known = Text()
        for name, value in trace_rows.details(self.row):
            words = Text(value).wrap(self.app.console, max(20, self.size.width - MARGIN))
            for number, line in enumerate(words):
                known.append(f"{'' if number else name:>{MARGIN - 1}} ", "dim").append(line).append("\n")
        known.rstrip()
        self.query_one("#known", Static).update(known)
        place = self.query_one("#plot", Static)
        place.update(Text("\n".join(self.plotted(self.size.width, place.size.height)), no_wrap=True))

    def plotted(self, width: int, height: int) -> list[str]:
        """The plot in so many cells, or why there is none."""
        if self.row.kind == "stream":
            marks = self.history.offsets(self.row.view["pid"], self.row.view["file"])
            top = max([self.row.view["size"], *(mark.high for mark in marks)], default=0)
            high, low, what = format_size(top), "0", "offset"
        else:
            marks, number = self.history.files(self._wanted)
            top, high, low, what = max(1, number - 1), f"{number:,}", "1", "file, in order of the listing"
        if not marks:
            wanting = "nothing was read" if self.row.kind == "stream" else "no file was begun"
            words = f"{wanting} since this is open; here comes a plot: {what} over time"
            return ["", *(f"  {line}" for line in textwrap.wrap(words, max(20, width - 2)))]
        ended = max(self.at, *(mark.at for mark in marks))
        began = min(min(mark.at for mark in marks), ended - SHORTEST)
        margin = max(len(high), len(low)) + 2
        across, down = width - margin - 1, height - 3
        if across < 10 or down < 2:
            return [f"  {len(marks)} reads; the terminal is too small for the plot"]
        lines = trace_plot.plot(marks, across, down, began=began, ended=ended, bottom=0, top=top)
        span = f"{format_duration(ended - began)} ago"
        return [f"  {what}", *trace_plot.framed(lines, high, low, span, "now")]
