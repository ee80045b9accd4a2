"""What crosses the control socket: one JSON object a line, ASCII only.

A client sends one request and reads lines until a result or an error ends the exchange; a method that takes
long sends progress lines first. Paths are text with surrogate escapes for bytes that are not UTF-8, as
``os.fsdecode`` makes them; JSON carries those as ``\\udcXX``. A path is absolute, or relative to the mount.

    -> {"method": "warmup", "params": {"paths": ["train"]}}
    <- {"progress": {"done_bytes": 4194304, "total_bytes": 8388608, "done_files": 1, "total_files": 2}}
    <- {"result": {...}}          or {"error": {"message": "...", "exit_code": 1}}
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, NotRequired

# Before Python 3.12 pydantic makes a schema (``openapi``) of this one alone.
from typing_extensions import TypedDict

# The kernel takes 2 MiB of command line by default, and a JSON escape of a byte is 6 bytes long.
MAX_REQUEST = 16 << 20

METHODS = (
    "status", "health", "stats", "patterns", "trace", "rules", "history", "explain", "warmup",
    "cache.ls", "cache.verify", "cache.drop", "staged", "staged.drop", "flush",
)  # fmt: skip

Progress = Callable[[Mapping[str, Any]], Awaitable[None]]
Handler = Callable[[dict[str, Any], Progress], Awaitable[Any]]


class PathsParams(TypedDict):
    """Parameters of ``warmup``."""

    paths: list[str]


class PathParams(TypedDict):
    """Parameters of ``cache.ls``, ``cache.verify``, ``cache.drop``; no ``path``: the mount's root."""

    path: NotRequired[str]


class CacheUsage(TypedDict):
    """The cache as a whole. All but ``files`` in bytes; ``free`` is the free space of its disk."""

    bytes: int
    files: int
    limit: int
    free: int


class RulesStatus(TypedDict):
    """How it stands with the files of rules and settings. Times: seconds since the epoch, 0 never."""

    ruled: bool  # False: no rules are in use, the files have settings of the daemon alone
    active: int
    loaded_at: float
    error: str  # why the files as they are now are not in use, a line each problem; "": they are
    error_at: float
    pending: list[str]  # settings of the daemon that changed in the files and count from its next start on


class Lost(TypedDict):
    """What did not fit into the probes' tables since the start, so what the findings do not know."""

    events: int
    cursors: int
    processes: int


class Probe(TypedDict):
    """Where the findings come from."""

    how: str  # btf, tracepoint, fentry, kprobe, fuse or off
    why: str  # "": not known yet, the probes are being loaded
    share: float  # of the time in which reads are looked at; below 1 counts are estimated, see --probe-rate
    rate: int  # reads a second of the busiest CPU, of whatever files, as the probes saw them last
    limit: int  # --probe-rate where it counts: reads a second of one CPU beyond which they are sampled, or 0
    lost: Lost


class HealthParams(TypedDict):
    """The query of ``GET /healthz``; ``ready`` 1: the status of the answer is that of ``ready``."""

    ready: NotRequired[int]


class Health(TypedDict):
    """Result of ``health`` and of ``GET /healthz``: what works now.

    ``status``: ``ok``; ``degraded``: the mount serves, and ``problems`` says what does not work; ``down``:
    the mount does not serve (it was unmounted, or something else is mounted over it). ``ready``: the mount
    serves and the source answers, so whatever is read can be had.
    """

    status: Literal["ok", "degraded", "down"]
    ready: bool
    problems: list[str]
    mount: str
    uptime: float  # seconds
    source: Literal["ok", "failing"]  # failing: it did not answer in time, and has not since
    cache_disk: Literal["ok", "full", "failing"]  # full: by other files, an empty cache would not do
    probe: Probe
    rules: Literal["none", "valid", "kept-old"]  # kept-old: the files changed and cannot be used


