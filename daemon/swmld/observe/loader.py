"""Compiles, loads and attaches the probes in a process of its own, hands them over and ends.

    python -m swmld.observe.loader --state DIR --way auto [--socket FD]

bcc brings a compiler of 130 MB; the daemon keeps descriptors alone. What is loaded lives as long as a
descriptor of it: closed, or killed, the daemon leaves nothing behind. With a socket the descriptors are sent
on it, with one line of JSON (``Report``); without, the line is printed and everything goes away: ``swmld
doctor`` asks so.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

from swmld.errors import HostError
from swmld.observe import compiled, kept, libbpf, programs
from swmld.observe.btf import VMLINUX, Btf
from swmld.observe.compiled import Compiled, Unfit

MAPS = ("config", "filter", "watched", "cursors", "processes", "lost", "events", "calls")
"""What the daemon needs, in the order in which the descriptors are sent; what is attached follows."""

_OPTIONS = ("--state", "--way", "--socket")
# The compiler's libraries, as /proc/self/maps names them.
_COMPILER = re.compile(r"/\S*/(?:libbcc|libLLVM|libclang)[^/\n]*$", re.MULTILINE)
_HEADERS = ("include/linux/kconfig.h", "include/linux/types.h", "include/generated/autoconf.h")


class Report(TypedDict):
    """How it went. ``way`` is empty if none worked; ``tried`` says of each why not. ``missing``: programs
    that this kernel does without. ``origin``: "compiled", or "kept": it came from the state directory;
    ``why``: why it did not; ``unkept``: why it will not next time. ``switch``: the program that sees reads
    can be detached and attached again: it is the last descriptor. Times in seconds."""

    way: str
    tried: dict[str, str]
    missing: list[str]
    headers: str
    descriptors: int
    seconds: float
    origin: str
    why: str
    unkept: str
    switch: bool


class Loader:
    """Tries the ways in order; keeps what worked."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._make: Any = None
        self._bpf: Any = None
        self._types: Btf | None = None
        self._headers = Path()
        self.descriptors: list[int] = []
        self.report = Report(
            way="", tried={}, missing=[], headers="", descriptors=0, seconds=0.0, origin="", why="",
            unkept="", switch=False,
        )  # fmt: skip

    def run(self, ways: tuple[str, ...]) -> None:
        """Fill in the report and the descriptors."""
        started = time.monotonic()
        with contextlib.suppress(HostError):
            self._types = Btf.load()
        for way in ways:
            try:
                self.descriptors = getattr(self, f"_{way}")()
            except HostError as error:
                self.report["tried"][way] = str(error)
                continue
            self.report["way"] = way
            self.report["origin"] = self.report["origin"] or "compiled"
            self.report["descriptors"] = len(self.descriptors)
            break
        self.report["seconds"] = time.monotonic() - started

    # ---- the compiler

    def _prepare(self) -> None:
        """Import bcc, once, and choose headers for it."""
        if self._make is not None:
            return
        try:
            from bcc import BPF
        except ImportError:
            raise HostError("bcc is not installed (Debian: python3-bpfcc)") from None
        from swmld.observe import headers

        found = headers.find(self._state)
        os.environ["BCC_KERNEL_SOURCE"] = str(found.path)
        self.report["headers"] = found.why
        self._headers = found.path
        self._make = BPF

    def _compile(self, way: str, source: str, flags: Sequence[str] = ()) -> None:
        self._prepare()
        defines = [f"-D{key}={value}" for key, value in programs.defines(way, self._types).items()]
        with _quiet() as said:
            try:
                self._bpf = self._make(text=source.encode(), cflags=[*defines, *flags])
            except Exception as error:  # bcc raises Exception itself
                raise HostError(_first_line(said(), str(error))) from None

    def _maps(self) -> list[int]:
        return [self._bpf[name].map_fd for name in MAPS]

    # ---- BTF-typed tracepoints

    def _btf(self) -> list[int]:
        btf = self._types
        if btf is None:
            raise HostError("the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)")
        source = programs.source("btf.bpf.c")
        text = "\n".join((source, *programs.QUICKLY))
        key = compiled.key(text, programs.defines("btf", btf), VMLINUX.read_bytes(), os.uname())
        try:
            return self._from_state(key, btf)
        except (Unfit, HostError) as error:
            why = str(error)
        codes, attached, missing = self._compiled(btf, source, programs.QUICKLY)
        try:
            self._keep(key, codes, missing)
        except (Unfit, HostError) as error:
            self.report["unkept"] = str(error)
        self.report |= {"missing": missing, "why": why, "switch": True}
        return self._maps() + attached

    def _compiled(
        self, btf: Btf, source: str, flags: Sequence[str]
    ) -> tuple[dict[str, bytes], list[int], list[str]]:
        """Programs by tracepoint, links, and the names of those that the kernel does without. Where the flags
        do not compile, or the kernel refuses what they make, once more without."""
        try:
            self._compile("btf", source, flags)
            codes = self._codes()
            attached, missing = self._attach(btf, codes)
        except HostError:
            if not flags:
                raise
            return self._compiled(btf, source, ())
        if flags and any(btf.typedef(f"btf_trace_{name}") is not None for name in missing):
            _close(attached)
            return self._compiled(btf, source, ())
        return codes, attached, missing

    def _codes(self) -> dict[str, bytes]:
        """What was compiled, by tracepoint."""
        codes: dict[str, bytes] = {}
        for name in (*programs.READS, *programs.EXTRAS):
            # Some are left out where the kernel lacks their types; bcc raises Exception itself.
            with contextlib.suppress(Exception):
                codes[name] = self._bpf.dump_func(f"on_{name}".encode())
        return codes

    def _attach(self, btf: Btf, codes: dict[str, bytes]) -> tuple[list[int], list[str]]:
        """Links of all programs that this kernel takes, with the program that sees reads at the end, and the
        names of the others."""
        attached: list[int] = []
        missing: list[str] = []
        loaded: dict[str, int] = {}
        try:
            for name in (*programs.READS, *programs.EXTRAS):
                number = btf.typedef(f"btf_trace_{name}")
                try:
                    if number is None or name not in codes:
                        raise HostError(f"the kernel has no tracepoint {name}")
                    loaded[name] = libbpf.load(name, codes[name], number)
                    attached.append(libbpf.attach(name, loaded[name]))
                except HostError:
                    if name in programs.READS:
                        _close(attached)
                        raise
                    missing.append(name)
            attached.append(loaded.pop(programs.SWITCHED))
        finally:
            _close([*loaded.values()])  # links hold them
        return attached, missing

    # ---- what is kept of them

    def _from_state(self, key: dict[str, str], btf: Btf) -> list[int]:
        """As compiled earlier. Raises Unfit or HostError, with nothing left open."""
        found = kept.load(self._state)
        compiled.check(found.key, key)
        if tuple(one.name for one in found.maps[: len(MAPS)]) != MAPS:
            raise Unfit("what is kept is damaged")
        opened: list[int] = []
        try:
            for one in found.maps:
                opened.append(libbpf.create(one))
            codes = {name: compiled.with_descriptors(code, opened) for name, code in found.programs.items()}
            attached, missing = self._attach(btf, codes)
            opened += attached
            if missing != [*found.missing]:
                raise Unfit("the kernel takes other programs than it did")
        except (Unfit, HostError):
            _close(opened)
            raise
        self.report |= {"origin": "kept", "headers": found.headers, "missing": missing, "switch": True}
        _close(opened[len(MAPS) : len(found.maps)])  # the programs hold them
        return opened[: len(MAPS)] + attached

    def _keep(self, key: dict[str, str], codes: dict[str, bytes], missing: list[str]) -> None:
        """For the next start. Raises Unfit or HostError if it cannot be."""
        used = self._maps()
        used += sorted({fd for code in codes.values() for fd in compiled.maps_of(code)} - {*used})
        places = {fd: place for place, fd in enumerate(used)}
        maps = tuple(libbpf.describe(fd) for fd in used)
        kept.save(
            self._state,
            Compiled(
                key=key,
                headers=self.report["headers"],
                witnesses=kept.witnesses(self._compiled_with()),
                maps=maps,
                programs={name: compiled.without_descriptors(code, places) for name, code in codes.items()},
                missing=tuple(missing),
            ),
        )

    def _compiled_with(self) -> Iterator[str | Path]:
        """The compiler's files and some of the headers, which packages replace together."""
        yield sys.modules["bcc"].__file__ or ""
        yield from sorted({*_COMPILER.findall(Path("/proc/self/maps").read_text())})
        yield self._headers
        yield from (self._headers / name for name in _HEADERS)

    # ---- tracepoints by format

    def _tracepoint(self) -> list[int]:
        from swmld.observe import tracefs

        self._prepare()
        tracefs.ensure()
        self._compile("tracepoint", programs.source("tracepoint.bpf.c"))
        return [*self._maps(), *self._bpf.tracepoint_fds.values()]

    # ---- functions

    def _fentry(self) -> list[int]:
        try:
            self._compile("fentry", programs.source("function.bpf.c"))
        except HostError as error:
            if "super-user" not in str(error):
                raise
            raise HostError("the kernel refuses to attach to functions") from None
        attached = [*self._bpf.kfunc_entry_fds.values()]
        if len(attached) < len(programs.FUNCTIONS):
            raise HostError("the kernel refuses to attach to functions")
        return self._maps() + attached

    def _kprobe(self) -> list[int]:
        from swmld.observe import tracefs

        self._prepare()
        tracefs.ensure()
        self._compile("kprobe", programs.source("function.bpf.c"))
        for name in programs.FUNCTIONS:
            with _quiet() as said:
                try:
                    self._bpf.attach_kprobe(event=name.encode(), fn_name=f"on_{name}".encode())
                except Exception as error:  # bcc raises Exception itself
                    raise HostError(_first_line(said(), str(error))) from None
        return self._maps() + [fd for named in self._bpf.kprobe_fds.values() for fd in named.values()]


