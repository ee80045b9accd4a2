"""pyarrow: parquet and Arrow files, scanned, by column, by row group, or mapped."""

from __future__ import annotations

import argparse

import pyarrow.dataset
import pyarrow.parquet
from common import files_of, mark


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--how", default="scan")
    parser.add_argument("--column", default="c1")
    args = parser.parse_args()
    mark()
    if args.how == "scan":
        for _ in pyarrow.dataset.dataset(args.data, format="parquet").to_batches():
            pass
        return
    for path in files_of(args.data):
        if args.how == "column":
            pyarrow.parquet.read_table(path, columns=[args.column])
        elif args.how == "table":
            pyarrow.parquet.read_table(path)
        elif args.how == "mapped":
            pyarrow.parquet.read_table(path, columns=[args.column], memory_map=True)
        elif args.how == "groups":
            file = pyarrow.parquet.ParquetFile(path)
            for number in range(0, file.num_row_groups, 2):
                file.read_row_group(number, columns=[args.column])


if __name__ == "__main__":
    main()
