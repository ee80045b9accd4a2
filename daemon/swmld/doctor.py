"""What this host offers: each feature is tried, never guessed from a version.

A probe changes nothing that lasts and needs no daemon. Each tells whether the feature works, what swmld uses
instead where it does not, and how to get it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swmld.errors import HostError
from swmld.observe import headers, loader
from swmld.observe import tracefs as tracing
from swmld.observe.btf import VMLINUX, Btf
from swmld.units import format_size

# Importing bcc loads LLVM, some 100 MB: seconds on a cold disk, and nothing that the command itself should
# hold.
IMPORT_TIMEOUT = 30.0
# The same, and each way of probing compiled and loaded: about a second, longer on a busy host.
PROBE_TIMEOUT = 120.0
FUSE_URING = Path("/sys/module/fuse/parameters/enable_uring")
# Every open file costs a descriptor while it is not passed through; below this, a few hundred readers use
# them up.
ENOUGH_DESCRIPTORS = 4096


@dataclass(frozen=True, slots=True)
class Finding:
    """One feature: ``detail`` is what was seen, ``instead`` and ``how`` matter where ``works`` is False."""

    name: str
    works: bool
    detail: str
    instead: str = ""
    how: str = ""
    required: bool = False


def examine(cache_dir: Path) -> list[Finding]:
    """Try everything, in the order of how much depends on it. ``cache_dir`` need not exist yet."""
    place = _existing(cache_dir)
    return [
        fuse(),
        native(),
        passthrough(place),
        fuse_uring(),
        io_uring(),
        ebpf(),
        bcc(),
        kernel_headers(),
        btf(),
        tracefs(),
        probes(),
        nvml(),
        descriptors(),
        disk(place),
    ]


def fuse(device: str = "/dev/fuse") -> Finding:
    """The device can be opened."""
    how = "modprobe fuse; in a container: run it with --device /dev/fuse --cap-add SYS_ADMIN"
    instead = "nothing: swmld cannot mount"
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Finding("FUSE", False, f"{device}: {error.strerror}", instead, how, required=True)
    return Finding("FUSE", True, f"{device} opens", instead, how, required=True)


def native() -> Finding:
    """The C part is built and loads."""
    instead = "nothing: the mount needs it"
    how = "make setup"
    try:
        from swmld import _native
    except ImportError as error:
        return Finding("native library", False, str(error), instead, how, required=True)
    return Finding("native library", True, str(_native.__file__), instead, how, required=True)


def passthrough(place: Path) -> Finding:
    """The kernel lets a FUSE file be read from a file in ``place`` without the daemon."""
    instead = "C answers reads from the cache file; about a fifth of the speed with a warm page cache"
    how = "Linux 6.9 or later, and a cache directory on a plain disk file system (no overlay)"
    try:
        from swmld._native import lib
    except ImportError:
        return Finding("passthrough", False, "the native library is not built", instead, how)
    probe: Callable[[int], int] | None = getattr(lib, "sw_probe_passthrough", None)
    if probe is None:
        return Finding("passthrough", False, "the native library is too old", instead, "make setup")
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _tried("passthrough", probe(directory), f"works in {place}", instead, how)
    finally:
        os.close(directory)


def fuse_uring(parameter: Path = FUSE_URING) -> Finding:
    """The kernel can send FUSE requests over io_uring. Whether a mount got it is told by ``swmld status``."""
    instead = "requests are read from the device: small files open at about half the speed"
    how = "Linux 6.14 or later, built with CONFIG_FUSE_IO_URING"
    if not parameter.exists():
        return Finding("FUSE over io_uring", False, f"no {parameter}", instead, how)
    return Finding("FUSE over io_uring", True, "the kernel has it", instead, how)


def io_uring() -> Finding:
    """A ring of two entries can be made."""
    instead = "threads read the source and write the cache"
    how = "Linux 5.6 or later; sysctl kernel.io_uring_disabled=0; a container's seccomp profile must allow it"
    try:
        import liburing

        ring = liburing.Ring()
        liburing.io_uring_queue_init(2, ring)
        liburing.io_uring_queue_exit(ring)
    except (ImportError, OSError) as error:
        return Finding("io_uring", False, _reason(error), instead, how)
    return Finding("io_uring", True, "a ring works", instead, how)


class _LoadAttributes(ctypes.Structure):
    """The start of ``union bpf_attr`` for BPF_PROG_LOAD (linux/bpf.h); the kernel takes the rest as zero."""

    _fields_ = (
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
    )


# bpf(2): the system call's number by machine, from the kernel's tables.
_BPF_CALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_BPF_PROG_LOAD = 5
_BPF_PROG_TYPE_TRACEPOINT = 5

WITHOUT_PROBES = (
    "the daemon sees only the reads that reach it, not those from the page cache or passed through"
)


def ebpf() -> Finding:
    """The kernel takes a tracepoint program of two instructions: return 0."""
    instead = WITHOUT_PROBES
    how = "root or CAP_BPF and CAP_PERFMON; a kernel with CONFIG_BPF_SYSCALL; no lockdown"
    number = _BPF_CALL.get(os.uname().machine)
    if number is None:
        return Finding("eBPF", False, f"not known on {os.uname().machine}", instead, how)
    # BPF_MOV64_IMM r0, 0 and BPF_EXIT_INSN, in the encoding of linux/bpf.h.
    code = ctypes.create_string_buffer(bytes([0xB7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0]), 16)
    license_text = ctypes.create_string_buffer(b"GPL")
    attributes = _LoadAttributes(
        prog_type=_BPF_PROG_TYPE_TRACEPOINT,
        insn_cnt=2,
        insns=ctypes.addressof(code),
        license=ctypes.addressof(license_text),
    )
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(number, _BPF_PROG_LOAD, ctypes.byref(attributes), ctypes.sizeof(attributes))
    if fd < 0:
        return Finding("eBPF", False, os.strerror(ctypes.get_errno()), instead, how)
    os.close(fd)
    return Finding("eBPF", True, "a tracepoint program loads", instead, how)


def bcc() -> Finding:
    """bcc, the compiler of BPF programs, can be imported. Tried in a process of its own."""
    instead = "as without eBPF"
    how = "apt-get install python3-bpfcc (PyPI's bcc is another program); a venv with --system-site-packages"
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import bcc; bcc.BPF, bcc.libbcc; print(bcc.__version__)"],
            capture_output=True,
            text=True,
            timeout=IMPORT_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("bcc", False, _reason(error), instead, how)
    if done.returncode:
        return Finding(
            "bcc", False, (done.stderr.strip().splitlines() or ["it ends with an error"])[-1], instead, how
        )
    return Finding("bcc", True, f"version {done.stdout.strip()}", instead, how)


def kernel_headers(
    modules: Path = headers.MODULES, sources: Path = headers.SOURCES, archive: Path = headers.ARCHIVE
) -> Finding:
    """Headers to compile the probes with: the running kernel's own, else any."""
    how = f"apt-get install {headers.package()}, or what the distribution calls it"
    found = next(headers.sources(os.uname().release, sources, modules, archive), None)
    if found is None:
        detail = f"none in {modules} or {sources}"
        return Finding("kernel headers", False, detail, "as without eBPF", how)
    return Finding("kernel headers", True, f"{found.why}: {found.roots[0]}", "", how)


