"""Maps made, programs loaded and attached by libbpf, which Debian's bcc brings along; without bcc itself.

Descriptors are the caller's to close. Errors are HostError in one line.
"""

from __future__ import annotations

import ctypes
import os

from swmld.errors import HostError
from swmld.observe.btf import LIBRARY
from swmld.observe.compiled import Map

_TRACING, _RAW_TP = 26, 23  # BPF_PROG_TYPE_TRACING, BPF_TRACE_RAW_TP: include/uapi/linux/bpf.h
_NAME = 15  # BPF_OBJ_NAME_LEN without its zero


class _LoadOptions(ctypes.Structure):
    """``struct bpf_prog_load_opts`` of libbpf 1.0, src/bpf.h; libbpf takes shorter and longer ones."""

    _fields_ = (
        ("sz", ctypes.c_size_t), ("attempts", ctypes.c_int), ("expected_attach_type", ctypes.c_uint),
        ("prog_btf_fd", ctypes.c_uint), ("prog_flags", ctypes.c_uint), ("prog_ifindex", ctypes.c_uint),
        ("kern_version", ctypes.c_uint), ("attach_btf_id", ctypes.c_uint), ("attach_prog_fd", ctypes.c_uint),
        ("attach_btf_obj_fd", ctypes.c_uint), ("fd_array", ctypes.c_void_p), ("func_info", ctypes.c_void_p),
        ("func_info_cnt", ctypes.c_uint), ("func_info_rec_size", ctypes.c_uint),
        ("line_info", ctypes.c_void_p), ("line_info_cnt", ctypes.c_uint),
        ("line_info_rec_size", ctypes.c_uint), ("log_level", ctypes.c_uint), ("log_size", ctypes.c_uint),
        ("log_buf", ctypes.c_char_p),
    )  # fmt: skip


class _MapOptions(ctypes.Structure):
    """``struct bpf_map_create_opts``, as above. Types of keys and values stay unsaid: only a map with a lock
    or a timer in it needs them."""

    _fields_ = (
        ("sz", ctypes.c_size_t), ("btf_fd", ctypes.c_uint), ("btf_key_type_id", ctypes.c_uint),
        ("btf_value_type_id", ctypes.c_uint), ("btf_vmlinux_value_type_id", ctypes.c_uint),
        ("inner_map_fd", ctypes.c_uint), ("map_flags", ctypes.c_uint), ("map_extra", ctypes.c_uint64),
        ("numa_node", ctypes.c_uint), ("map_ifindex", ctypes.c_uint),
    )  # fmt: skip


class _MapInfo(ctypes.Structure):
    """The start of ``struct bpf_map_info``, linux/bpf.h; the kernel fills in as much as is asked for."""

    _fields_ = (
        ("type", ctypes.c_uint), ("id", ctypes.c_uint), ("key_size", ctypes.c_uint),
        ("value_size", ctypes.c_uint), ("max_entries", ctypes.c_uint), ("map_flags", ctypes.c_uint),
        ("name", ctypes.c_char * 16),
    )  # fmt: skip


def create(one: Map) -> int:
    """Descriptor of a new map."""
    options = _MapOptions(sz=ctypes.sizeof(_MapOptions), map_flags=one.flags)
    made: int = _library().bpf_map_create(
        one.kind, one.name.encode(), one.key_size, one.value_size, one.entries, ctypes.byref(options)
    )
    return _must(made, f"map {one.name}")


def describe(fd: int) -> Map:
    """What a map was made with."""
    info = _MapInfo()
    length = ctypes.c_uint(ctypes.sizeof(info))
    _must(_library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(length)), "a map")
    return Map(
        info.name.decode(), info.type, info.key_size, info.value_size, info.max_entries, info.map_flags
    )


def load(name: str, code: bytes, number: int) -> int:
    """Descriptor of a program for the tracepoint ``name``, whose BTF typedef is ``number``."""
    options = _LoadOptions(sz=ctypes.sizeof(_LoadOptions), expected_attach_type=_RAW_TP, attach_btf_id=number)
    program = _library().bpf_prog_load(
        _TRACING, f"swmld_{name}"[:_NAME].encode(), b"GPL", code, ctypes.c_size_t(len(code) // 8),
        ctypes.byref(options),
    )  # fmt: skip
    return _must(program, f"{name}: the kernel refuses the program")


def attach(name: str, program: int) -> int:
    """Attach a loaded program: its link, which holds it, too."""
    return _must(_library().bpf_raw_tracepoint_open(None, program), f"{name}: cannot be attached")


def _must(result: int, what: str) -> int:
    if result < 0:
        raise HostError(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _library() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(LIBRARY, use_errno=True)
    except OSError:
        raise HostError(f"{LIBRARY} is not installed (Debian: apt-get install libbpf1)") from None
