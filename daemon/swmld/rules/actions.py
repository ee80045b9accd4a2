"""Actions: one frozen dataclass each, whose fields are its parameters with their kinds, ranges and defaults.

These classes are the one list: what a rule may write, what the reference says and what a decision holds are
all read from their fields. Sizes are bytes, times seconds, percents points, as everywhere in rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, cast

from swmld.rules.kinds import Kind, Value, nearest, parse, shown_value, word_key
from swmld.values import expected, shown

TARGETS = ("file", "directory", "dataset", "model", "job")
"""What an action is done to: the file that is decided about, its directory, its dataset, all files of its
model, or everything its job reads."""
TARGET_ALIASES = {"workload": "job"}


ROUNDING = 1e-6
"""How far from a whole number one may be that was given with a unit."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """``low``, ``high``: bounds, both included. ``words``: the only texts; ``synonyms``: others for them.
    ``starts``: how a text may begin."""

    name: str
    kind: Kind
    description: str
    default: Value | None
    low: float | None = None
    high: float | None = None
    words: tuple[str, ...] = ()
    synonyms: Mapping[str, str] = field(default_factory=dict)
    whole: bool = False
    max_length: int = 1000
    starts: tuple[str, ...] = ()

    def parse(self, given: Any) -> Value:
        """Raises ValueError with what was expected."""
        if self.words and isinstance(given, str):
            given = self.synonyms.get(word_key(given), given)
        value = parse(self.kind, given, self.words)
        if isinstance(value, str):
            if not self.words and not 1 <= len(value) <= self.max_length:
                raise expected(f"a text of 1 to {self.max_length} characters", given)
            if self.starts and not value.lower().startswith(self.starts):
                raise expected(f"a text that begins with {' or '.join(self.starts)}", given)
            return value
        if isinstance(value, bool | frozenset):
            return value
        if self.whole and abs(value - round(value)) < ROUNDING:
            value = round(value)  # 0.55m is 33 seconds, and a little more in binary
        too_low = self.low is not None and value < self.low
        too_high = self.high is not None and value > self.high
        if too_low or too_high or (self.whole and value != int(value)):
            raise expected(self.range, given)
        return value

    @property
    def range(self) -> str:
        """What may be given, in words."""
        if self.words:
            return ", ".join(self.words)
        what = f"a {self.kind.value}"
        if self.whole:
            what = "a time in whole seconds" if self.kind is Kind.DURATION else "a whole number"
        low = shown_value(self.kind, self.low) if self.low is not None else None
        high = shown_value(self.kind, self.high) if self.high is not None else None
        if low is not None and high is not None:
            return f"{what} from {low} to {high}"
        return (
            f"{what} of at least {low}"
            if low is not None
            else what
            if self.kind is not Kind.BOOL
            else "true or false"
        )


def _field(kind: Kind, default: Value | None, description: str, **more: Any) -> Any:
    return field(default=default, metadata={"kind": kind, "description": description, **more})


def _count(default: int | None, description: str, low: int, high: int) -> Any:
    return _field(Kind.NUMBER, default, description, low=low, high=high, whole=True)


def _size(default: int | None, description: str, low: int = 0, high: int = 1 << 40) -> Any:
    return _field(Kind.SIZE, default, description, low=low, high=high)


def _time(
    default: float | None,
    description: str,
    low: float = 0.001,
    high: float = 30 * 86400,
    *,
    whole: bool = False,
) -> Any:
    return _field(Kind.DURATION, default, description, low=low, high=high, whole=whole)


def _percent(default: float | None, description: str) -> Any:
    return _field(Kind.PERCENT, default, description)


def _flag(default: bool, description: str) -> Any:
    return _field(Kind.BOOL, default, description)


def _word(default: str | None, words: tuple[str, ...], description: str, **synonyms: str) -> Any:
    folded = {word_key(name): word for name, word in synonyms.items()}
    return _field(Kind.STRING, default, description, words=words, synonyms=folded)


@dataclass(frozen=True, slots=True)
class Cache:
    """Where the bytes are kept, and how hard they are to evict."""

    tier: str = _word(
        "disk",
        ("memory", "disk", "none"),
        "Loaded into memory at each open, in memory as the kernel likes, or not cached at all.",
    )
    strategy: str = _word(
        "adaptive", ("adaptive", "aggressive", "lazy", "no_evict", "ttl"),
        "Eviction: by what is used, last of all, first of all, never within a job, or after ttl.",
        basic="lazy", maximum="aggressive", latency="aggressive", pytorch_aware="adaptive",
        tensorflow_aware="adaptive", huggingface_aware="adaptive",
    )  # fmt: skip
    ttl: float | None = _time(
        None, "How long after its last use a file is kept, with the strategy ttl.", low=1, whole=True
    )
    pin: bool = _flag(False, "Never evict the file.")
    pin_fraction: float | None = _percent(None, "Share of the target's bytes that is never evicted.")


@dataclass(frozen=True, slots=True)
class Prefetch:
    """What is fetched before it is asked for."""

    size: int | None = _size(None, "Bytes fetched ahead of the reader at first.")
    window: int | None = _size(None, "Most bytes fetched ahead of the reader.")
    whole_file: bool = _flag(False, "Fetch the whole file when it is opened.")
    next_files: int = _count(0, "Files that come next in the order of reading.", 0, 100_000)
    siblings: bool = _flag(False, "Fetch the other files of the directory.")
    shards: bool = _flag(False, "Fetch the next shards of a set that the name or an index lists.")
    header: int = _size(0, "Bytes at the start of the file.")
    footer: int = _size(0, "Bytes at the end of the file.")
    depth: int = _count(1, "Levels of directories that are fetched from, the file's own among them.", 0, 64)
    deadline: float | None = _time(None, "Drop what was not fetched within this time.")
    enabled: bool = _flag(True, "Fetch ahead at all.")


@dataclass(frozen=True, slots=True)
class Stream:
    """How a file is fetched while it is read."""

    chunk_size: int | None = _size(None, "Bytes of one request to the source.", 4 << 10, 1 << 30)
    parallel_streams: int | None = _count(None, "Requests under way at once for the file.", 1, 1024)
    drop_behind: bool = _flag(False, "Let the page cache forget what has been read.")


@dataclass(frozen=True, slots=True)
class Coordinate:
    """What processes that use the same file do together."""

    mode: str = _word(
        "single_fetch", ("single_fetch", "barrier", "single_writer"),
        "One fetch for all readers, readers wait until all have come, or one writer at a time.",
    )  # fmt: skip
    processes: int = _count(0, "Processes that a barrier waits for; 0: those that read now.", 0, 65536)
    timeout: float = _time(30.0, "Longest wait for the others.")


@dataclass(frozen=True, slots=True)
class Compress:
    """Keep chunks compressed by zstd, of files whose format is not compressed already."""

    enabled: bool = _flag(True, "Compress, or not.")
    level: int = _count(3, "Level of zstd.", 1, 19)


@dataclass(frozen=True, slots=True)
class Prioritize:
    """Who comes first when several want the source."""

    fetch_class: str | None = _word(
        None, ("demand", "prefetch"), "What all the target's fetches count as, for whatever they are made."
    )
    priority: int = _count(0, "Order among fetches of the same class; more is sooner.", -1000, 1000)
    io_priority: str | None = _word(
        None, ("realtime", "best_effort", "idle"), "I/O class of the readers on the cache's disk."
    )
    bandwidth_share: float | None = _percent(None, "Share of the source's bandwidth that the job may take.")


@dataclass(frozen=True, slots=True)
class Advise:
    """What the kernel is told about the file."""

    advice: str = _word(
        "normal",
        ("normal", "sequential", "random", "noreuse", "willneed", "dontneed"),
        "As posix_fadvise(2).",
    )
    readahead: int | None = _size(None, "Kernel readahead of the open file.", 0, 1 << 30)


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell somebody. Every rule that matches notifies on its own."""

    event: str | None = _field(
        Kind.STRING, None, "Name of the event in log, metrics and trace.", max_length=64
    )
    webhook: str | None = _field(
        Kind.STRING, None, "URL that gets a POST of the event as JSON.", starts=("http://", "https://")
    )
    command: str | None = _field(
        Kind.STRING, None, "Program that is run with the event as JSON on its input."
    )


