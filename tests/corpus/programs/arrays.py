"""numpy, HDF5 and zip: rows of one large file at random, in order, by stride or backward."""

from __future__ import annotations

import argparse
import os
import zipfile

import numpy
from common import mark, think


def mapped(args: argparse.Namespace, draw: numpy.random.Generator) -> None:
    data = numpy.load(args.file, mmap_mode="r")
    for _ in range(args.epochs):
        numbers = numpy.arange(len(data))
        if args.how == "random":
            draw.shuffle(numbers)
        elif args.how == "reverse":
            numbers = numbers[::-1]
        for number in numbers[: args.reads or None]:
            data[number].sum()
            if args.step:
                think(args.step)


def sliced(args: argparse.Namespace) -> None:
    """Every so many bytes of a mapped array, as one looks at a sample of it."""
    data = numpy.load(args.file, mmap_mode="r").reshape(-1).view(numpy.uint8)
    data[:: args.every].sum()


def pread(args: argparse.Namespace, draw: numpy.random.Generator) -> None:
    """Rows of ``--row`` bytes by positioned reads."""
    size = os.path.getsize(args.file)
    rows = size // args.row
    orders = {
        "random": lambda: draw.permutation(rows),
        "stride": lambda: numpy.arange(0, rows, args.every),
        "backstride": lambda: numpy.arange(0, rows, args.every)[::-1],
        "reverse": lambda: numpy.arange(rows)[::-1],
        "forward": lambda: numpy.arange(rows),
    }
    fd = os.open(args.file, os.O_RDONLY)
    for _ in range(args.epochs):
        for row in orders[args.how]()[: args.reads or None]:
            os.pread(fd, args.row, int(row) * args.row)
            if args.step:
                think(args.step)
    os.close(fd)


def repeated(args: argparse.Namespace) -> None:
    """The whole file again and again, as one loads a table of labels for each step."""
    for _ in range(args.epochs):
        if args.file.endswith(".npy"):
            numpy.load(args.file)
        else:
            with open(args.file, "rb") as file:
                file.read()
        think(args.step)


def archive(args: argparse.Namespace, draw: numpy.random.Generator) -> None:
    """Members of a zip."""
    with zipfile.ZipFile(args.file) as file:
        names = file.namelist()
        for name in draw.choice(names, args.reads, replace=False):
            file.read(name)
            if args.step:
                think(args.step)


def hdf5(args: argparse.Namespace, draw: numpy.random.Generator) -> None:
    import h5py

    with h5py.File(args.file) as file:
        data = file["x"]
        numbers = draw.permutation(len(data)) if args.how == "random" else numpy.arange(len(data))
        for number in numbers[: args.reads or None]:
            data[int(number)].sum()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("by")
    parser.add_argument("file")
    parser.add_argument("--how", default="random")
    parser.add_argument("--row", type=int, default=65536)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--reads", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--step", type=float, default=0.0)
    args = parser.parse_args()
    draw = numpy.random.default_rng(args.seed)
    mark()
    if args.by == "map":
        mapped(args, draw)
    elif args.by == "slice":
        sliced(args)
    elif args.by == "pread":
        pread(args, draw)
    elif args.by == "repeat":
        repeated(args)
    elif args.by == "zip":
        archive(args, draw)
    else:
        hdf5(args, draw)


if __name__ == "__main__":
    main()
