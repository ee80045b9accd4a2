"""sqlite: rows of a table by their keys, or all of it."""

from __future__ import annotations

import argparse
import random
import sqlite3

from common import mark


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--keys", type=int, default=0, help="so many at random; 0: all rows in order")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    mark()
    base = sqlite3.connect(f"file:{args.file}?mode=ro&immutable=1", uri=True)
    base.execute("pragma cache_size = 8")
    if args.keys:
        for _ in range(args.keys):
            base.execute("select body from t where id = ?", (draw.randrange(1, args.rows),)).fetchone()
    else:
        base.execute("select sum(length(body)) from t where body > x'00'").fetchone()


if __name__ == "__main__":
    main()
