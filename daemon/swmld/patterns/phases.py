"""What a job is doing: training, loading, saving, preparing. Pure.

Names alone never decide: they add to what the reads show.
"""

from __future__ import annotations

from swmld.patterns.dataset import Dataset
from swmld.patterns.job import Job
from swmld.patterns.output import SAVED, Recent
from swmld.patterns.roles import LARGE, is_held_out, role
from swmld.patterns.views import UNKNOWN, Finding, several
from swmld.units import format_size

RECENT = 2.0
"""Seconds: what was read within them counts as being read now."""

SAVING = 3.0
"""Seconds after the last write of a checkpoint, rows coming once a second."""

MANY = 32
"""Files written within ``SAVING`` that are no checkpoint of a job which does not train, if they are small."""

SERVING = 30.0
"""Seconds after its start from which reads of a model are no longer its loading."""

ENOUGH = 32
"""Files of an epoch from which its order or its workers say something: two small batches."""

_TOOLS = """
cp cat dd rsync tar bsdtar cpio grep rg egrep fgrep find cksum sum md5sum sha1sum sha224sum sha256sum
sha384sum sha512sum b2sum b3sum xxhsum wc gzip pigz bzip2 pbzip2 zstd xz lz4 unzip zip 7z 7za 7zz mv
scp rclone aws gsutil s5cmd azcopy du diff cmp comm file head tail tac sort shuf uniq cut tr split join
paste nl od xxd hexdump strings base64 awk gawk mawk sed tee mbuffer pv xargs parallel ls
"""
TOOLS = frozenset(_TOOLS.split())
"""Commands that know nothing of samples: what they read whole is copied, searched or packed."""

_UNRELATED = """
bonnie++ dbench elbencho filebench fio hdparm ior ioping iozone mdtest vdbench
git git-lfs git-remote-http hg svn
vi vim vim.basic vim.tiny nvim view emacs nano micro less more most bat
cc1 cc1plus ld ld.lld lld clang rustc javac as ar
sqlite3 mysqld mariadbd postgres redis-server mongod
"""
UNRELATED = frozenset(_UNRELATED.split())
"""Commands that measure, keep versions, show, compile or look rows up: in whatever order they read, it is no
data set, and what they write is no checkpoint."""


def knows_epochs(job: Job) -> bool:
    """Whether what it reads again may be an epoch; of copying, searching, keeping versions it is a pass."""
    return not job.comms or not job.comms <= TOOLS | UNRELATED


def review(job: Job, now: float) -> Finding:
    """The job's phase; remembered in ``job.phase`` and kept while nothing is read."""
    found = _phase(job, now)
    if found is not None:
        job.phase = found
    return job.phase


def _phase(job: Job, now: float) -> Finding | None:
    if job.comms and job.comms <= UNRELATED:
        who = ", ".join(sorted(job.comms))
        return Finding("unknown", 0.0, f"what {who} reads and writes are no samples and no model")
    _learn(job)
    saving = _saving(job, now)
    between = job.pauses.saves(now) if saving is not None and saving.kind == "checkpoint save" else 0
    if between and job.training is not None and (found := _training(job.training)) is not None:
        words = f"{found.evidence}; {between} short saves between its reads"
        return Finding("training", found.confidence, words)
    if saving is not None:
        return saving
    current = _current(job)
    if current is None:
        return None
    comms = _tool(job)
    if comms:
        return Finding("data preparation", 0.9, f"{comms} read{'s' * (',' not in comms)} {_times(current)}")
    what = role(current)
    if what.kind == "model":
        return _loading(job, current, what, now)
    if job.training is current:
        return _training(current)
    validating = _validation(job, current)
    if validating is not None:
        return validating
    return _single_pass(job, current)


