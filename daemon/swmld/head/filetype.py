"""What a file holds and in which format, by its name and its first bytes. Pure.

Formats without magic numbers (TFRecord, ONNX, text) are known by name alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_TYPES: dict[tuple[str, str], str] = {
    ("model", "safetensors"): "safetensors",
    ("model", "gguf"): "gguf",
    ("model", "onnx"): "onnx",
    ("model", "tflite"): "tflite",
    ("model", "hdf5"): "h5",
    ("model", "zip"): "keras",
    ("model", "pickle"): "joblib",
    ("model", "protobuf"): "pb",
    # torch.save writes zip or, the old way, pickle; others raw numbers, msgpack, or engines for one GPU.
    ("model", ""): "pt pth bin pkl mar engine plan ggml mlmodel msgpack pdparams",
    ("checkpoint", ""): "ckpt distcp",
    ("dataset", "tar"): "tar",
    ("dataset", "zip"): "zip",
    ("dataset", "gzip"): "tgz",
    ("dataset", "tfrecord"): "tfrecord tfrecords",
    ("dataset", "parquet"): "parquet",
    ("dataset", "arrow"): "arrow feather",
    ("dataset", "hdf5"): "hdf5",
    ("dataset", "sqlite"): "sqlite sqlite3",
    ("dataset", "csv"): "csv tsv",
    ("dataset", "json"): "jsonl ndjson",
    ("dataset", "jpeg"): "jpg jpeg",
    ("dataset", "png"): "png",
    ("dataset", "riff"): "webp wav avi",
    ("dataset", "flac"): "flac",
    ("dataset", "ogg"): "ogg opus",
    ("dataset", ""): "rec mds lmdb mdb bmp gif tif tiff ppm pgm mp3 m4a mp4 mkv mov webm nii dcm h264",
    ("tensor", "npy"): "npy",
    ("tensor", "zip"): "npz",
    ("config", "json"): "json zarray zattrs zgroup zmetadata",
    ("config", "yaml"): "yaml yml",
    ("config", "toml"): "toml",
    ("config", "xml"): "xml",
    ("config", ""): "ini cfg conf gin properties pbtxt prototxt",
}
"""Extensions; where ``patterns.roles`` knows one, as there."""

_BY_EXTENSION = {"." + extension: known for known, text in _TYPES.items() for extension in text.split()}

_COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".xz": "xz", ".bz2": "bzip2"}
"""The type is that of the name without it: ``train.csv.gz``."""

_WEIGHTS = frozenset({"model", "checkpoint"})
_CHECKPOINT = re.compile(
    r"ckpt|checkpoint|(^|[-_.])(epoch|step|iter|last|best|optim|optimizer|state)([-_.\d]|$)", re.IGNORECASE
)
"""As ``patterns.roles`` tells checkpoints from models."""
_TF_PARTS = re.compile(r"\.(index|data-\d{5}-of-\d{5})$")
"""TensorFlow's V2 checkpoints: tensorflow/core/util/tensor_bundle/naming.cc."""

SAFETENSORS_HEADER = 100_000_000
"""Bytes of the longest header that safetensors reads (MAX_HEADER_SIZE in its tensor.rs)."""


