"""Models and checkpoints: loaded in the ways that libraries offer, then served from samples or not at all."""

from __future__ import annotations

import argparse
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from common import files_of, mark, think


def load(path: Path, how: str) -> None:
    if how == "some":
        with safetensors.safe_open(path, framework="pt") as file:
            names = sorted(file.keys())
            for name in [*names[-2:], *names[len(names) // 2 : len(names) // 2 + 2]]:
                file.get_tensor(name).sum()
    elif path.suffix == ".safetensors":
        for tensor in safetensors.torch.load_file(path).values():
            tensor.sum()
    else:
        for tensor in torch.load(path, mmap=how == "mmap").values():
            tensor.sum()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--how", default="all")
    parser.add_argument("--serve", help="directory of what it is asked")
    parser.add_argument("--step", type=float, default=0.03)
    args = parser.parse_args()
    mark()
    path = Path(args.model)
    for part in sorted(path.iterdir()) if path.is_dir() else [path]:
        load(part, args.how)
    think(1.3)
    if args.serve:
        mark()
        for file in files_of(args.serve):
            file.read_bytes()
            think(args.step)


if __name__ == "__main__":
    main()
