"""Compiles, loads and attaches the probes in a process of its own, hands them over and ends.

    python -m swmld.observe.loader --state DIR --way auto [--socket FD]

bcc brings a compiler of 130 MB; the daemon keeps descriptors alone. What is loaded lives as long as a
descriptor of it: closed, or killed, the daemon leaves nothing behind. With a socket the descriptors are sent
on it, with one line of JSON (``Report``); without, the line is printed and everything goes away: ``swmld
doctor`` asks so.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import ctypes
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

from swmld.errors import HostError
from swmld.observe import headers, programs
from swmld.observe.btf import Btf

MAPS = ("config", "filter", "watched", "cursors", "processes", "lost", "events")
"""What the daemon needs, in the order in which the descriptors are sent; the programs follow."""

_TRACING, _RAW_TP = 26, 23  # BPF_PROG_TYPE_TRACING, BPF_TRACE_RAW_TP: include/uapi/linux/bpf.h


class Report(TypedDict):
    """How it went. ``way`` is empty if none worked; ``tried`` says of each why not. ``missing``: programs
    that this kernel does without. Times in seconds."""

    way: str
    tried: dict[str, str]
    missing: list[str]
    headers: str
    descriptors: int
    seconds: float


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


class Loader:
    """Tries the ways in order; keeps what worked."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._bpf: Any = None
        self._types: Btf | None = None
        self.descriptors: list[int] = []
        self.report = Report(way="", tried={}, missing=[], headers="", descriptors=0, seconds=0.0)

    def run(self, ways: tuple[str, ...]) -> None:
        """Fill in the report and the descriptors."""
        started = time.monotonic()
        try:
            from bcc import BPF

            found = headers.find(self._state)
        except ImportError:
            self.report["tried"] = dict.fromkeys(ways, "bcc is not installed (Debian: python3-bpfcc)")
            return
        except HostError as error:
            self.report["tried"] = dict.fromkeys(ways, str(error))
            return
        os.environ["BCC_KERNEL_SOURCE"] = str(found.path)
        self.report["headers"] = found.why
        self._make = BPF
        with contextlib.suppress(HostError):
            self._types = Btf.load()
        for way in ways:
            try:
                attached = getattr(self, f"_{way}")()
            except HostError as error:
                self.report["tried"][way] = str(error)
                continue
            self.report["way"] = way
            self.descriptors = [self._bpf[name].map_fd for name in MAPS] + attached
            self.report["descriptors"] = len(self.descriptors)
            break
        self.report["seconds"] = time.monotonic() - started

    def _compile(self, way: str, name: str) -> None:
        flags = [f"-D{key}={value}" for key, value in programs.defines(way, self._types).items()]
        with _quiet() as said:
            try:
                self._bpf = self._make(text=programs.source(name).encode(), cflags=flags)
            except Exception as error:  # bcc raises Exception itself
                raise HostError(_first_line(said(), str(error))) from None

    # ---- BTF-typed tracepoints

    def _btf_programs(self) -> Iterator[tuple[str, bool]]:
        yield from ((name, True) for name in programs.READS)
        yield from ((name, False) for name in programs.EXTRAS)

    def _btf(self) -> list[int]:
        btf = self._types
        if btf is None:
            raise HostError("the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)")
        self._compile("btf", "btf.bpf.c")
        attached: list[int] = []
        for name, needed in self._btf_programs():
            number = btf.typedef(f"btf_trace_{name}")
            try:
                if number is None:
                    raise HostError(f"the kernel has no tracepoint {name}")
                attached += self._attach_btf(name, number)
            except HostError:
                if needed:
                    for fd in attached:
                        os.close(fd)
                    raise
                self.report["missing"].append(name)
        return attached

    def _attach_btf(self, name: str, number: int) -> list[int]:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
        code = self._bpf.dump_func(f"on_{name}".encode())
        options = _LoadOptions(expected_attach_type=_RAW_TP, attach_btf_id=number)
        options.sz = ctypes.sizeof(options)
        program = lib.bpf_prog_load(
            _TRACING, f"swmld_{name}"[:15].encode(), b"GPL", code, ctypes.c_size_t(len(code) // 8),
            ctypes.byref(options),
        )  # fmt: skip
        if program < 0:
            raise HostError(f"{name}: the kernel refuses the program: {os.strerror(ctypes.get_errno())}")
        link = lib.bpf_raw_tracepoint_open(None, program)
        if link < 0:
            os.close(program)
            raise HostError(f"{name}: cannot be attached: {os.strerror(ctypes.get_errno())}")
        os.close(program)  # the link holds it
        return [link]

    # ---- tracepoints by format

    def _tracepoint(self) -> list[int]:
        from swmld.observe import tracefs

        tracefs.ensure()
        self._compile("tracepoint", "tracepoint.bpf.c")
        return [*self._bpf.tracepoint_fds.values()]

    # ---- functions

    def _fentry(self) -> list[int]:
        try:
            self._compile("fentry", "function.bpf.c")
        except HostError as error:
            if "super-user" not in str(error):
                raise
            raise HostError("the kernel refuses to attach to functions") from None
        attached = [*self._bpf.kfunc_entry_fds.values()]
        if len(attached) < len(programs.FUNCTIONS):
            raise HostError("the kernel refuses to attach to functions")
        return attached

    def _kprobe(self) -> list[int]:
        from swmld.observe import tracefs

        tracefs.ensure()
        self._compile("kprobe", "function.bpf.c")
        for name in programs.FUNCTIONS:
            with _quiet() as said:
                try:
                    self._bpf.attach_kprobe(event=name.encode(), fn_name=f"on_{name}".encode())
                except Exception as error:  # bcc raises Exception itself
                    raise HostError(_first_line(said(), str(error))) from None
        return [fd for named in self._bpf.kprobe_fds.values() for fd in named.values()]


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """What the compiler prints, for the error; descriptor 2 is back afterwards."""
    kept = os.dup(2)
    spool = os.memfd_create("said")
    os.dup2(spool, 2)
    try:
        yield lambda: os.pread(spool, 1 << 16, 0).decode(errors="replace")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(spool)


def _first_line(said: str, fallback: str) -> str:
    lines = [line.strip() for line in said.splitlines() if "error" in line.lower()]
    return (lines or [fallback])[0][:300]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="swmld.observe.loader")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--way", choices=("auto", *programs.WAYS), default="auto")
    parser.add_argument("--socket", type=int)
    options = parser.parse_args()
    os.umask(0o022)  # the daemon has none
    loader = Loader(options.state)
    loader.run(programs.WAYS if options.way == "auto" else (options.way,))
    line = json.dumps(loader.report).encode() + b"\n"
    if options.socket is None:
        sys.stdout.buffer.write(line)
        sys.stdout.flush()
    else:
        # The daemon may have ended meanwhile: then all goes with this process.
        with socket.socket(fileno=options.socket) as channel, contextlib.suppress(BrokenPipeError):
            rights = array.array("i", loader.descriptors)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if loader.descriptors else []
            channel.sendmsg([line], ancillary)
    # Not through bcc's exit handlers: they would disable what was just handed over.
    os._exit(0)


if __name__ == "__main__":
    main()
