"""The properties that conditions can ask for: the one list of their names, kinds and where they come from.

``source`` says who knows the value. ``stream.*``, ``dataset.*`` and ``job.*`` are fields of the views of
``swmld.patterns.views`` (of the stream that is decided about, its dataset and its job), ``process.*`` of
``swmld.patterns.feed.Process``; a test holds the catalogue to them, words included. Names are unique among
all condition types, so that an expression can use them bare.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from swmld.rules.kinds import Kind, nearest


class Context(enum.Enum):
    """Condition types. ``file_pattern`` is ``file_context`` with ``glob`` as its default operator."""

    FILE = "file_context"
    ACCESS = "access_pattern"
    WORKLOAD = "workload_context"
    SYSTEM = "system_context"


FILE_PATTERN = "file_pattern"
TYPES = (*(context.value for context in Context), FILE_PATTERN)
XATTR = "xattr."
"""Prefix of the one family of properties whose names are the user's: ``xattr.user.stage``."""


@dataclass(frozen=True, slots=True)
class Property:
    """``words``: the only values there are; none: any. ``aliases``: other names for it in rules."""

    name: str
    context: Context
    kind: Kind
    source: str
    description: str
    words: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


FILE_TYPES = ("model", "checkpoint", "dataset", "tensor", "config", "other")
PATTERNS = (
    "sequential",
    "reverse",
    "strided",
    "random",
    "whole-file",
    "header-then-tail",
    "repeated",
    "unknown",
)
SHAPES = ("new", "sequential", "reverse", "strided", "random")
ORDERS = ("sorted", "listed", "reverse", "fixed", "shuffled", "groups", "unknown")
ROLES = ("samples", "shards", "model")
PHASES = ("training", "validation", "checkpoint load", "checkpoint save", "model load", "inference",
          "data preparation", "unknown")  # fmt: skip


def _rows(context: Context, rows: str, words: dict[str, tuple[str, ...]]) -> list[Property]:
    """``name kind source = description`` a line; further names after a comma in the first column."""
    found = []
    for row in rows.strip().splitlines():
        head, _, description = row.partition(" = ")
        names, kind, source = head.split()
        name, *aliases = names.split(",")
        found.append(
            Property(
                name, context, Kind[kind], source, description.strip(), words.get(name, ()), tuple(aliases)
            )
        )
    return found