def _learn(job: Job) -> None:
    """What stays true of a job: that it trains, and on what."""
    if _tool(job):
        return
    best: tuple[int, Dataset] | None = None
    for dataset in job.datasets:
        if trains(dataset) is not None:
            size = max(dataset.last_seen, dataset.seen, 1) * max(1, dataset.bytes // max(1, dataset.files))
            size += dataset.bytes
            if best is None or size > best[0]:
                best = size, dataset
    job.training = best[1] if best else None
    if job.training is not None and job.trained_at is None:
        job.trained_at = job.training.first_at


def trains(dataset: Dataset) -> Finding | None:
    """Why this looks like training data; ``None`` if it does not."""
    what = role(dataset)
    if what.kind == "model":
        return None
    order = dataset.review()
    if dataset.epoch > 1 and dataset.last_seen >= ENOUGH:
        return Finding("training", 0.95, f"epoch {dataset.epoch} of {several(dataset.last_seen, 'file')}")
    if dataset.epoch > 1 and what.kind == "shards":
        return Finding("training", 0.85, f"epoch {dataset.epoch} of {several(dataset.last_seen, 'shard')}")
    if order.kind in ("shuffled", "groups") and dataset.seen >= ENOUGH:
        return Finding("training", 0.85, f"{dataset.seen} files in {order.kind} order: {order.evidence}")
    kinds = dataset.kinds
    lookups = kinds.databases * 2 > kinds.large
    scattered = kinds.scattered + kinds.pieces
    if what.kind == "shards" and scattered > max(1024, 4 * kinds.in_order) and not lookups:
        return Finding("training", 0.6, f"{scattered} pages at random from {what.evidence}")
    if len(dataset.active) >= 2 and dataset.seen >= ENOUGH:
        return Finding("training", 0.7, f"{len(dataset.active)} workers read {dataset.seen} files")
    return None


def _training(dataset: Dataset) -> Finding | None:
    found = trains(dataset)
    if found is None:
        return None
    fraction = dataset.fraction
    read = f", {fraction:.0%} of it read" if fraction is not None else ""
    return Finding("training", found.confidence, f"{found.evidence}{read}")


def _current(job: Job) -> Dataset | None:
    """What is read now: of the datasets read within the last seconds of reading, the busiest of the very
    last."""
    recent = [dataset for dataset in job.datasets if dataset.last_at >= job.last_at - RECENT]
    if not recent:
        return None
    latest = max(dataset.last_at for dataset in recent)
    now = [dataset for dataset in recent if dataset.last_at >= latest - RECENT / 4]
    return max(now, key=lambda dataset: (dataset.meter.nbytes + dataset.meter.files, dataset.last_at))


def _tool(job: Job) -> str:
    """The command that reads, where all that read are tools that know nothing of samples."""
    return ", ".join(sorted(job.comms)) if job.comms and job.comms <= TOOLS else ""


def _who(dataset: Dataset) -> str:
    """The processes that read it now; if they have ended, all that did."""
    readers = len(dataset.readers) or dataset.processes
    return f"{readers} process{'es' * (readers != 1)}"


def _different(dataset: Dataset) -> int:
    """Files of it that were read, each counted once."""
    return max(dataset.seen, dataset.last_seen) or dataset.files


def _times(dataset: Dataset) -> str:
    """How many files of it were read, and how often, if not once each."""
    different = _different(dataset)
    if different >= dataset.files:
        return several(dataset.files, "file")
    return f"{several(different, 'file')}, opened {dataset.files} times"


def _saving(job: Job, now: float) -> Finding | None:
    if job.last_write_at < now - SAVING or job.last_write_at < job.last_at - RECENT:
        return None
    recent = job.output.since(job.last_write_at - SAVING)
    if job.output.nbytes and recent.nbytes < SAVED and not recent.models:
        return None  # a log
    files = sum(dataset.files for dataset in job.datasets)
    words = _written(job, recent)
    if _tool(job):
        return Finding("data preparation", 0.9, f"{_tool(job)}: {words}, {several(files, 'file')} read")
    if job.trained_at is not None:
        return Finding("checkpoint save", 0.95 if recent.models else 0.9, f"{words} after it began to train")
    if job.model_at is not None:
        return Finding("checkpoint save", 0.7, f"{words} after it read a model")
    if recent.files > MANY and recent.nbytes < LARGE * recent.files:
        return Finding("data preparation", 0.7, f"{words}, each small")
    if recent.data * 2 > recent.files:
        return Finding("data preparation", 0.7, f"{words}, with names of data sets")
    if files > 8:
        return Finding("data preparation", 0.6, f"{words} while {files} files are read, none of them twice")
    return Finding("checkpoint save", 0.8 if recent.models else 0.6, f"{words}, hardly a read")


def _written(job: Job, recent: Recent) -> str:
    """What was written just now, in words."""
    if not job.output.nbytes:
        return f"{several(job.writes, 'write')} to the mount"
    what = recent.name if recent.files == 1 and recent.name else several(recent.files, "file")
    return f"{format_size(recent.nbytes)} written to {what} within {SAVING:.0f} s"


def _loading(job: Job, dataset: Dataset, what: Finding, now: float) -> Finding:
    kinds = dataset.kinds
    started = job.model_at is None
    job.model_at = job.last_at
    age = job.last_at - job.first_at
    if job.trained_at is not None and dataset.first_at > job.trained_at:
        return Finding("checkpoint load", 0.85, f"{what.evidence}, after it began to train")
    if kinds.checkpoints * 2 > kinds.large:
        return Finding("checkpoint load", 0.8, f"{what.evidence}, and of checkpoints")
    if not started and age > SERVING and dataset.last_at - dataset.first_at > SERVING:
        return Finding("inference", 0.6, f"{what.evidence}, still read {age:.0f} s after its start")
    return Finding(
        "model load",
        0.85,
        f"{what.evidence}, {max(0.0, dataset.first_at - job.first_at):.0f} s after its start",
    )


def _validation(job: Job, dataset: Dataset) -> Finding | None:
    """A smaller set than the one it trains on, or one that was read once after the larger one's end."""
    named = is_held_out(dataset.path)
    words = f"{several(_different(dataset), 'file')} of {dataset.path or 'the root'}"
    if named:
        words += ", by its name held out"
    if job.training is not None:
        smaller = max(dataset.seen, dataset.last_seen) < max(job.training.seen, job.training.last_seen)
        if smaller or named:
            value = 0.7 + 0.1 * smaller + 0.15 * named
            return Finding("validation", value, f"{words}, beside the training set {job.training.path!r}")
        return None
    for other in job.datasets:
        if other is dataset or role(other).kind == "model" or other.first_at > dataset.first_at:
            continue
        complete = (other.fraction or 0.0) >= 0.9 and other.last_at <= dataset.first_at + RECENT
        if complete and other.seen > dataset.seen and dataset.review().kind != "shuffled":
            return Finding("validation", 0.6 + 0.2 * named, f"{words}, after all of {other.path!r}")
    if named and dataset.review().kind != "shuffled":
        return Finding("validation", 0.5, words)
    return None


def _single_pass(job: Job, dataset: Dataset) -> Finding | None:
    if job.model_at is not None and job.trained_at is None:
        words = f"{several(dataset.files, 'file')} after a model was read"
        return Finding("inference", 0.6, f"{words}, {dataset.review().kind} order")
    order = dataset.review()
    if dataset.rounds > max(1, dataset.processes):
        return Finding("training", 0.55, f"1 large file read {dataset.rounds} times by {_who(dataset)}")
    if order.kind in ("sorted", "listed", "reverse") and dataset.epoch == 1:
        who = _who(dataset)
        verb = "reads" if who.startswith("1 ") else "read"
        words = f"{who} {verb} {several(dataset.files, 'file')} once"
        return Finding("data preparation", 0.6, f"{words}, in {order.kind} order")
    if job.phase.kind != "unknown":
        return None
    if dataset.bytes < LARGE:
        return Finding("unknown", 0.0, UNKNOWN.evidence)
    how = f"in {order.kind} order" if order.kind != "unknown" else "in parts"
    words = f"{format_size(dataset.bytes)} of {several(_different(dataset), 'file')} read {how}"
    return Finding("unknown", 0.0, f"{words}: this alone tells no phase")
