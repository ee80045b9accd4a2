"""The pattern of one stream, in words. Pure."""

from __future__ import annotations

from swmld.patterns.feed import NOT_EARLY, PAGE, WINDOW, Cursor, Shape
from swmld.patterns.stream import Stream
from swmld.patterns.views import UNKNOWN, Finding
from swmld.units import format_size

CHANCE = 1e-5
"""Probability of seeing as much by accident, below which reads count as sequential: of 10,000 streams of
random reads, 0.1 would be called so."""

CHANCE_FROM_START = 2e-3
"""The same for a stream that began at page 0, where readers in sequence begin and random ones seldom do."""

TAIL = 16
"""Pages (64 KiB) at the end of a file that hold a directory: what pyarrow reads of a parquet file at once,
and the most that a zip file's end record with its comment takes. In large files also the last 1/64."""

FAR = 32
"""Pages (128 KiB, the kernel's default readahead): a shorter skip may be readahead's or a reader's buffer."""

TAIL_NAMES = (b".zip", b".parquet", b".pt", b".pth", b".npz", b".orc", b".feather", b".arrow")
HEAD_NAMES = (b".safetensors", b".gguf", b".h5", b".hdf5")

MEMBERS = 64
"""Jumps there and back from which a file with a directory at its end is read at random, member by member."""

USUAL_PAIRS = 16
"""Pairs of reads of the last second from which their shares count more than the last few; but not more than a
run of ``USUAL_RUN`` reads."""

USUAL_RUN = 8

SHAPES = {shape.value: shape.name.lower() for shape in Shape}


def pattern(stream: Stream, name: bytes) -> Finding:
    """The stream's pattern; ``name`` of the file, b"" if not known."""
    cursor = stream.cursor
    for look in (_repeated, _tail, _header):
        found = look(stream, cursor, name)
        if found is not None:
            return found
    if stream.whole and stream.counts.reads <= 1:
        return Finding("whole-file", 0.99, "one read covers the file")
    shape = stream.shape
    if cursor is not None:
        found = _whole(stream, cursor)
        if found is not None:
            return found
        if stream.in_pieces:
            return _pieces(cursor)
        shape = _usual(stream, cursor)
    if cursor is not None and stream.paced:
        return _paced(stream, cursor)
    if shape == Shape.SEQUENTIAL:
        return _sequential(stream, cursor)
    if shape == Shape.REVERSE:
        return _run(stream, cursor, "reverse", "end where the one before began")
    if shape == Shape.STRIDED:
        return _run(
            stream, cursor, "strided", f"begin {abs(stream.stride)} pages from where the one before began"
        )
    if shape == Shape.RANDOM:
        return _random(cursor)
    if stream.whole:
        return Finding("whole-file", 0.9, "its latest read covers the file")
    return UNKNOWN


def _usual(stream: Stream, cursor: Cursor) -> int:
    """The shape of now; but where its few reads are an exception among the last second's, that of those.

    Mapped files that are read in order jump now and then, ones that are read at random go on for a few
    faults: the kernel's word for the moment changes with each.
    """
    pairs = sum(stream.recent)
    if (
        stream.shape in (Shape.NEW, Shape.SEQUENTIAL)
        or pairs < USUAL_PAIRS
        or cursor.run >= USUAL_RUN
        or stream.changed_at > cursor.last_at
    ):
        return stream.shape
    best = max(range(4), key=stream.recent.__getitem__)
    exception = stream.recent[stream.shape - 1] < 0.4 * pairs and stream.recent[best] > 0.6 * pairs
    return best + 1 if exception else stream.shape


def relations(cursor: Cursor) -> int:
    """Pairs of neighbouring reads."""
    return cursor.sequential + cursor.reverse + cursor.strided + cursor.random + cursor.same


def _repeated(stream: Stream, cursor: Cursor | None, name: bytes) -> Finding | None:
    forward = stream.whole or stream.shape in (Shape.SEQUENTIAL, Shape.NEW)
    # Who looks at the end first, then reads from the start, begins anew without having read it all.
    looked = stream.head > 0 or _tail(stream, cursor, name) is not None
    passes = stream.passes - looked
    if passes > 0 and forward:
        full = not stream.size or stream.counts.pages >= 0.9 * stream.size * passes
        if full:
            times = f"{passes} time{'s' * (passes > 1)}"
            words = f"begun anew at its start {times} after its end was read"
            return Finding("repeated", 0.95, words)
    if cursor is not None:
        pairs = relations(cursor)
        if pairs >= 3 and cursor.same >= 0.9 * pairs:
            words = f"{cursor.same} of {pairs} reads ask for the same pages as the one before"
            return Finding("repeated", 0.95, words)
    return None


