"""webdataset: tar shards read from end to end, in order or shuffled, by workers."""

from __future__ import annotations

import argparse
import warnings

import webdataset
from common import files_of, mark, think
from torch.utils.data import DataLoader


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("train")
    parser.add_argument("--shuffle", action="store_true")
    parser.add_argument("--reseed", action="store_true", help="each epoch")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--step", type=float, default=0.02)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    urls = [str(path) for path in files_of(args.train)]
    mark()
    for epoch in range(args.epochs):
        # With one seed webdataset shuffles each epoch alike: the shards then come in a fixed order.
        seed = args.seed + epoch * args.reseed
        data = webdataset.WebDataset(urls, shardshuffle=len(urls) if args.shuffle else False, seed=seed)
        if args.shuffle:
            data = data.shuffle(100)
        data = data.to_tuple("bin", "cls").map(lambda sample: len(sample[0]))
        for _ in DataLoader(data, args.batch, num_workers=args.workers):
            think(args.step)


if __name__ == "__main__":
    main()