Effect = Cache | Prefetch | Stream | Coordinate | Compress | Prioritize | Advise | Notify


@dataclass(frozen=True, slots=True)
class ActionType:
    """A name that rules use. ``preset``: values it stands for, which leave nothing to give; ``moved``: a
    parameter that belongs to another action, as (action, parameter)."""

    name: str
    effect: type[Effect]
    description: str
    preset: Mapping[str, Value] = field(default_factory=dict)
    moved: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    alias_of: str = ""

    #: Of every effect, its parameters by name; filled below.
    parameters_of: ClassVar[dict[type[Effect], dict[str, Parameter]]] = {}

    @property
    def parameters(self) -> dict[str, Parameter]:
        """What may be given."""
        own = {} if self.preset else self.parameters_of[self.effect]
        return own | {name: self.parameters_of[ACTIONS[a].effect][p] for name, (a, p) in self.moved.items()}


def _parameters(effect: type[Effect]) -> dict[str, Parameter]:
    return {
        entry.name: Parameter(entry.name, default=cast(Any, entry.default), **entry.metadata)
        for entry in fields(effect)
    }


def _first_line(effect: type[Effect]) -> str:
    return (effect.__doc__ or "").splitlines()[0]


def _action(name: str, effect: type[Effect], alias_of: str = "", **more: Any) -> tuple[str, ActionType]:
    return name, ActionType(name, effect, _first_line(effect), alias_of=alias_of, **more)


