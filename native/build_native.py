"""cffi builder of ``swmld._native``: the declarations are read from ``swml.h`` between its CDEF marks."""

from __future__ import annotations

from pathlib import Path

import cffi

HERE = Path(__file__).resolve().parent
SOURCES = [
    "crc32c.c",
    "buffers.c",
    "calls.c",
    "table.c",
    "source.c",
    "held.c",
    "remote.c",
    "dirs.c",
    "blake2b.c",
    "listing.c",
    "pages.c",
    "cfile.c",
    "packed.c",
    "httpget.c",
    "park.c",
    "hot.c",
    "seek.c",
    "follow.c",
    "session.c",
    "ring.c",
    "queues.c",
    "uring.c",
    "probe.c",
    "bpf.c",
    "sampler.c",
    "mapped.c",
    "view.c",
]

BPF = HERE.parent / "bpf"

_header = (HERE / "swml.h").read_text()
_records = (BPF / "swmld.h").read_text()
ffibuilder = cffi.FFI()
ffibuilder.cdef(_records.split("/* CDEF begin */")[1].split("/* CDEF end */")[0])
ffibuilder.cdef(_header.split("/* CDEF begin */")[1].split("/* CDEF end */")[0])
ffibuilder.set_source(
    "swmld._native",
    '#include "swml.h"',
    sources=[f"native/{name}" for name in SOURCES if (HERE / name).exists()],
    depends=[f"native/{name}.h" for name in ("swml", "internal", "ring", "uring")]
    + ["bpf/swmld.h", "bpf/stream.h"],
    include_dirs=[str(HERE)],
    extra_compile_args=[
        "-std=gnu11",
        "-D_GNU_SOURCE",
        "-O2",
        "-g",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unused-parameter",
        "-Wno-missing-field-initializers",
        "-fvisibility=hidden",
    ],
    libraries=["pthread", "zstd"],
)
