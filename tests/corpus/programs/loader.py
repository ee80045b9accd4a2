"""torch's DataLoader on a directory of small files: one trains on it, validates, saves and resumes."""

from __future__ import annotations

import argparse
import mmap
import os
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from common import files_of, mark, think
from torch.utils.data import DataLoader, Dataset, Sampler


class Images(Dataset[torch.Tensor]):
    def __init__(self, files: list[Path], how: str) -> None:
        self.files = files
        self.how = how

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> torch.Tensor:
        with self.files[number].open("rb") as file:
            if self.how == "mmap":
                with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                    data = bytes(mapped)
            elif self.how == "blocks":
                data = b"".join(iter(lambda: os.read(file.fileno(), 16384), b""))
            else:
                data = file.read()
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)[:1024].float()


class Fixed(Sampler[int]):
    """One permutation for all epochs."""

    def __init__(self, count: int, seed: int) -> None:
        self.order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)


class Groups(Sampler[list[int]]):
    """Batches of neighbours, the batches shuffled anew each epoch."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self.batches = [list(range(at, min(at + batch, count))) for at in range(0, count, batch)]
        self.random = random.Random(seed)

    def __iter__(self) -> Iterator[list[int]]:
        self.random.shuffle(self.batches)
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def train_loader(args: argparse.Namespace) -> DataLoader[torch.Tensor]:
    files = files_of(args.train)
    if args.order == "listed":
        with os.scandir(args.train) as entries:
            files = [Path(entry.path) for entry in entries]
    if args.order == "reverse":
        files.reverse()
    data = Images(files, args.how)
    common = {"num_workers": args.workers, "persistent_workers": args.persistent}
    if args.order == "groups":
        return DataLoader(data, batch_sampler=Groups(len(files), args.batch, args.seed), **common)
    sampler = Fixed(len(files), args.seed) if args.order == "fixed" else None
    shuffle = args.order == "shuffle"
    generator = torch.Generator().manual_seed(args.seed)
    return DataLoader(data, args.batch, shuffle, sampler=sampler, generator=generator, **common)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("train")
    parser.add_argument("--order", default="shuffle")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--part", type=float, default=1.0, help="of the last epoch")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--how", default="read")
    parser.add_argument("--step", type=float, default=0.04, help="seconds that a batch is computed")
    parser.add_argument("--persistent", action="store_true")
    parser.add_argument("--val")
    parser.add_argument("--save", help="directory of the checkpoints")
    parser.add_argument("--resume", help="checkpoint to begin from")
    args = parser.parse_args()

    if args.resume:
        mark()
        torch.load(args.resume)
        think(1.3)
    loader = train_loader(args)
    for epoch in range(args.epochs):
        if not epoch or args.val or args.save:
            mark()
        last = len(loader) * (args.part if epoch == args.epochs - 1 else 1.0)
        for number, _ in enumerate(loader):
            if number >= last:
                break
            think(args.step)
        if args.val:
            mark()
            for _ in DataLoader(Images(files_of(args.val), args.how), args.batch, num_workers=args.workers):
                think(args.step)
        if args.save:
            mark()
            torch.save({"weights": torch.zeros(12 << 20), "epoch": epoch}, f"{args.save}/epoch{epoch}.pt")
            think(1.3)
    mark()


if __name__ == "__main__":
    main()