_COMPRESSION = {"compression": ("compress", "enabled")}
ACTIONS: dict[str, ActionType] = dict(
    (
        _action("cache", Cache),
        _action("intelligent_cache", Cache, "cache"),
        ("exclude", ActionType("exclude", Cache, "Never cached: cache with tier none.", {"tier": "none"},
                               alias_of="cache")),
        _action("prefetch", Prefetch),
        _action("stream", Stream, moved=_COMPRESSION),
        _action("chunked_streaming", Stream, "stream", moved=_COMPRESSION),
        _action("coordinate", Coordinate),
        _action("compress", Compress),
        _action("prioritize", Prioritize),
        _action("advise", Advise),
        _action("notify", Notify),
    )
)  # fmt: skip
ActionType.parameters_of.update({entry.effect: _parameters(entry.effect) for entry in ACTIONS.values()})
NAME_OF: dict[type[Effect], str] = {a.effect: a.name for a in reversed(ACTIONS.values()) if not a.alias_of}


@dataclass(frozen=True, slots=True)
class Action:
    """What a rule asks for: the parameters it gives, parsed; others are for other rules or the default."""

    effect: type[Effect]
    target: str
    given: Mapping[str, Value]

    @property
    def name(self) -> str:
        return NAME_OF[self.effect]

    def __str__(self) -> str:
        known = ActionType.parameters_of[self.effect]
        shown = ", ".join(
            f"{name} {shown_value(known[name].kind, value)}" for name, value in self.given.items()
        )
        return f"{self.name} {self.target}" + (f" ({shown})" if shown else "")


def find(name: str) -> ActionType:
    """The action of that name. Raises ValueError with the nearest one."""
    try:
        return ACTIONS[name.strip().lower()]
    except KeyError:
        raise ValueError(f"unknown action {shown(name)}{nearest(name, ACTIONS)}") from None


def target(given: Any) -> str:
    """The target of that name. Raises ValueError with the nearest one."""
    if isinstance(given, str) and given.lower() in TARGET_ALIASES:
        return TARGET_ALIASES[given.lower()]
    try:
        return str(parse(Kind.STRING, given, TARGETS))
    except ValueError:
        raise ValueError(f"unknown target {shown(given)}{nearest(str(given), TARGETS)}") from None
