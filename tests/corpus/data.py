"""Data for the corpus's programs: files of the real formats, with made-up content.

``make(root, "images train 300 --size 24000")`` and so on. The same arguments give the same bytes.
"""

from __future__ import annotations

import argparse
import io
import random
import shlex
import sqlite3
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

Args = argparse.Namespace
KINDS: dict[str, Callable[[Path, Args], None]] = {}


def kind(make: Callable[[Path, Args], None]) -> Callable[[Path, Args], None]:
    KINDS[make.__name__] = make
    return make


def make(root: Path, wanted: str) -> None:
    """One kind of data at ``root``/PATH."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("path")
    parser.add_argument("count", type=int, nargs="?", default=1)
    parser.add_argument("--size", type=int, default=24_000, help="bytes of a sample")
    parser.add_argument("--classes", type=int, default=1)
    parser.add_argument("--each", type=int, default=100, help="samples in a file")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--mixed", action="store_true", help="made in another order than that of their names")
    args = parser.parse_args(shlex.split(wanted))
    path = root / args.path
    path.parent.mkdir(parents=True, exist_ok=True)
    KINDS[args.kind](path, args)


def content(draw: random.Random, size: int) -> bytes:
    return draw.randbytes(size)


def directory(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


@kind
def images(path: Path, args: Args) -> None:
    """``count`` files in each of ``classes`` directories, half to one and a half times ``size``."""
    draw = random.Random(args.seed)
    for number in range(args.classes):
        folder = directory(path / f"n{number:03d}" if args.classes > 1 else path)
        names = [f"{index:05d}.jpg" for index in range(args.count)]
        if args.mixed:
            draw.shuffle(names)
        for name in names:
            (folder / name).write_bytes(content(draw, draw.randint(args.size // 2, args.size * 3 // 2)))


@kind
def texts(path: Path, args: Args) -> None:
    """A tree of source files."""
    draw = random.Random(args.seed)
    for number in range(args.classes):
        folder = directory(path / f"part{number}" if args.classes > 1 else path)
        for index in range(args.count):
            lines = [
                f"def f{draw.randrange(10**6)}(): return {draw.randrange(10**6)}"
                for _ in range(args.size // 40)
            ]
            (folder / f"mod{index:04d}.py").write_text("\n".join(lines))


@kind
def blob(path: Path, args: Args) -> None:
    """``count`` files of ``size`` bytes, or one."""
    draw = random.Random(args.seed)
    for number in range(args.count):
        name = path if args.count == 1 else path.with_name(f"{path.stem}{number:02d}{path.suffix}")
        with name.open("wb") as file:
            for at in range(0, args.size, 1 << 20):
                file.write(content(draw, min(1 << 20, args.size - at)))


@kind
def lines(path: Path, args: Args) -> None:
    """One text of ``size`` bytes."""
    draw = random.Random(args.seed)
    with path.open("w") as file:
        for number in range(args.size // 80):
            file.write(f"{number:08d} {draw.getrandbits(280):070x}\n")


@kind
def tars(path: Path, args: Args) -> None:
    """``count`` shards of webdataset with ``each`` samples."""
    draw = random.Random(args.seed)
    for number in range(args.count):
        with tarfile.open(directory(path) / f"shard-{number:05d}.tar", "w") as file:
            for index in range(args.each):
                for suffix, data in (("bin", content(draw, args.size)), ("cls", str(index).encode())):
                    info = tarfile.TarInfo(f"{number:03d}{index:05d}.{suffix}")
                    info.size = len(data)
                    file.addfile(info, io.BytesIO(data))


@kind
def tfrecords(path: Path, args: Args) -> None:
    """Records of tf.train.Example with one feature of bytes."""
    from swmld.cache.checksum import crc32c

    def masked(data: bytes) -> bytes:
        value = crc32c(data)
        return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    def field(number: int, data: bytes) -> bytes:
        length, out = len(data), b""
        while length > 127:
            out, length = out + bytes([length & 127 | 128]), length >> 7
        return bytes([number << 3 | 2]) + out + bytes([length]) + data

    draw = random.Random(args.seed)
    for number in range(args.count):
        with (directory(path) / f"data-{number:05d}-of-{args.count:05d}.tfrecord").open("wb") as file:
            for _ in range(args.each):
                feature = field(1, field(1, content(draw, args.size)))
                example = field(1, field(1, field(1, b"image") + field(2, feature)))
                head = struct.pack("<Q", len(example))
                file.write(head + masked(head) + example + masked(example))


@kind
def parquet(path: Path, args: Args) -> None:
    """``count`` files of four columns with ``each`` rows in a row group, eight groups each."""
    import numpy
    import pyarrow
    import pyarrow.parquet

    draw = numpy.random.default_rng(args.seed)
    for number in range(args.count):
        columns = {f"c{index}": draw.integers(0, 1 << 60, 8 * args.each) for index in range(4)}
        name = directory(path) / f"part-{number:03d}.parquet"
        pyarrow.parquet.write_table(
            pyarrow.table(columns), name, row_group_size=args.each, compression="none", use_dictionary=False
        )


@kind
def hub(path: Path, args: Args) -> None:
    """A dataset as ``save_to_disk`` writes it: ``count`` Arrow files, ``each`` samples in all."""
    import datasets

    draw = random.Random(args.seed)
    rows = {"x": [content(draw, args.size) for _ in range(args.each)], "y": list(range(args.each))}
    datasets.Dataset.from_dict(rows).save_to_disk(path, num_shards=args.count)


@kind
def safetensors(path: Path, args: Args) -> None:
    """``count`` parts of a model with ``each`` tensors of ``size`` bytes."""
    import numpy
    from safetensors.numpy import save_file

    draw = numpy.random.default_rng(args.seed)
    for number in range(args.count):
        tensors = {
            f"layer.{index:02d}.weight": draw.random(args.size // 4, numpy.float32)
            for index in range(args.each)
        }
        name = path
        if args.count > 1:
            name = directory(path) / f"model-{number + 1:05d}-of-{args.count:05d}.safetensors"
        save_file(tensors, name)


@kind
def weights(path: Path, args: Args) -> None:
    """What torch.save writes of ``each`` tensors of ``size`` bytes."""
    import torch

    torch.manual_seed(args.seed)
    torch.save({f"layer.{index}": torch.rand(args.size // 4) for index in range(args.each)}, path)


@kind
def array(path: Path, args: Args) -> None:
    """One .npy of ``each`` rows of ``size`` bytes."""
    import numpy

    numpy.save(
        path, numpy.random.default_rng(args.seed).integers(0, 255, (args.each, args.size), numpy.uint8)
    )


@kind
def hdf5(path: Path, args: Args) -> None:
    import h5py
    import numpy

    with h5py.File(path, "w") as file:
        rows = numpy.random.default_rng(args.seed).integers(0, 255, (args.each, args.size), numpy.uint8)
        file.create_dataset("x", data=rows)


@kind
def archive(path: Path, args: Args) -> None:
    """A zip of ``each`` members."""
    draw = random.Random(args.seed)
    with zipfile.ZipFile(path, "w") as file:
        for index in range(args.each):
            file.writestr(f"{index:05d}.jpg", content(draw, args.size))


@kind
def table(path: Path, args: Args) -> None:
    """A sqlite table of ``each`` rows."""
    draw = random.Random(args.seed)
    base = sqlite3.connect(path)
    base.execute("create table t (id integer primary key, body blob)")
    base.executemany(
        "insert into t values (?, ?)", ((n, content(draw, args.size)) for n in range(1, args.each + 1))
    )
    base.commit()
    base.close()


@kind
def empty(path: Path, args: Args) -> None:
    """A directory to write to."""
    directory(path)