class StagedStatus(TypedDict):
    """How it stands with files that are written: ``files`` are staged, ``waiting_bytes`` of them closed and
    not uploaded yet, the uploads of ``failing`` failed, ``aside`` were put aside. Also the result of
    ``staged``."""

    write: Literal["through", "back"]
    files: int
    waiting_bytes: int
    failing: int
    aside: int


class Status(TypedDict):
    """Result of ``status``: what runs, and what it uses."""

    version: str
    pid: int
    mount: str
    source: str
    cache_dir: str
    mode: str  # passthrough, native or python: the fastest way that reads are served
    engine: str  # uring or threads
    probe: str  # btf, tracepoint, fentry, kprobe: how eBPF sees reads; fuse or off; loading: not known yet
    read_only: bool
    metrics: str  # HOST:PORT as bound, or off
    uptime: float  # seconds
    cache: CacheUsage
    fallbacks: list[str]  # one line for each feature that is missing, and what is used instead
    rules: NotRequired[RulesStatus | None]  # None: the daemon was given no files
    health: NotRequired[Health]
    staged: NotRequired[StagedStatus | None]  # None: a directory, or read-only
    watched: NotRequired[bool | None]  # whether the source tells of its changes; None: a directory


class PatternsParams(TypedDict):
    """Parameters of ``patterns`` and the query of ``GET /ml/patterns``; what is left out does not filter.

    ``path`` is relative to the mount: a file, all below a directory, or a glob. ``limit``: jobs, and
    datasets and streams of each.
    """

    job: NotRequired[int]
    pid: NotRequired[int]
    path: NotRequired[str]
    limit: NotRequired[int]


class TraceParams(PatternsParams):
    """Parameters of ``trace``: seconds between two snapshots; ``raw``: batches of the probes too."""

    interval: NotRequired[float]
    raw: NotRequired[bool]


class Prefetch(TypedDict):
    """Bytes that were fetched ahead, then read, or dropped unread."""

    used_bytes: int
    wasted_bytes: int


class LeftOut(TypedDict):
    """How many views were more than ``limit``."""

    jobs: int
    datasets: int
    streams: int


class PatternsResult(TypedDict):
    """Result of ``patterns``, and each ``snapshot`` of ``trace``. ``at``: seconds, CLOCK_MONOTONIC.

    ``jobs``: JobView of ``swmld.patterns`` as JSON, with its datasets and streams, busiest first.
    """

    at: float
    jobs: list[dict[str, Any]]
    probe: Probe
    prefetch: Prefetch
    left_out: LeftOut


class TraceProgress(TypedDict):
    """Progress of ``trace``: one of the two; ``raw`` is a line of ``swmld.observe.encoding``."""

    snapshot: NotRequired[PatternsResult]
    raw: NotRequired[dict[str, Any]]


class RulesParams(TypedDict):
    """Parameters of ``rules`` and the query of ``GET /ml/rules``. ``rule``: id or title. ``limit`` rules, at
    most 1000, from the number ``offset`` on."""

    rule: NotRequired[str]
    offset: NotRequired[int]
    limit: NotRequired[int]


class BroughtBytes(TypedDict):
    """Bytes fetched ahead because of a rule or a decision; ``used``: opened or read after that; ``wasted``:
    evicted, or their file closed, before that. ``late``: asked for, but a reader came before they did.

    Each byte counts once: asked >= fetched + late, and fetched >= used + wasted."""

    asked: int
    fetched: int
    used: int
    late: int
    wasted: int


class CompressedBytes(TypedDict):
    """Bytes that were stored compressed because of a rule or a decision, and what they take on the disk."""

    bytes: int
    stored: int