def _safetensors(head: bytes) -> bool:
    """The length of the header as a little-endian u64, then the header, a JSON object."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= SAFETENSORS_HEADER


def _arrow_stream(head: bytes) -> bool:
    """A continuation mark, then the length of the metadata, a multiple of 8: Arrow's columnar format,
    "Encapsulated message format"."""
    length = int.from_bytes(head[4:8], "little", signed=True)
    return len(head) >= 8 and head[:4] == b"\xff" * 4 and length > 0 and length % 8 == 0


_MAGIC: tuple[tuple[str, int, bytes], ...] = (
    ("hdf5", 0, b"\x89HDF\r\n\x1a\n"),  # HDF5 file format 3.0, II.A; or after a user block:
    *(("hdf5", 512 << n, b"\x89HDF\r\n\x1a\n") for n in range(4)),
    ("zip", 0, b"PK\x03\x04"),  # APPNOTE 6.3.10, 4.3.7; of an archive without members 4.3.16:
    ("zip", 0, b"PK\x05\x06"),
    ("parquet", 0, b"PAR1"),  # parquet-format, README; with an encrypted footer, Encryption.md:
    ("parquet", 0, b"PARE"),
    ("arrow", 0, b"ARROW1\0\0"),  # Arrow columnar format, "IPC File Format"; Feather version 1:
    ("arrow", 0, b"FEA1"),
    ("npy", 0, b"\x93NUMPY"),  # numpy.lib.format
    ("gguf", 0, b"GGUF"),  # ggml/docs/gguf.md
    ("tflite", 4, b"TFL3"),  # file_identifier in tflite's schema.fbs
    ("sqlite", 0, b"SQLite format 3\0"),  # sqlite.org/fileformat.html, 1.3
    ("gzip", 0, b"\x1f\x8b"),  # RFC 1952, 2.3.1
    ("zstd", 0, b"\x28\xb5\x2f\xfd"),  # RFC 8878, 3.1.1
    ("xz", 0, b"\xfd7zXZ\0"),  # xz-file-format.txt, 2.1.1.1
    ("bzip2", 0, b"BZh"),  # bzip2's header
    ("jpeg", 0, b"\xff\xd8\xff"),  # ITU-T T.81, B.1: SOI and another marker
    ("png", 0, b"\x89PNG\r\n\x1a\n"),  # PNG, 5.2
    ("riff", 0, b"RIFF"),  # WAV, WebP, AVI
    ("flac", 0, b"fLaC"),  # RFC 9639, 6
    ("ogg", 0, b"OggS"),  # RFC 3533, 6
    # Pickles of protocol 4 and 5 begin with a frame (PEP 3154); torch.save's of old with its MAGIC_NUMBER.
    ("pickle", 0, b"\x80\x04\x95"),
    ("pickle", 0, b"\x80\x05\x95"),
    ("pickle", 0, b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"),
    ("tar", 257, b"ustar"),  # POSIX.1-2024, pax: ustar interchange format; GNU's has the same five bytes
)
_LOOKS: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    ("safetensors", _safetensors),
    ("arrow", _arrow_stream),
)
_WITH_MAGIC = frozenset({name for name, _, _ in _MAGIC} | {name for name, _ in _LOOKS})
HEAD = max(offset + len(magic) for _, offset, magic in _MAGIC)
"""Bytes of a file that tell all there is to tell."""

_BY_FORMAT = {
    "safetensors": "model",
    "gguf": "model",
    "tflite": "model",
    "npy": "tensor",
    **dict.fromkeys(("parquet", "arrow", "tar", "hdf5", "sqlite", "jpeg", "png", "flac"), "dataset"),
}
"""What a file holds whose name says nothing."""


def type_of(name: str, head: bytes = b"") -> tuple[str, str]:
    """(one of ``catalogue.FILE_TYPES``, the format or "").

    ``name`` may be a path: a checkpoint is also known by its last two directories. ``head``: the file's
    first bytes, best ``HEAD`` of them. With them, a format that has a magic number is believed only where
    that is there; without, the extension is.
    """
    *above, last = name.rsplit("/", 3)
    kind, expected = _by_name(last)
    if kind in _WEIGHTS and any(_CHECKPOINT.search(part) for part in (last, *above[-2:])):
        kind = "checkpoint"
    if not head:
        return kind, expected
    found = format_of(head)
    if not found and expected not in _WITH_MAGIC:
        found = expected
    return (_BY_FORMAT.get(found, kind) if kind == "other" else kind), found


def _by_name(name: str) -> tuple[str, str]:
    lower = name.lower()
    stem, dot, suffix = lower.rpartition(".")
    extension = dot + suffix
    if extension in _COMPRESSED and stem:
        kind, _ = _by_name(stem)
        return ("dataset" if kind == "other" else kind), _COMPRESSED[extension]
    if lower == "checkpoint" or _TF_PARTS.search(lower):
        return "checkpoint", ""
    return _BY_EXTENSION.get(extension, ("other", ""))


def format_of(head: bytes) -> str:
    """The format that these first bytes say, "" if none."""
    for name, offset, magic in _MAGIC:
        if head.startswith(magic, offset):
            return name
    return next((name for name, looks in _LOOKS if looks(head)), "")
