"""Parquet: the columns that are read of one row group are read of the next."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from swmld.plugins.interface import API, Context, Hints
from swmld.plugins.parquet_layout import MAGIC, Layout, following, footer, layout, progress, step
from swmld.plugins.parsing import TAIL, Pieces, merged, tolerant

_KEPT = 8
"""Layouts that are remembered, since a file is asked about again and again; 20,000 chunks are 2 MB."""


class Parquet:
    api = API
    libraries = ("/libparquet[.]so", "/libarrow[.]so", "/fastparquet/", "/pyarrow/_parquet[.]")
    extensions = (".parquet", ".parq", ".pq")
    chunk_size = 1 << 20
    """A column of a row group has a few MB at most: of larger chunks most would be columns that nobody reads.
    Not less: it is one request to the source, and whole files are read, too."""

    def __init__(self) -> None:
        self._layouts: OrderedDict[tuple[int, bytes], Layout] = OrderedDict()

    def framework_name(self) -> str:
        return "parquet"

    def detect(self, path: str, head: bytes) -> float:
        if head:
            return 0.95 if head.startswith(MAGIC) else 0.0
        return 0.7

    @tolerant
    def hints(self, context: Context) -> Hints:
        where, metadata = footer(Pieces(context))
        found = self._layout(where.offset, metadata)
        size, groups = context.size, found.groups
        if not groups:
            return Hints((where,), why="a footer without row groups")
        # Readers begin with this much of the end, whatever is in it.
        read = progress(found, context.touched, min(where.offset, size - TAIL))
        if not read.groups:
            why = f"the footer of {groups} row groups"
            return Hints((where,), compressed=found.compressed, again=groups > 1, why=why)
        why = f"{len(read.columns)} of {found.columns} columns, {groups} row groups"
        if len(read.columns) == found.columns and len(read.groups) > 1 and step(read.groups) == 1:
            return Hints(whole=True, compressed=found.compressed, why=why)
        ranges = merged(following(found, read), size)
        return Hints(ranges, compressed=found.compressed, again=True, why=why)

    def _layout(self, end: int, metadata: bytes) -> Layout:
        key = end, hashlib.blake2b(metadata, digest_size=16).digest()
        found = self._layouts.get(key)
        if found is None:
            found = self._layouts[key] = layout(metadata, end)
            if len(self._layouts) > _KEPT:
                self._layouts.popitem(last=False)
        return found

    def default_rules(self) -> str:
        return """\
- id: parquet_columns
  name: Columns of parquet files
  description: The footer comes with the head, and several columns at once.
  priority: -10
  conditions:
    - {type: file_context, property: format, value: parquet}
  actions:
    - {type: prefetch, parameters: {footer: 1MiB}}
    - {type: stream, parameters: {parallel_streams: 4}}
- id: parquet_parts
  name: Parts of a parquet data set
  description: The footers of the next parts are fetched while one is read.
  priority: -10
  conditions:
    - {type: file_context, property: format, value: parquet}
    - {type: access_pattern, property: order, operator: in, value: [sorted, listed]}
  actions:
    - {type: prefetch, parameters: {shards: true, next_files: 4}}
"""

    def default_templates(self) -> str:
        return """\
- id: parquet_tables
  name: Tables of parquet files
  category: data
  rules: [parquet_columns, parquet_parts]
"""