def btf(path: Path = VMLINUX) -> Finding:
    """The kernel tells the layout of its structs, and libbpf reads it."""
    instead = "probes at formatted tracepoints, which cost more and do not know file sizes"
    how = "a kernel with CONFIG_DEBUG_INFO_BTF; apt-get install libbpf1"
    try:
        Btf.load(path)
    except HostError as error:
        return Finding("BTF", False, str(error), instead, how)
    return Finding("BTF", True, str(path), instead, how)


def tracefs(places: tuple[Path, ...] = tracing.PLACES, filesystems: Path = tracing.FILESYSTEMS) -> Finding:
    """Tracepoints can be found by name; where tracefs is not mounted the probes mount it for themselves."""
    how = "a kernel with CONFIG_TRACING"
    place = tracing.mounted(places)
    if place is not None:
        return Finding("tracefs", True, str(place), "", how)
    if tracing.available(filesystems):
        return Finding("tracefs", True, "not mounted; mounted for the loading process alone", "", how)
    return Finding("tracefs", False, "this kernel has none", "BTF-typed tracepoints need none", how)


# Best first, as the loader tries them: what each is, and what it takes.
_WAYS = {
    "btf": ("BTF-typed tracepoints", "a newer kernel, with CONFIG_DEBUG_INFO_BTF"),
    "tracepoint": ("tracepoints", "a newer kernel: filemap:mm_filemap_get_pages"),
    "fentry": ("functions by fentry", "CONFIG_FUNCTION_TRACER and CONFIG_DEBUG_INFO_BTF"),
    "kprobe": ("functions by kprobe", "CONFIG_KPROBES"),
}
_ORIGINS = {"compiled": "compiled", "kept": "from the state directory"}