class WaitingTime(TypedDict):
    """How long readers waited (for pages, and for names and opens) for what they read while something acted,
    beside what they waited without it: ``seconds``, ``bytes`` and ``reads`` are all that was read after.
    ``compared_seconds`` and ``compared_bytes``: the part of it for which there is a before, and
    ``before_seconds`` what that would have been waited for at the rate of before; null: not known.

    ``basis``: before is the same job's reads of the same dataset (dataset), other jobs' reads of that dataset
    (others), the job's reads of other datasets (job), or not known ("")."""

    seconds: float
    bytes: int
    reads: int
    compared_seconds: float
    compared_bytes: int
    before_seconds: float | None
    basis: Literal["dataset", "others", "job", ""]


class RuleView(TypedDict):
    """One active rule, in words, and what came of it. ``title``: the id, and what made it active."""

    id: str
    title: str
    name: str
    where: str  # FILE:LINE
    priority: int
    specificity: int
    threshold: float  # share of the weight, 0 to 1
    cool_down: float  # seconds
    guard: str  # what its framework or hardware profile demands besides; "": nothing
    conditions: list[str]
    actions: list[str]
    applied: int  # decisions it had a part in
    won: int  # values of parameters that it gave
    last: float  # when it was applied, seconds since the epoch, 0 never
    brought: BroughtBytes
    compressed: CompressedBytes
    waiting: WaitingTime | None  # None: nothing was read where it acted, or nobody measured it


class InactiveRule(TypedDict):
    """A rule that files define and that is not in use, and why."""

    title: str
    why: str


class RulesResult(TypedDict):
    """Result of ``rules``: by rank, the first 100 of the lists of lines. Times: seconds since the epoch."""

    paths: list[str]
    environment: str | None
    active: int
    rules: list[RuleView]
    left_out: int  # active rules after these
    inactive: list[InactiveRule]
    notes: list[str]
    decisions: int  # all so far
    loaded_at: float
    reloads: int
    errors: int  # reloads that failed
    error: str
    error_at: float


class HistoryParams(TypedDict):
    """Parameters of ``history`` and the query of ``GET /ml/history``; what is left out does not filter.

    ``path``: a file, all below a directory, or a glob. ``rule``: id or title of one that matched. ``job``:
    its first process. ``dataset``: its path, or that of a directory above. ``since`` and ``before``: numbers;
    only later, only earlier decisions. ``limit``: at most 1000. ``by``: rule, action, job, dataset or file;
    sums of all these decisions instead of each of them.
    """

    path: NotRequired[str]
    rule: NotRequired[str]
    action: NotRequired[str]
    pid: NotRequired[int]
    job: NotRequired[int]
    dataset: NotRequired[str]
    by: NotRequired[str]
    since: NotRequired[int]
    before: NotRequired[int]
    limit: NotRequired[int]


class SettledValue(TypedDict):
    """A parameter that ``rule`` gave: canonical (bytes, seconds, percents), and as a person writes it."""

    parameter: str
    value: Any
    shown: str
    rule: str


class OverruledValue(SettledValue):
    """What ``rule`` wanted and did not get, because of the rule ``by``."""

    by: str


class DecisionView(TypedDict):
    """One action on one target. ``rules``: all that asked for it, the winner first. ``dropped``: why it came
    to nothing; "" it was done. What no rule gave has its default and is not listed."""

    action: str
    target: str
    rules: list[str]
    settled: list[SettledValue]
    overruled: list[OverruledValue]
    dropped: str


class HistoryEntry(TypedDict):
    """What was decided when a file was opened. ``at``: seconds since the epoch; ``pid`` and ``job`` (its
    first process) 0: not known. ``dataset``: its path; not known yet: the file's directory."""

    id: int
    at: float
    path: str
    pid: int
    job: int
    dataset: str
    rules: list[str]  # that matched, by rank
    resting: list[str]  # that would have, but for their cool-down
    decisions: list[DecisionView]
    brought: BroughtBytes
    compressed: CompressedBytes
    waiting: WaitingTime | None  # None: nothing was read since, or nobody measured it