def _tail(stream: Stream, cursor: Cursor | None, name: bytes) -> Finding | None:
    """Looked into its head or tail for a directory first: zip, parquet, safetensors."""
    if cursor is None or not cursor.size:
        return None
    early = [page for page in cursor.early if page != NOT_EARLY]
    tail = cursor.size - max(TAIL, cursor.size >> 6)
    if tail < FAR or not early:
        return None
    length = max(1, cursor.pages // max(1, cursor.reads))
    at = next((number for number, page in enumerate(early[:4]) if page >= tail), None)
    if at is None or (at == 0 and len(early) > 1 and min(early[1:]) >= tail):
        return None
    before = early[at - 1] if at else 0
    # A jump, not the way there: what lies between was not read.
    if at and early[at] - before <= max(FAR, 4 * length):
        return None
    if not at and len(early) == 1:
        return None
    pairs = relations(cursor)
    if pairs > 64 and cursor.random > 0.5 * pairs:
        return None  # by now it is read at random, whatever it began with
    if stream.in_pieces and cursor.random > MEMBERS:
        return None
    named = name.lower().endswith(TAIL_NAMES)
    ordinal = ("first", "second", "third", "fourth")[at]
    words = f"its {ordinal} read goes to the last {cursor.size - early[at]} of {cursor.size} pages"
    if at:
        words = f"begins at page {early[0]}, then {words}"
    if any(page < early[at] for page in early[at + 1 :]):
        words += ", then back to what lies before"
    if named:
        words += "; files of this name keep their directory there"
    return Finding("header-then-tail", 0.95 if named else 0.85, words)


def _header(stream: Stream, cursor: Cursor | None, name: bytes) -> Finding | None:
    """Formats whose directory is at the head: it is read, then ranges further in."""
    if cursor is None or not name.lower().endswith(HEAD_NAMES) or cursor.early[:1] != (0,):
        return None
    jumps = cursor.random + cursor.strided
    pairs = relations(cursor)
    if not jumps or (pairs > 64 and jumps > 0.5 * pairs):
        return None
    if pairs > 64 and cursor.sequential > 0.9 * pairs and cursor.pages >= 0.9 * cursor.size:
        return None  # all of it in order: it steps aside for an index now and then
    words = f"begins at page 0, then jumps {jumps} times; files of this name have their directory at the head"
    return Finding("header-then-tail", 0.8, words)


def _whole(stream: Stream, cursor: Cursor) -> Finding | None:
    """All of a small file, front to back, in several reads."""
    size = cursor.size
    if not size or size > WINDOW or cursor.low or cursor.high < size - 1 or cursor.pages < size:
        return None
    if cursor.sequential + cursor.same < relations(cursor):
        return None
    words = f"all {size} pages front to back in {cursor.reads} read{'s' * (cursor.reads > 1)}"
    return Finding("whole-file", 0.95, words)


def _sequential(stream: Stream, cursor: Cursor | None) -> Finding:
    if cursor is not None and not relations(cursor):
        cursor = None  # its row is of before
    chance, words = _accident(stream, cursor)
    if chance > (CHANCE_FROM_START if _from_start(stream, cursor) else CHANCE):
        if cursor is not None and cursor.random > 0.5 * relations(cursor):
            return _random(cursor)
        return Finding("unknown", 0.0, f"{words}, as random reads of this file also may")
    share = 1.0
    if cursor is not None and (pairs := relations(cursor)):
        share = max(cursor.sequential / pairs, 0.6)
    return Finding("sequential", round(min(0.99, share), 3), words)


def _from_start(stream: Stream, cursor: Cursor | None) -> bool:
    if cursor is None:
        return stream.head == 0 and not stream.after_random and not stream.breaks
    return stream.head == 0 and cursor.random + cursor.strided + cursor.reverse == 0


def _accident(stream: Stream, cursor: Cursor | None) -> tuple[float, str]:
    """How probable it is that random reads look as sequential as these did; and what they looked like."""
    length = stream.last - stream.first + 1
    size = max(stream.size, WINDOW if not stream.size else 1)
    if cursor is None:
        run = 4 if stream.after_random else 2
        start = stream.head == 0 and not stream.after_random
        chance = min(1.0, (length + 1) / size)
        return chance ** (run + start), f"{run} reads in a row begin where the one before ended"
    length = max(length, cursor.pages // max(1, cursor.reads))
    chance = min(1.0, (length + 1) / size)
    pairs = relations(cursor)
    run = cursor.run if cursor.guess == Shape.SEQUENTIAL else 0
    start = _from_start(stream, cursor)
    trials = max(1, pairs - run + 1)
    by_run = trials * chance ** (run + start)
    # Of all pairs: at most 2^pairs ways to choose which of them are the sequential ones.
    by_share = (
        2.0 ** min(pairs, 1000) * chance**cursor.sequential if cursor.sequential * 4 > pairs * 3 else 1.0
    )
    words = f"{cursor.sequential} of {pairs} reads begin where the one before ended"
    return min(by_run, by_share), words


def _run(stream: Stream, cursor: Cursor | None, kind: str, words: str) -> Finding:
    if cursor is None or cursor.kind != stream.shape:
        return Finding(kind, 0.7, f"the latest reads {words}")
    fitting = cursor.reverse if kind == "reverse" else cursor.strided
    pairs = relations(cursor)
    count = max(fitting, min(cursor.run, pairs))
    value = max(0.5, min(0.99, 1 - 0.5 ** (cursor.run + 1)))
    return Finding(kind, round(value, 3), f"{count} of {pairs} reads {words}")


def _paced(stream: Stream, cursor: Cursor) -> Finding:
    way = "forward" if stream.paced > 0 else "backward"
    words = f"its {cursor.reads} reads go {way}, {abs(stream.paced):.1f} pages each time, on average"
    return Finding("strided", 0.9, words)


def _pieces(cursor: Cursor) -> Finding:
    length = cursor.pages * PAGE // (cursor.random + 1)
    words = f"{cursor.random} pieces of about {format_size(length)} at unrelated places, there and back"
    return Finding("random", 0.8, words)


def _random(cursor: Cursor | None) -> Finding:
    if cursor is None or not relations(cursor):
        return Finding("random", 0.7, "the latest reads go to unrelated places")
    pairs = relations(cursor)
    value = max(0.6, min(0.99, cursor.random / pairs))
    return Finding("random", round(value, 3), f"{cursor.random} of {pairs} reads go to unrelated places")
