"""What the engine found, as flat values, and the same as plain JSON. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple


class Finding(NamedTuple):
    """``kind`` is one of the words that the field documents, ``confidence`` 0 to 1, ``evidence`` a sentence
    for people."""

    kind: str
    confidence: float
    evidence: str


def several(count: int, what: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{count} {what}{'s' * (count != 1)}"


UNKNOWN = Finding("unknown", 0.0, "too little was read to tell")


@dataclass(frozen=True, slots=True)
class StreamView:
    """One file as read by one process. Counts are since the process began to read it; sizes and ``position``
    are bytes, ``wait`` seconds, times CLOCK_MONOTONIC seconds.

    ``pattern.kind``: sequential, reverse, strided, random, whole-file, header-then-tail, repeated, unknown.
    ``shape``: how it is read just now: new, sequential, reverse, strided, random. ``stride``: bytes from
    start to start of two reads, 0 unless strided. ``hits``: reads answered by the page cache; ``cold``: reads
    that waited for their first page; ``partial``: for a later one only. ``disk_bytes``, ``source_bytes``:
    what FUSE gave from the cache's disk and from the source. ``rate``: bytes a second over about the last 5
    s. ``estimated``: its reads came so often that they were looked at for a part of the time; ``reads``,
    ``bytes``, ``hits``, ``cold``, ``partial`` and ``rate`` are scaled up from that, ``passes`` were seen.
    """

    pid: int
    file: int
    path: str
    pattern: Finding
    shape: str
    stride: int
    size: int
    reads: int
    estimated: bool
    bytes: int
    hits: int
    cold: int
    partial: int
    faults: int
    direct: int
    wait: float
    disk_bytes: int
    source_bytes: int
    rate: float
    passes: int
    position: int
    first_at: float
    last_at: float


@dataclass(frozen=True, slots=True)
class DatasetView:
    """A directory tree as read by one job.

    ``order.kind``: sorted (by name, as bytes or with digits as numbers: the evidence says which), listed (as
    the kernel lists), reverse, fixed (the same other order as in the last epoch), shuffled, groups (batches
    of neighbours, the batches shuffled), unknown. ``role``: samples, shards, model. ``passes`` over its files
    count from 1; ``epoch`` is the same, ``None`` where the job knows no epochs (git, grep);
    ``epoch_at``: when it began; ``fraction``: of the epoch, 0 to 1, ``None`` while nobody knows how much
    there is. ``files_total``: ``None`` likewise. ``sample_size``: bytes a sample, 0 if not known. ``batch``:
    samples, ``None`` if it cannot be told. ``workers``: reading processes below the job's root, 0 if the root
    itself reads. ``bytes`` since the beginning, ``rate`` bytes a second over about the last 5 s. ``folders``:
    directories merged into it.
    """

    job: int
    path: str
    order: Finding
    role: Finding
    epoch: int | None
    passes: int
    epoch_at: float
    fraction: float | None
    files_seen: int
    files_total: int | None
    files_per_second: float
    sample_size: int
    batch: int | None
    batch_found: Finding
    workers: int
    workers_found: Finding
    folders: int
    bytes: int
    rate: float
    last_at: float


@dataclass(frozen=True, slots=True)
class JobView:
    """A process tree, named by the pid of its root.

    ``phase.kind``: training, validation, checkpoint load, checkpoint save, model load, inference, data
    preparation, unknown. ``pids``: its processes that read and live. ``hits``, ``cold``, ``partial``: reads
    by what the page cache had; ``disk_*``, ``source_*``: reads that FUSE answered. ``wait``: seconds its
    processes waited for pages and names; ``wait_share``: of the wall time of a reading process, over about
    the last 5 s, 0 to 1. ``waits``: single waits; ``wait_p50``, ``wait_p99``: upper bounds in seconds of
    the histogram's buckets that hold them, 0.0 without waits. ``estimated``: some of its streams' counts are.
    ``writes``: FUSE's requests to write;
    ``written_bytes``, ``write_bursts``: by the probes, which see what is passed through as well, in whole
    pages; there a page that is written twice before it goes to the disk counts once.
    """

    job: int
    comm: str
    command: str
    container: str
    pids: tuple[int, ...]
    ended: bool
    phase: Finding
    workers: int
    batch: int | None
    reads: int
    estimated: bool
    bytes: int
    rate: float
    hits: int
    cold: int
    partial: int
    disk_reads: int
    disk_bytes: int
    source_reads: int
    source_bytes: int
    writes: int
    written_bytes: int
    write_bursts: int
    wait: float
    wait_share: float
    waits: int
    wait_p50: float
    wait_p99: float
    histogram: tuple[int, ...]
    first_at: float
    last_at: float
    datasets: tuple[DatasetView, ...] = field(default=())
    streams: tuple[StreamView, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All jobs, the most recently active first. ``at``: CLOCK_MONOTONIC seconds."""

    jobs: tuple[JobView, ...]
    at: float


def quantile(histogram: tuple[int, ...], share: float) -> float:
    """Upper bound in seconds of the bucket that holds this share of the waits; 0.0 of none."""
    total = sum(histogram)
    wanted = math.ceil(share * total)
    below = 0
    for bucket, count in enumerate(histogram):
        below += count
        if total and below >= wanted:
            return float(2 ** (bucket + 1)) / 1e6
    return 0.0


def as_json(value: Any) -> Any:
    """A view as dicts, lists, strings and numbers, ready for ``json.dumps``.

    Findings are objects of kind, confidence and evidence. Paths that are not UTF-8 keep their undecodable
    bytes as surrogates, as ``os.fsdecode`` gives them.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Finding):
        return {"kind": value.kind, "confidence": round(value.confidence, 3), "evidence": value.evidence}
    if isinstance(value, tuple):
        return [as_json(item) for item in value]
    names = _FIELDS.get(type(value))
    if names is None:
        names = _FIELDS[type(value)] = tuple(entry.name for entry in fields(value))
    return {name: as_json(getattr(value, name)) for name in names}


_PLAIN = (int, str, float, bool, type(None))
_FIELDS: dict[type, tuple[str, ...]] = {}