def origin_of(report: Report) -> str:
    """Where the programs came from, and why so, in words."""
    if report["origin"] == "kept":
        return "from the state directory"
    return f"compiled, since {report['why']}" if report["why"] else "compiled"


def _close(descriptors: list[int]) -> None:
    for fd in descriptors:
        os.close(fd)


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


def _options(arguments: list[str]) -> dict[str, str]:
    """By name. Not by argparse, whose import takes as long as a tenth of a start."""
    options = {"--way": "auto"} | dict(zip(arguments[::2], arguments[1::2], strict=False))
    ways = ("auto", *programs.WAYS)
    if len(arguments) % 2 or not {"--state"} <= {*options} <= {*_OPTIONS} or options["--way"] not in ways:
        sys.exit(f"usage: swmld.observe.loader --state DIR [--way {'|'.join(ways)}] [--socket FD]")
    return options


def main() -> None:
    """See the module's docstring."""
    options = _options(sys.argv[1:])
    os.umask(0o022)  # the daemon has none
    loader = Loader(Path(options["--state"]))
    loader.run(programs.WAYS if options["--way"] == "auto" else (options["--way"],))
    line = json.dumps(loader.report).encode() + b"\n"
    if "--socket" not in options:
        sys.stdout.buffer.write(line)
        sys.stdout.flush()
    else:
        # The daemon may have ended meanwhile: then all goes with this process.
        with socket.socket(fileno=int(options["--socket"])) as channel, contextlib.suppress(BrokenPipeError):
            rights = array.array("i", loader.descriptors)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if loader.descriptors else []
            channel.sendmsg([line], ancillary)
    # Not through bcc's exit handlers: they would disable what was just handed over.
    os._exit(0)


if __name__ == "__main__":
    main()
