"""A small real sample for ``swmld demo``, made with the standard library: images, a shard, a tensor file.

The files are what training jobs read: PNG images in one folder a class, the same kind of images in a tar
shard with a label beside each (WebDataset's naming), and a safetensors file. The content is random, so that
no layer below can compress it away; the sizes are those of common sets: 110 KB is the mean of an ImageNet
image.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from swmld.errors import UsageError

CLASSES = ("cat", "dog", "owl", "fox")
IMAGES = 600
SHARD_SAMPLES = 300
# 192 x 190 pixels of 3 random bytes: 109 KB as PNG.
WIDTH, HEIGHT = 192, 190
TENSORS, TENSOR_SHAPE = 12, (1024, 1024)
MANIFEST = "swmld-demo.json"
READ_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """One file of the sample: its path below the directory, its kind (a row's column), size and SHA-256."""

    path: str
    kind: str
    size: int
    sha256: str


def create(directory: Path, on_file: Callable[[int, int], None] | None = None) -> list[Sample]:
    """Fill ``directory``, which is made or empty, and return what is there, in reading order.

    A directory that holds a sample already is left as it is. ``on_file`` is told files made and in all.
    Raises UsageError if something else is in it, or it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if (directory / MANIFEST).exists():
            return load(directory)
        if any(directory.iterdir()):
            raise UsageError(f"{directory} is not empty; the demo fills a directory of its own")
        found = []
        for number, (path, kind, content) in enumerate(_contents(), start=1):
            found.append(_store(directory, path, kind, content))
            if on_file is not None:
                on_file(number, IMAGES + 2)
        rows = [{"path": s.path, "kind": s.kind, "size": s.size, "sha256": s.sha256} for s in found]
        (directory / MANIFEST).write_text(json.dumps(rows, indent=0) + "\n")
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}") from None
    return found


def load(directory: Path) -> list[Sample]:
    """The sample that ``create`` left in ``directory``. Raises UsageError if its list cannot be read."""
    try:
        return [Sample(**row) for row in json.loads((directory / MANIFEST).read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{directory / MANIFEST}: {error}; remove the directory to start anew") from None


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def drop_pages(path: Path) -> None:
    """Take one file's pages out of the page cache, dirty ones after they were written; no other file's."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def read_all(paths: list[Path]) -> int:
    """Open, read and close each file as a data loader does; the bytes read."""
    buffer = bytearray(READ_SIZE)
    total = 0
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while count := os.readv(fd, [buffer]):
                total += count
        finally:
            os.close(fd)
    return total


def _store(directory: Path, path: str, kind: str, content: bytes) -> Sample:
    target = directory / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return Sample(path, kind, len(content), hashlib.sha256(content).hexdigest())


def _contents() -> Iterator[tuple[str, str, bytes]]:
    # A seed: two demos, and two machines, read the same bytes.
    noise = random.Random(20)
    for number in range(IMAGES):
        label = CLASSES[number % len(CLASSES)]
        yield f"images/{label}/{number:04d}.png", "images", png(noise)
    yield "shards/train-0000.tar", "shard", shard(noise)
    yield "model/model.safetensors", "tensors", safetensors(noise)


def png(noise: random.Random) -> bytes:
    """A valid PNG of random RGB pixels."""
    rows = noise.randbytes(HEIGHT * WIDTH * 3)
    stride = WIDTH * 3
    # Each row starts with its filter: 0, none. Level 0: noise does not compress.
    raw = b"".join(b"\0" + rows[at : at + stride] for at in range(0, len(rows), stride))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 0)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(kind, data) for kind, data in chunks)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def shard(noise: random.Random) -> bytes:
    """A tar file of images, each followed by its label."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for number in range(SHARD_SAMPLES):
            label = str(number % len(CLASSES)).encode()
            for suffix, content in (("png", png(noise)), ("cls", label)):
                member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return output.getvalue()


def safetensors(noise: random.Random) -> bytes:
    """A safetensors file: a length, a JSON header of names, types, shapes and offsets, then the values."""
    size = TENSOR_SHAPE[0] * TENSOR_SHAPE[1] * 4
    entries = {
        f"layers.{number}.weight": {
            "dtype": "F32",
            "shape": list(TENSOR_SHAPE),
            "data_offsets": [number * size, (number + 1) * size],
        }
        for number in range(TENSORS)
    }
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    # The format wants the values aligned to 8 bytes; the header is filled up with spaces.
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + noise.randbytes(TENSORS * size)
