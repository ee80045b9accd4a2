"""TFRecord files: read record after record as the format is laid out, or by the package ``tfrecord``."""

from __future__ import annotations

import argparse
import random
import struct
from pathlib import Path

from common import files_of, mark, think


def records(path: Path, buffer: int) -> int:
    """Length, its checksum, the record, its checksum."""
    count = 0
    with path.open("rb", buffering=buffer) as file:
        while head := file.read(12):
            file.read(struct.unpack("<Q", head[:8])[0] + 4)
            count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--how", default="records")
    parser.add_argument("--buffer", type=int, default=262144)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--shuffle", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--step", type=float, default=0.05)
    args = parser.parse_args()
    files = files_of(args.data)
    mark()
    for epoch in range(args.epochs):
        if args.shuffle:
            random.Random(args.seed + epoch).shuffle(files)
        for path in files:
            if args.how == "package":
                from tfrecord.reader import tfrecord_loader

                for _ in tfrecord_loader(str(path), None):
                    pass
            else:
                records(path, args.buffer)
            think(args.step)


if __name__ == "__main__":
    main()
