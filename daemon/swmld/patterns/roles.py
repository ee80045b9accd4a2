"""What a dataset's files are: samples, shards or a model. Names count, reading behaviour counts more.
Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from swmld.patterns.views import Finding, several

if TYPE_CHECKING:
    from swmld.patterns.dataset import Dataset

LARGE = 4 << 20
"""Bytes from which a file is no single sample: one window of the probes."""

MODEL_NAMES = (
    b".safetensors", b".pt", b".pth", b".bin", b".ckpt", b".gguf", b".onnx", b".h5", b".pkl", b".distcp",
    b".npz",
)  # fmt: skip
DATA_NAMES = (
    b".tar", b".tfrecord", b".parquet", b".arrow", b".zip", b".csv", b".jsonl", b".rec", b".mds", b".npy",
    b".zst", b".gz", b".lmdb", b".mdb", b".hdf5",
)  # fmt: skip
DATABASE_NAMES = (b".db", b".db3", b".sqlite", b".sqlite3", b".ldb", b".sst", b".ibd", b".rdb")
"""Rows are looked up in them, for whatever reason."""

_CHECKPOINT = re.compile(
    rb"ckpt|checkpoint|(^|[-_.])(epoch|step|iter|last|best|optim|optimizer|state)([-_.\d]|$)", re.I
)
_SPLIT = re.compile(
    r"(^|[^a-z])(train|training|val|valid|validation|test|testing|eval|dev|holdout)([^a-z]|$)", re.I
)
_HELD_OUT = re.compile(r"(^|[^a-z])(val|valid|validation|test|testing|eval|dev|holdout)([^a-z]|$)", re.I)


def is_split(name: str) -> bool:
    """A directory's name says that it is a part for one purpose: train, val, test."""
    return _SPLIT.search(name) is not None


def is_held_out(path: str) -> bool:
    """The last directories of a path say that it is for validation or test."""
    return any(_HELD_OUT.search(part) for part in path.split("/")[-2:])


def suffix_of(name: bytes) -> bytes:
    """``.jpg`` of a name, lower case; b"" of a name without."""
    stem, dot, suffix = name.rpartition(b".")
    return dot + suffix.lower() if stem else b""


class Kinds:
    """Counts of a dataset's large files by name and by how they were read."""

    __slots__ = (
        "checkpoints", "data", "databases", "in_order", "large", "models", "opened", "pieces", "scattered",
    )  # fmt: skip

    def __init__(self) -> None:
        self.large = self.models = self.data = self.databases = self.checkpoints = 0
        self.opened = 0
        """Bytes: the size of each large file, as often as it was opened."""
        self.in_order = 0
        """Pages read from large files in sequence, ``scattered`` at random."""
        self.scattered = 0
        self.pieces = 0
        """Pages read in sequence a few at a time, at places in no order."""

    def add(self, name: bytes, path: str) -> None:
        """A large file was read for the first time in this epoch."""
        self.large += 1
        suffix = suffix_of(name)
        self.models += suffix in MODEL_NAMES
        self.data += suffix in DATA_NAMES
        self.databases += suffix in DATABASE_NAMES
        parts = (name, *path.encode(errors="surrogateescape").split(b"/")[-2:])
        self.checkpoints += any(_CHECKPOINT.search(part) is not None for part in parts)

    def absorb(self, other: Kinds) -> None:
        for field in self.__slots__:
            setattr(self, field, getattr(self, field) + getattr(other, field))


def role(dataset: Dataset) -> Finding:
    """samples, shards or model."""
    kinds = dataset.kinds
    if not kinds.large or kinds.opened < 0.5 * dataset.sizes:
        return Finding("samples", 0.9, f"{several(dataset.files, 'file')}, each about one sample")
    scattered = kinds.scattered > kinds.in_order
    what = several(kinds.large, "large file")
    if scattered and kinds.scattered * 4096 > LARGE:
        return Finding("shards", 0.8, f"{what} read at random places")
    over = dataset.rounds > max(1, dataset.processes)
    if kinds.models * 2 > kinds.large and dataset.epoch <= max(1, dataset.processes) and not over:
        by = f" by each of {dataset.processes} processes" if dataset.epoch > 1 else ""
        return Finding("model", 0.9, f"{what} read once{by}, with names of models")
    if kinds.pieces > kinds.in_order:
        return Finding("shards", 0.8, f"{what} read piece by piece, in no order")
    if kinds.data * 2 > kinds.large:
        return Finding("shards", 0.9, f"{what} with names of data sets, read in order")
    if dataset.epoch > 1:
        return Finding("shards", 0.8, f"{what} read {dataset.epoch} times")
    if over:
        return Finding("shards", 0.8, f"{what} read {dataset.rounds} times")
    return Finding("shards", 0.5, f"{what} read once")
