"""The program that sees reads, as a thing that can be detached and attached again: ``sampler.Switch``."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from swmld._native import ffi, lib
from swmld.errors import HostError
from swmld.observe.sampler import Slice

POSSIBLE = Path("/sys/devices/system/cpu/possible")


class ReadSwitch:
    """Owns the link and the program. For any thread. Methods may block, for as long as a slice; OSError if
    the kernel refuses, also after ``close``."""

    def __init__(self, config: int, calls: int, link: int, program: int) -> None:
        self._link, self._program = link, program
        self._lock = threading.Lock()
        error = ffi.new("int *")
        self._sampler = lib.sw_sampler_open(config, calls, program, cpus(POSSIBLE.read_text()), error)
        if self._sampler == ffi.NULL:
            raise HostError(f"the probes cannot be detached: {os.strerror(-error[0])}")

    def calls(self) -> int:
        """Since the last time, of the CPU that made most."""
        found = ffi.new("uint64_t *")
        with self._lock:
            _must(lib.sw_sampler_calls(self._open(), found))
        return int(found[0])

    def detach(self) -> None:
        """Nothing is called at a read any more."""
        with self._lock:
            self._drop()

    def slice(self, weight: int, seconds: float) -> Slice:
        """Attached for so long. Each read that is seen counts for ``weight``."""
        out = ffi.new("struct sw_slice *")
        with self._lock:
            _must(lib.sw_sampler_slice(self._open(), weight, int(seconds * 1e9), out))
        return Slice(out.began_ns * 1e-9, out.ended_ns * 1e-9, int(out.calls))

    def attach(self) -> None:
        """For good; each read counts for itself."""
        with self._lock:
            self._drop()
            self._link = _must(lib.sw_sampler_attach(self._open(), 1))

    def close(self) -> None:
        """Detaches; waits for the end of a slice."""
        with self._lock:
            self._drop()
            if self._sampler != ffi.NULL:
                lib.sw_sampler_close(self._sampler)
                self._sampler = ffi.NULL
                os.close(self._program)

    def _drop(self) -> None:
        if self._link >= 0:
            os.close(self._link)
            self._link = -1

    def _open(self) -> object:
        if self._sampler == ffi.NULL:
            raise OSError(9, os.strerror(9))  # EBADF
        return self._sampler


def cpus(text: str) -> int:
    """How many the kernel may have at most, from its list of possible ones (``0-3,8``)."""
    return int(text.replace(",", "-").split("-")[-1]) + 1


def _must(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
