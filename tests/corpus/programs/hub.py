"""Hugging Face datasets: Arrow files mapped, in order or by a shuffled index, through a DataLoader."""

from __future__ import annotations

import argparse

import datasets
from common import mark, think
from torch.utils.data import DataLoader


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--shuffle", action="store_true")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--step", type=float, default=0.02)
    parser.add_argument("--part", type=float, default=1.0)
    args = parser.parse_args()
    mark()
    for epoch in range(args.epochs):
        data = datasets.load_from_disk(args.data)
        if args.shuffle:
            data = data.shuffle(seed=args.seed + epoch, keep_in_memory=True)
        loader = DataLoader(data.with_format("torch"), args.batch, num_workers=args.workers)
        for number, _ in enumerate(loader):
            if number >= args.part * len(loader):
                break
            think(args.step)


if __name__ == "__main__":
    main()