class HistorySum(TypedDict):
    """What decisions come to. ``key``: title of a rule, name of an action, number of a job (0: not known) or
    path of a dataset or file. ``last``: the latest decision, seconds since the epoch. ``brought``: of an
    action or rule, only where something was fetched ahead because of it. ``waiting`` of a job, dataset or
    file: with and without any rule; None: not known."""

    key: str
    decisions: int
    last: float
    brought: BroughtBytes
    waiting: WaitingTime | None


class HistoryResult(TypedDict):
    """Result of ``history``: newest first. ``more``: there are earlier ones that were asked for.

    With ``by``: no decisions but ``sums``, those with the most bytes asked for first; ``more``: of them.
    """

    sums: NotRequired[list[HistorySum]]
    decisions: list[HistoryEntry]
    total: int  # decisions so far, those that are forgotten included
    more: bool


class ExplainParams(TypedDict):
    """Parameters of ``explain``. ``rule``: this one alone; ``all``: also those that do not match."""

    path: str
    rule: NotRequired[str]
    all: NotRequired[bool]


class ExplainResult(TypedDict):
    """Result of ``explain``: what is known of the file now, what the rules make of that, as lines, and what
    was decided when it was opened last."""

    path: str
    known: dict[str, str]
    lines: list[str]
    matched: int
    active: int
    latest: HistoryEntry | None


class Buckets(TypedDict):
    """A histogram: ``counts[i]`` values in (``bounds[i-1]``, ``bounds[i]``]; one more count for the rest."""

    bounds: list[float]
    counts: list[int]
    sum: float


Value = float | Buckets | dict[str, float | Buckets]


class Stats(TypedDict):
    """Result of ``stats``: the values of ``swmld.api.metrics.METRICS`` by name without ``swmld_``."""

    mount: str
    uptime: float  # seconds
    metrics: dict[str, Value]


class Transfer(TypedDict):
    """Progress of ``warmup`` and ``cache.verify``. Totals grow during the walk; 0: not known."""

    done_bytes: int
    total_bytes: int
    done_files: int
    total_files: int


class PathError(TypedDict):
    """One file that could not be handled, and why."""

    path: str
    error: str


class WarmupResult(TypedDict):
    """Result of ``warmup``: ``skipped_bytes`` were in the cache already. ``failed`` has the first 100.

    ``left_out``: what is not in the cache because there is no room for it, and ``full`` why: the cache's
    limit, its disk, or what it will not let go. ``room_bytes``: what it could hold at the start.
    """

    files: int
    fetched_bytes: int
    skipped_bytes: int
    failed_files: int
    failed: list[PathError]
    seconds: float
    full: NotRequired[Literal["", "size", "disk", "use"]]
    room_bytes: NotRequired[int]
    left_out_files: NotRequired[int]
    left_out_bytes: NotRequired[int]


class CacheEntry(TypedDict):
    """One cached file. ``last_used`` is seconds since the epoch, 0 if unknown."""

    path: str
    size: int
    cached_bytes: int
    state: str  # complete, partial, or suspect: checked before its next use
    last_used: float
    pinned: bool


class Entries(TypedDict):
    """Progress of ``cache.ls``: some more files, at most ``ENTRIES_PER_LINE``."""

    entries: list[CacheEntry]


ENTRIES_PER_LINE = 1000


class CacheTotal(TypedDict):
    """Result of ``cache.ls`` (what was listed) and of ``cache.drop`` (what was removed)."""

    files: int
    bytes: int


class VerifyResult(TypedDict):
    """Result of ``cache.verify``: chunks checked, found bad, and fetched again from the source."""

    files: int
    chunks: int
    bad: int
    mended: int
    failed: list[PathError]


def encode(message: Mapping[str, Any]) -> bytes:
    """One line. ASCII, so that no file name, whatever its bytes, can break the line."""
    return json.dumps(message, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """The object in one line. Raises ValueError if it is anything else."""
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("expected a JSON object")
    return message
