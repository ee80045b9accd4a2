"""NumPy's .npy and .npz, HDF5, Zarr."""

from __future__ import annotations

import re

from swmld.plugins import hdf5_layout
from swmld.plugins.interface import API, NONE, Context, Hints
from swmld.plugins.parsing import Pieces, merged, names, parts, sequential, tolerant
from swmld.plugins.zipfile_layout import archive

_NPY = b"\x93NUMPY"
_ZIP = b"PK\x03\x04"
_NPZ = re.compile(rb"[^\0]{1,200}\.npy")
"""Name of a first member, at byte 30."""

_BY_NAME = {".npy": 0.7, ".npz": 0.7, ".h5": 0.7, ".hdf5": 0.7, ".hdf": 0.6, ".he5": 0.6, ".nc": 0.5}
_STORE = re.compile(r"\.zarr/")
_CHUNK = re.compile(r"(.*\.)?(\d{1,18})$", re.DOTALL)
"""Indexes joined by dots or as directories: Zarr 2 "Chunks", Zarr 3 "Chunk key encoding"."""
_METADATA = (".zarray", ".zgroup", ".zattrs", ".zmetadata", "zarr.json")

CHUNKS_AHEAD = 8
"""Of those next along the last axis, the fastest; how long it is another file says."""

CHUNK_SURE = 64 << 20
"""Bytes of a Zarr chunk that is read whole; a larger one is a shard, whose chunks are read one by one."""


def _chunk(path: str) -> re.Match[str] | None:
    """Of a Zarr array, by its name."""
    return _CHUNK.match(path.rpartition("/")[2]) if _STORE.search(path) else None


def _zarr(context: Context, found: re.Match[str]) -> Hints:
    """The chunks along the last axis, in the same directory."""
    name = context.path.rpartition("/")[2]
    prefix, index = name[: found.start(2)], int(found[2])
    files = names(f"{prefix}{index + n}" for n in range(1, CHUNKS_AHEAD + 1))
    read = sequential(context, "a chunk, then its neighbours", sure=CHUNK_SURE)
    return Hints(whole=read.whole, files=files, again=read.again, why=read.why)


class Arrays:
    api = API
    libraries = ("/_multiarray_umath[.]", "/libhdf5[-.]", "/h5py/h5[.]", "/numcodecs/")
    extensions = ()
    """None: chunks of Zarr have indexes for names."""

    def framework_name(self) -> str:
        return "numpy"

    def detect(self, path: str, head: bytes) -> float:
        name = path.rpartition("/")[2].lower()
        if name in _METADATA:
            return 0.9 if _STORE.search(path) or name != "zarr.json" else 0.6
        if head:
            if head.startswith(_NPY) or hdf5_layout.place(head) is not None:
                return 0.95
            if head.startswith(_ZIP) and _NPZ.match(head[30:]):
                return 0.9
        elif (known := _BY_NAME.get("." + name.rpartition(".")[2])) is not None:
            return known
        return 0.7 if _chunk(path) else 0.0

    @tolerant
    def hints(self, context: Context) -> Hints:
        """Arrays that fit into memory are loaded; numpy.load can map larger ones, which shows only then."""
        pieces = Pieces(context)
        head = pieces.head()
        if head.startswith(_NPY):
            return sequential(context, "one array", compressed=False)
        if head.startswith(_ZIP):
            found = archive(pieces)
            order = [member.data for member in found.members]
            why = f"{len(order)} arrays, directory first"
            return parts(context, found.directory, order, why, compressed=found.compressed)
        if hdf5_layout.place(head) is not None:
            version, first = hdf5_layout.first_ranges(pieces)
            return Hints(merged(first, context.size), why=f"superblock {version} and the root group")
        chunk = _chunk(context.path)
        return _zarr(context, chunk) if chunk is not None else NONE

    def default_rules(self) -> str:
        return """\
- id: numpy_arrays
  name: Arrays
  description: Samples that are arrays of their own are fetched in the order in which they are read.
  priority: -10
  conditions:
    - {type: file_context, property: format, operator: in, value: [npy, zip]}
    - {type: access_pattern, property: order, operator: in, value: [sorted, listed]}
  actions:
    - {type: prefetch, parameters: {next_files: 32}}
- id: hdf5_files
  name: HDF5 files
  description: The metadata at the start is fetched with the head; what is read here and there stays.
  priority: -10
  conditions:
    - {type: file_context, property: format, value: hdf5}
  actions:
    - {type: prefetch, parameters: {header: 1MiB}}
    - {type: cache, parameters: {strategy: aggressive}}
"""

    def default_templates(self) -> str:
        return """\
- id: numpy_data
  name: Arrays in NumPy's format and HDF5
  category: data
  rules: [numpy_arrays, hdf5_files]
"""
