"""An example of a plugin: files of records with an index at their end.

Such a file is b"RECORDS1", the number of records and the offset of the index (8 bytes each, little-endian),
the records, then the index: the offset of each record, 8 bytes each. Who reads it goes to the index first.

    swmld plugin check example.py sample.records
    cp example.py /etc/swmld/plugins/ && chmod 644 /etc/swmld/plugins/example.py
"""

from __future__ import annotations

import struct

from swmld.plugins import API, NONE, READ_BYTES, Context, Hints, Range

MAGIC = b"RECORDS1"
HEADER = struct.Struct("<8sQQ")

RULES = """
- id: records_first
  description: The index is fetched with the header, and the file stays cached.
  conditions:
    - {type: file_context, property: file_framework, value: records}
  actions:
    - {type: prefetch, parameters: {header: 64KiB, footer: 1MiB}}
    - {type: cache, parameters: {strategy: aggressive}}
"""
TEMPLATES = """
- id: records
  description: Data in files of records.
  rules: [records_first]
"""


class Records:
    api = API
    libraries = ("/librecords[.]so",)
    extensions = (".records",)

    def framework_name(self) -> str:
        return "records"

    def detect(self, path: str, head: bytes) -> float:
        if not head:  # nobody has read it yet: the name is all there is
            return 0.6
        return 1.0 if head.startswith(MAGIC) else 0.0

    def hints(self, context: Context) -> Hints:
        head = context.head or context.read(0, HEADER.size)
        if len(head) < HEADER.size:
            return NONE
        magic, count, index = HEADER.unpack_from(head)
        # What a file says of itself may be wrong: nothing is read or counted before it was compared.
        if magic != MAGIC or not HEADER.size <= index <= context.size or count > (context.size - index) // 8:
            return NONE
        if 8 * count > READ_BYTES:
            return Hints(ranges=(Range(index, 8 * count),), why="a large index")
        offsets = struct.unpack(f"<{count}Q", context.read(index, 8 * count))
        records = [
            Range(start, stop - start)
            for start, stop in zip(offsets, (*offsets[1:], index), strict=False)
            if HEADER.size <= start < stop <= index
        ]
        return Hints(ranges=(Range(index, 8 * count), *records), why=f"an index, then {count} records")

    def default_rules(self) -> str:
        return RULES

    def default_templates(self) -> str:
        return TEMPLATES