def probes(report: loader.Report | None = None) -> Finding:
    """The probes themselves are compiled, loaded and attached, for a moment; or what a loader has reported.

    ``detail`` says of each better way why it does not work here, and what it takes.
    """
    how = "as root; what is missing of eBPF, bcc, kernel headers and BTF above"
    try:
        report = report or load_probes()
    except HostError as error:
        return Finding("probes", False, str(error), WITHOUT_PROBES, how)
    reasons = report["tried"]
    if not report["way"]:
        # What all ways need is said once.
        said = reasons.values() if len({*reasons.values()}) == 1 else _refused(reasons)
        return Finding("probes", False, "; ".join(dict.fromkeys(said)), WITHOUT_PROBES, how)
    detail = [
        f"{_WAYS[report['way']][0]}, {_ORIGINS[report['origin']]} in {report['seconds']:.1f} s",
        f"headers: {report['headers']}",
    ]
    if report["unkept"]:
        detail.append(f"not kept for the next start: {report['unkept']}")
    if report["missing"]:
        detail.append(f"this kernel lacks {', '.join(report['missing'])}")
    for way, refused in zip(reasons, _refused(reasons), strict=True):
        detail.append(f"better would be {refused} (takes {_WAYS[way][1]})")
    return Finding("probes", True, "; ".join(detail), WITHOUT_PROBES, how)


def _refused(reasons: dict[str, str]) -> list[str]:
    return [f"{_WAYS[way][0]}: {reason}" for way, reason in reasons.items()]


def load_probes() -> loader.Report:
    """What the loader says when it tries every way. Raises HostError if it could not even try."""
    with tempfile.TemporaryDirectory(prefix="swmld-doctor-") as state:
        command = [sys.executable, "-m", loader.__name__, "--state", state]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT, check=False)
            report: loader.Report = json.loads(done.stdout)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HostError(_reason(error)) from error
        except ValueError:
            said = done.stderr.strip().splitlines() or [f"the loader ends with {done.returncode}"]
            raise HostError(said[-1]) from None
    return report


def nvml() -> Finding:
    """NVIDIA's management library answers."""
    instead = "no GPU is watched"
    how = "the NVIDIA driver; in a container its libnvidia-ml.so.1"
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            number = pynvml.nvmlDeviceGetCount()
        finally:
            pynvml.nvmlShutdown()
    except Exception as error:
        # pynvml has an exception class of its own for each of the library's codes.
        return Finding("NVML", False, _reason(error), instead, how)
    return Finding("NVML", number > 0, f"{number} GPUs", instead, how)


def descriptors() -> Finding:
    """The limit of open files that swmld may raise its own to."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    detail = "no limit" if unlimited else f"{hard} (hard limit)"
    how = "ulimit -Hn 1048576, or LimitNOFILE= in the systemd unit"
    instead = "fewer files can be open at once; more fail with EMFILE"
    return Finding("open files", unlimited or hard >= ENOUGH_DESCRIPTORS, detail, instead, how)


def disk(place: Path) -> Finding:
    """The disk of the cache directory has room above what is left free by default."""
    usage = shutil.disk_usage(place)
    floor = min(usage.total // 20, 10 << 30)
    detail = f"{format_size(usage.free)} of {format_size(usage.total)} free at {place}"
    return Finding(
        "cache disk",
        usage.free > floor,
        detail,
        "reads go to the source; nothing new is cached",
        f"free some space, or choose another --cache-dir; {format_size(floor)} stay free (--free-floor)",
    )


def _tried(name: str, result: int, works: str, instead: str, how: str) -> Finding:
    """A finding from a C probe's 0 or -errno."""
    if result >= 0:
        return Finding(name, True, works, instead, how)
    detail = os.strerror(-result)
    if -result == errno.EPERM:
        detail += " (not root?)"
    return Finding(name, False, detail, instead, how)


def _existing(path: Path) -> Path:
    """``path``, or the nearest directory above it that exists."""
    return next(place for place in (path, *path.parents) if place.is_dir())


def _reason(error: Any) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.splitlines()[0] if text else type(error).__name__
