"""DistributedSampler: one rank of torchrun, or both by torch.multiprocessing."""

from __future__ import annotations

import argparse
import os

import torch
import torch.distributed
from common import files_of, mark, think
from loader import Images
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler


def rank(number: int, count: int, args: argparse.Namespace) -> None:
    rendezvous = {"init_method": f"file://{os.path.abspath(args.store)}"} if args.spawn else {}
    torch.distributed.init_process_group("gloo", rank=number, world_size=count, **rendezvous)
    gradient = torch.ones(1000)
    data = Images(files_of(args.train), "read")
    sampler = DistributedSampler(data, count, number, shuffle=args.shuffle, seed=args.seed)
    loader = DataLoader(data, args.batch, sampler=sampler, num_workers=args.workers)
    if number == 0:
        mark()
    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        for _ in loader:
            think(args.step)
            torch.distributed.all_reduce(gradient)  # no rank is a batch ahead
    torch.distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("train")
    parser.add_argument("--shuffle", action="store_true")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step", type=float, default=0.04)
    parser.add_argument("--spawn", type=int, default=0, help="so many ranks by multiprocessing")
    parser.add_argument("--store", default="../rendezvous", help="where those find each other")
    args = parser.parse_args()
    if args.spawn:
        torch.multiprocessing.spawn(rank, (args.spawn, args), args.spawn)
    else:
        rank(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), args)


if __name__ == "__main__":
    main()
