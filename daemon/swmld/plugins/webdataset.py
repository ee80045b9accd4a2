"""WebDataset: samples in tar archives, read from start to end."""

from __future__ import annotations

import re

from swmld.plugins.interface import API, NONE, Context, Hints
from swmld.plugins.parsing import Pieces, sequential, tolerant

_BLOCK = 512
_CHECKSUM = slice(148, 156)
_COMPRESSED = re.compile(r"\.(jpe?g|png|webp|gif|mp[34]|m4a|flac|ogg|opus|npz|gz|zst|xz|bz2)$", re.IGNORECASE)
_GZIP = b"\x1f\x8b"


def _number(field: bytes) -> int:
    """Octal digits, or 256 to its power in what GNU tar writes of large sizes. ValueError."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def _is_header(block: bytes) -> bool:
    """By its checksum: the sum of its bytes, those of the checksum taken as spaces (POSIX.1, pax, "ustar
    Interchange Format")."""
    if len(block) < _BLOCK or not block[0]:
        return False
    try:
        told = _number(block[_CHECKSUM])
    except ValueError:
        return False
    return told == sum(block) - sum(block[_CHECKSUM]) + 8 * 0x20


def _members(head: bytes) -> list[str]:
    """Names of the members whose headers are within ``head``."""
    found = []
    at = 0
    while _is_header(head[at : at + _BLOCK]):
        block = head[at : at + _BLOCK]
        found.append(block[:100].split(b"\0")[0].decode(errors="replace"))
        size = _number(block[124:136])
        if size < 0:
            break
        at += _BLOCK + -(-size // _BLOCK) * _BLOCK
    return found


class WebDataset:
    api = API
    libraries = ()
    """None: it is written in Python alone."""
    extensions = (".tar", ".tar.gz", ".tgz")

    def framework_name(self) -> str:
        return "webdataset"

    def detect(self, path: str, head: bytes) -> float:
        if head.startswith(_GZIP):
            return 0.0 if path.lower().endswith(".tar") else 0.6
        if not head:
            return 0.6
        return 0.9 if _is_header(head[:_BLOCK]) else 0.0

    @tolerant
    def hints(self, context: Context) -> Hints:
        """An archive has no directory: what is read of it in steps was looked up in an index elsewhere, and
        only that index says what comes next."""
        head = Pieces(context).head()
        if head.startswith(_GZIP):
            return sequential(context, "an archive in gzip", compressed=True, sure=context.size)
        if not _is_header(head[:_BLOCK]):
            return NONE
        compressed = True if any(map(_COMPRESSED.search, _members(head))) else None
        return sequential(context, "members in order", compressed=compressed, sure=context.size)

    def default_rules(self) -> str:
        return """\
- id: webdataset_shards
  name: Shards of samples in tar
  description: A shard is read whole and in order, then the next; several are read by as many workers.
  priority: -10
  conditions:
    - {type: file_context, property: format, value: tar}
    - {type: access_pattern, property: role, value: shards}
  actions:
    - {type: prefetch, parameters: {shards: true, next_files: 2, whole_file: true}}
    - {type: stream, parameters: {chunk_size: 8MiB, parallel_streams: 4, drop_behind: true}}
- id: webdataset_epochs
  name: Shards of an epoch larger than the cache
  description: What is held stays until the job ends, so that each epoch finds the same part of it.
  priority: -10
  conditions:
    - {type: file_context, property: format, value: tar}
    - {type: access_pattern, property: order, operator: in, value: [shuffled, groups]}
  actions:
    - {type: cache, parameters: {strategy: no_evict}}
"""

    def default_templates(self) -> str:
        return """\
- id: webdataset_training
  name: Training on tar archives
  category: training
  rules: [webdataset_shards, webdataset_epochs, dataset_parallel_loading]
"""