_FILE = """
path                        STRING   mount    = Path of the file below the mount, without a leading slash.
name                        STRING   mount    = Last part of the path.
directory                   STRING   mount    = Path without the name; empty for files of the mount's root.
extension                   STRING   mount    = End of the name from its last dot, lower case, such as .pth.
type,file_type              STRING   plugins  = What the file holds, by name and content.
format,model_format         STRING   plugins  = Format by content, such as safetensors, zip, tar or parquet.
file_framework              STRING   plugins  = Framework whose plugin recognises the file, such as pytorch.
size,file_size              SIZE     mount    = Size of the file.
age                         DURATION mount    = Time since the file was last modified.
depth                       NUMBER   mount    = Directories between the mount's root and the file.
xattrs                      SET      mount    = Names of the file's extended attributes.
cached,cached_fraction      PERCENT  cache    = Share of the file's bytes that the cache holds.
access_frequency            NUMBER   mount    = Opens of the file within the last hour.
last_access                 DURATION mount    = Time since the file was last opened or read.
"""
_ACCESS = """
pattern,pattern_type        STRING   stream.pattern.kind       = How the process reads the file.
pattern_confidence          PERCENT  stream.pattern.confidence = How sure the pattern is.
shape                       STRING   stream.shape         = How the file is read just now.
stride                      SIZE     stream.stride        = Bytes from start to start of two strided reads.
position                    SIZE     stream.position      = End of the latest read.
passes                      NUMBER   stream.passes        = Times the file was begun anew.
reads                       NUMBER   stream.reads         = Reads of the file by the process.
bytes_read                  SIZE     stream.bytes         = Bytes read of the file by the process.
read_rate                   RATE     stream.rate          = Rate of these reads over about 5 seconds.
page_hits                   NUMBER   stream.hits          = Reads that the page cache answered.
cold_reads                  NUMBER   stream.cold          = Reads that waited for their first page.
partial_reads               NUMBER   stream.partial       = Reads that waited for a later page.
page_faults                 NUMBER   stream.faults        = Page faults on the mapped file.
direct_reads                NUMBER   stream.direct        = Reads with O_DIRECT.
read_wait                   DURATION stream.wait          = Time the process waited for reads of the file.
disk_bytes                  SIZE     stream.disk_bytes    = Bytes that came from the cache's disk.
source_bytes                SIZE     stream.source_bytes  = Bytes that came from the source.
order                       STRING   dataset.order.kind       = Order in which the dataset's files are read.
order_confidence            PERCENT  dataset.order.confidence = How sure the order is.
role,dataset_role           STRING   dataset.role.kind    = What the dataset's files are.
dataset                     STRING   dataset.path         = Path of the dataset the file belongs to.
dataset_folders             NUMBER   dataset.folders      = Directories merged into the dataset.
dataset_files               NUMBER   dataset.files_total  = Files of the dataset.
dataset_files_seen          NUMBER   dataset.files_seen   = Files of it that were read in this epoch.
dataset_files_per_second    NUMBER   dataset.files_per_second = Files of it opened a second.
dataset_bytes               SIZE     dataset.bytes        = Bytes read of the dataset by the job.
dataset_rate                RATE     dataset.rate         = Rate of these reads over about 5 seconds.
sample_size                 SIZE     dataset.sample_size  = Mean size of a sample.
"""
_WORKLOAD = """
framework                   STRING   plugins              = Framework by the libraries the process has mapped.
libraries                   SET      plugins              = Names of these libraries and modules.
phase                       STRING   job.phase.kind       = What the job is doing.
phase_confidence            PERCENT  job.phase.confidence = How sure the phase is.
job                         NUMBER   job.job              = Process id of the root of the job's process tree.
job_comm                    STRING   job.comm             = Name of the job's root process.
job_command                 STRING   job.command          = Its arguments, at most 200 characters.
container                   STRING   job.container        = Container of the job; empty outside of one.
comm                        STRING   process.comm         = Name of the reading process.
command                     STRING   process.command      = Its arguments, at most 200 characters.
cgroup                      STRING   process.cgroup       = Control group of the reading process.
user                        STRING   mount                = Name of the reading user, or their number.
processes                   NUMBER   job.pids             = Reading processes of the job.
workers                     NUMBER   dataset.workers      = Loader processes that read the dataset.
batch_size                  NUMBER   dataset.batch        = Samples a batch.
epoch                       NUMBER   dataset.epoch        = Epoch of the dataset, from 1; tools have none.
epoch_fraction              PERCENT  dataset.fraction     = How much of the epoch is read.
job_reads                   NUMBER   job.reads            = Reads of the job.
job_writes                  NUMBER   job.writes           = Writes of the job.
job_bytes                   SIZE     job.bytes            = Bytes the job read.
job_rate                    RATE     job.rate             = Rate of these reads over about 5 seconds.
wait_share                  PERCENT  job.wait_share       = Share of its time that a reading process waits.
wait_p50                    DURATION job.wait_p50         = Half of the job's waits are no longer.
wait_p99                    DURATION job.wait_p99         = 99 % of the job's waits are no longer.
"""
_SYSTEM = """
environment                 STRING   config   = Environment that was chosen, such as production.
free_memory                 SIZE     host     = Memory available to programs (MemAvailable).
memory_pressure,page_cache_pressure PERCENT host = Time that tasks waited for memory (PSI some, 10 s).
cpu                         PERCENT  host     = CPU time in use.
cpu_count                   NUMBER   host     = CPUs this process may use.
cache_fill                  PERCENT  cache    = Share of the cache's size limit that is taken.
disk_fill                   PERCENT  cache    = Share of the cache's disk that is taken.
disk_free                   SIZE     cache    = Free bytes of the cache's disk.
source_bandwidth,bandwidth  RATE     fetch    = Rate at which the source gives bytes.
source_latency,latency      DURATION fetch    = Time the source takes to answer a request, at the median.
gpu_count                   NUMBER   gpu      = GPUs of the host.
gpu_memory                  PERCENT  gpu      = GPU memory in use, of the fullest GPU.
gpu_memory_free             SIZE     gpu      = Free GPU memory, of the fullest GPU.
gpu_memory_total            SIZE     gpu      = GPU memory of one GPU, of the smallest.
gpu_utilization,gpu_utilisation PERCENT gpu   = Utilisation of the busiest GPU.
gpu_temperature             NUMBER   gpu      = Temperature of the hottest GPU in degrees Celsius.
time_of_day                 CLOCK    host     = Local time.
"""

PROPERTIES: tuple[Property, ...] = (
    *_rows(Context.FILE, _FILE, {"type": FILE_TYPES}),
    *_rows(Context.ACCESS, _ACCESS, {"pattern": PATTERNS, "shape": SHAPES, "order": ORDERS, "role": ROLES}),
    *_rows(Context.WORKLOAD, _WORKLOAD, {"phase": PHASES}),
    *_rows(Context.SYSTEM, _SYSTEM, {}),
)
BY_NAME: dict[str, Property] = {name: p for p in PROPERTIES for name in (p.name, *p.aliases)}


def context_of(type_: str) -> Context:
    """The context of a condition type. Raises ValueError with the nearest one."""
    if type_ == FILE_PATTERN:
        return Context.FILE
    try:
        return Context(type_)
    except ValueError:
        raise ValueError(f"unknown condition type {type_!r}{nearest(type_, TYPES)}") from None


def find(name: str, context: Context | None = None) -> Property:
    """The property of that name, or of ``TYPE.NAME``. Raises ValueError with the nearest one."""
    if name.startswith(XATTR) and len(name) > len(XATTR):
        found = Property(name, Context.FILE, Kind.STRING, "mount", "Extended attribute of the file.")
    else:
        if context is None and name.split(".")[0] in TYPES:
            type_, _, name = name.partition(".")
            context = context_of(type_)
        known = BY_NAME.get(name)
        if known is None:
            names = [key for key, p in BY_NAME.items() if context in (None, p.context)]
            where = f" of {context.value}" if context is not None else ""
            raise ValueError(f"unknown property {name!r}{where}{nearest(name, names)}")
        found = known
    if context is not None and found.context is not context:
        raise ValueError(f"{name!r} is a property of {found.context.value}, not of {context.value}")
    return found
