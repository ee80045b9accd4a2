"""What the daemon can be told: every key, its type, its default and its one line of help.

The help text here is what ``swmld --help`` and the man page print. Sizes are bytes and times are seconds.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from swmld.config.floor import AUTO_FLOOR, FreeFloor
from swmld.config.values import (
    Address,
    Directory,
    Floor,
    Glob,
    MountPoint,
    Name,
    Origin,
    Paths,
)
from swmld.types import Check
from swmld.values import Flag, choice, count, duration, size

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
CACHE_ROOT = Path("/var/cache/swmld")
RUN_DIR = Path("/run/swmld")
STATE_DIR = Path("/var/lib/swmld")
# A socket path holds 107 bytes (sun_path in unix(7)); "/run/swmld/" and ".sock" take 16 of them.
MAX_NAME = 88

SECTIONS = ("templates", "frameworks", "environments", "hardware_profiles")
"""Keys of a file that are of its rules; besides ``rules``, where it is a list of rules and not of their
paths, and ``settings``, which may hold keys of the daemon too."""

Probe = Literal["auto", "ebpf", "btf", "tracepoint", "fentry", "kprobe", "fuse", "off"]
CheckMode = Annotated[Check, choice("strict", "relaxed", "immutable")]
Interval = Annotated[float, duration(0, 86400)]
_FROZEN = ConfigDict(frozen=True, extra="forbid", validate_default=False, arbitrary_types_allowed=True)


def mount_name(mount: Path) -> str:
    """The mount as one file name, ``mnt-ml`` for ``/mnt/ml``: names the control socket and the cache.

    ``-`` and ``%`` in the path become ``%2D`` and ``%25``, so that two mounts never share a name; a path too
    long for a socket's name keeps its start and ends in a hash of the whole.
    """
    parts = os.fspath(mount).strip("/").replace("%", "%25").replace("-", "%2D").split("/")
    name = "-".join(parts) or "root"
    encoded = os.fsencode(name)
    if len(encoded) <= MAX_NAME:
        return name
    digest = hashlib.sha256(os.fsencode(mount)).hexdigest()[:16]
    return os.fsdecode(encoded[: MAX_NAME - 18]) + "--" + digest


class PathRule(BaseModel):
    """One entry of ``paths``: how the files that match ``glob`` are checked against the source."""

    model_config = _FROZEN

    glob: Glob = Field(
        description="Pattern for paths from the mount's root: 'train/*', '*.safetensors'; * matches / too."
    )
    check: CheckMode = Field(description="strict, relaxed or immutable, as the key of that name.")
    interval: Interval | None = Field(
        default=None, description="Seconds between two checks when relaxed; else check_interval."
    )


def _default_cache_dir(valid: dict[str, Any]) -> Path:
    return CACHE_ROOT / mount_name(valid["mount"])


def _default_prefetch_parallel(valid: dict[str, Any]) -> int:
    return max(1, int(valid["fetch_parallel"]) * 3 // 4)


class Settings(BaseModel):
    """Everything one daemon is told; made by ``swmld.config.load``, never changed afterwards."""

    model_config = _FROZEN

    mount: MountPoint = Field(description="Directory where the files are served.")
    source: Origin | None = Field(
        default=None,
        description="Directory or URL (seaweedfs://HOST:PORT/PATH, s3://BUCKET/PREFIX, https://...) to "
        "serve; default: what the mount point already holds.",
    )
    cache_dir: Directory = Field(
        default_factory=_default_cache_dir,
        description="Directory of the cache, on a local disk; default: /var/cache/swmld/<mount, / as ->.",
    )
    cache_size: Annotated[int, size(64 * KIB)] = Field(
        default=100 * GIB, description="Most bytes the cache holds; the least recently used files go first."
    )
    free_floor: Floor = Field(
        default=AUTO_FLOOR,
        description="Disk space that is left free: a size, a share such as 5%, or auto (5%, at most 10GiB).",
    )
    chunk_size: Annotated[int, size(64 * KIB, 64 * MIB, power_of_two=True)] = Field(
        default=4 * MIB, description="Unit of fetching and caching: a power of two, 64KiB to 64MiB."
    )
    read_only: Flag = Field(default=False, description="Refuse every change through the mount with EROFS.")
    passthrough: Flag = Field(
        default=True, description="Let the kernel read completely cached files without the daemon."
    )
    native: Flag = Field(
        default=True, description="Answer hot operations in C; without it every request is served in Python."
    )
    fuse_uring: Flag = Field(
        default=True,
        description="Take the kernel's requests over io_uring where it does that (Linux 6.14): small files "
        "are opened up to twice as fast. Off: they are read from the device.",
    )
    check: CheckMode = Field(
        default=Check.RELAXED,
        description="How often an open looks for a changed source: strict (each open), relaxed (every "
        "check_interval), immutable (never).",
    )
    check_interval: Interval = Field(
        default=1.0, description="Time between two checks of a file when relaxed."
    )
    metadata_timeout: Annotated[float, duration(0, 86400)] = Field(
        default=60.0,
        description="How long the kernel keeps names and attributes; changes through the mount show at once.",
    )
    paths: tuple[PathRule, ...] = Field(
        default=(), description="Checks for some paths, a list of {glob, check, interval}; first match wins."
    )
    engine: Annotated[Literal["auto", "uring", "threads"], choice("auto", "uring", "threads")] = Field(
        default="auto", description="How bytes are moved: io_uring, or threads; auto tries io_uring first."
    )
    fetch_parallel: Annotated[int, count(1, 1024)] = Field(
        default=32, description="Most requests that are under way at the source at once."
    )
    prefetch_parallel: Annotated[int, count(1, 1024)] = Field(
        default_factory=_default_prefetch_parallel,
        description="How many of those may be prefetches; default: three quarters (24).",
    )
    sub_read: Annotated[int, size(4 * KIB, 64 * MIB, power_of_two=True)] = Field(
        default=MIB,
        description="Size of one request to the source; larger chunks are fetched in parallel parts "
        "(SeaweedFS: each stored chunk is one request).",
    )
    fetch_timeout: Annotated[float, duration(0.1, 86400)] = Field(
        default=60.0, description="Time after which a read of a source that does not answer fails with EIO."
    )
    source_wait: Annotated[float, duration(0, 3600)] = Field(
        default=10.0,
        description="How long a remote source that fails is asked again before readers get EIO; 0: once.",
    )
    source_grace: Annotated[float, duration(0, 30 * 86400)] = Field(
        default=86400.0,
        description="How long known names and cached files of a remote source are shown while it is away.",
    )
    write: Annotated[Literal["through", "back"], choice("through", "back")] = Field(
        default="through",
        description="When a remote source has what was written: at close and fsync, or later (back).",
    )
    staging_size: Annotated[int, size(1 * MIB)] = Field(
        default=64 * GIB, description="Most bytes that wait to be uploaded, with write back."
    )
    hedge: Flag = Field(
        default=False,
        description="Ask a remote source a second time for a read that takes longer than most: costs a copy.",
    )
    readahead_max: Annotated[int, size(0)] = Field(
        default=128 * MIB, description="Most bytes fetched ahead of one sequential reader; 0 switches it off."
    )
    neighbours: Annotated[Literal["auto", "off"], choice("auto", "off")] = Field(
        default="auto", description="Fetch the next files of a directory whose files are read in order."
    )
    neighbours_max_files: Annotated[int, count(1, 1_000_000)] = Field(
        default=512, description="Most files fetched ahead in one directory."
    )
    follow: Flag = Field(
        default=True,
        description="Bring small cached files into memory ahead of a reader whose order is known.",
    )
    rules: Paths = Field(
        default=(),
        description="File of rules, or directory of such files, read again when it changes. Repeatable.",
    )
    environment: Name | None = Field(
        default=None, description="Which environment of the rules is in use; default: none."
    )
    plugins: Paths = Field(
        default=(), description="Directory of plugins, besides /etc/swmld/plugins. Repeatable."
    )
    use_plugins: Flag = Field(
        default=True,
        description="Use plugins: they know what frameworks read next, and which framework a process runs.",
    )
    probe: Annotated[Probe, choice(*get_args(Probe))] = Field(
        default="auto",
        description="How reads are seen: ebpf (page-cache hits included; or one way of it, btf, tracepoint, "
        "fentry, kprobe), fuse (what reaches the daemon), off; auto: ebpf if this host can, else fuse.",
    )
    probe_rate: Annotated[int, count(0, 1_000_000_000)] = Field(
        default=60_000,
        description="Reads a second of one CPU, of any files on the machine, up to which the eBPF probes "
        "look at each of them; beyond it, for a part of the time: counts are estimated then. 0: always at "
        "each.",
    )
    state_dir: Directory = Field(
        default=STATE_DIR,
        description="Directory of what outlives the daemon: the probes as compiled, and their headers.",
    )
    metrics_address: Address = Field(
        default="127.0.0.1:9617", description="Where Prometheus metrics are served, as HOST:PORT, or off."
    )
    run_dir: Directory = Field(default=RUN_DIR, description="Directory of the control sockets.")
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], choice("debug", "info", "warning", "error")
    ] = Field(default="info", description="Least severe messages that are written to standard error.")
    log_format: Annotated[Literal["text", "json"], choice("text", "json")] = Field(
        default="text", description="text for people; json for collectors, one object a line."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        """Pairs of values that each are fine and together are not. The key at fault leads the message."""
        if self.cache_size < self.chunk_size:
            raise ValueError("cache_size: expected at least one chunk (chunk_size)")
        if self.prefetch_parallel > self.fetch_parallel:
            raise ValueError(f"prefetch_parallel: expected at most fetch_parallel ({self.fetch_parallel})")
        if self.environment is not None and not self.rules:
            raise ValueError("environment: needs rules that define it: --rules PATH, or --config with rules")
        return self

    @property
    def name(self) -> str:
        """The mount as one file name."""
        return mount_name(self.mount)

    @property
    def socket_path(self) -> Path:
        """Where the daemon of this mount listens for control requests."""
        return self.run_dir / f"{self.name}.sock"


__all__ = ["FreeFloor", "PathRule", "Settings", "mount_name"]
