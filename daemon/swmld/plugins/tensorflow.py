"""TensorFlow: SavedModel, TFRecord, checkpoints."""

from __future__ import annotations

import re
import struct

from swmld.plugins import tensor_bundle
from swmld.plugins.interface import API, NONE, Context, Hints
from swmld.plugins.parsing import Pieces, names, sequential, tolerant

_GZIP = b"\x1f\x8b"
_RECORDS = re.compile(r"\.tfrecords?([-._]\d+(-of-\d+)?)?(\.gz)?$")
_RECORD = struct.Struct("<QI")
_SAVED_MODEL = "saved_model.pb"
_VARIABLES = "variables/variables"
"""tensorflow/cc/saved_model/constants.h."""


def _crc32c(data: bytes) -> int:
    """Castagnoli's, reflected polynomial of RFC 3720, B.4; bit by bit, for eight bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _begins_record(head: bytes) -> bool:
    """A length, and its checksum rotated and shifted: lib/io/record_writer.h, lib/hash/crc32c.h of
    tensorflow/core."""
    if len(head) < _RECORD.size:
        return False
    length, checksum = _RECORD.unpack_from(head)
    crc = _crc32c(head[:8])
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return bool(masked == checksum and length < 1 << 40)


class TensorFlow:
    api = API
    libraries = (
        "/libtensorflow_framework[.]so",
        "/libtensorflow_cc[.]so",
        "/libtensorflow[.]so",
        "/_pywrap_tensorflow",
    )
    extensions = ()
    """None: records and data files are often named train-00000-of-01024."""

    def framework_name(self) -> str:
        return "tensorflow"

    def detect(self, path: str, head: bytes) -> float:
        name = path.rpartition("/")[2]
        if tensor_bundle.shard_of(name) is not None:
            return 0.8  # numbers without a header
        name = name.lower()
        if name == _SAVED_MODEL:
            # saved_model_schema_version is 1, then the first graph.
            return (0.95 if head.startswith(b"\x08\x01\x12") else 0.0) if head else 0.9
        if name.endswith(".index"):
            return (0.9 if tensor_bundle.begins_index(head) else 0.0) if head else 0.3
        named = _RECORDS.search(name) is not None
        if not head:
            return 0.7 if named else 0.0
        if _begins_record(head):
            return 0.95
        return 0.7 if named and head.startswith(_GZIP) else 0.0

    @tolerant
    def hints(self, context: Context) -> Hints:
        name = context.path.rpartition("/")[2]
        shard = tensor_bundle.shard_of(name)
        if shard is not None:
            prefix, number, count = shard
            files = names(tensor_bundle.data_files(prefix, count, number + 1))
            found = sequential(context, f"data file {number} of {count}", compressed=False)
            return Hints(whole=found.whole, files=files, compressed=False, again=found.again, why=found.why)
        pieces = Pieces(context)
        head = pieces.head()
        if name == _SAVED_MODEL and head.startswith(b"\x08\x01\x12"):
            files = (f"{_VARIABLES}.index", f"{_VARIABLES}.data-00000-of-00001")
            return Hints(whole=True, files=files, compressed=False, why="a graph, then its variables")
        if name.endswith(".index"):
            count = tensor_bundle.shards(pieces)
            files = names(tensor_bundle.data_files(name.removesuffix(".index"), count))
            return Hints(whole=True, files=files, why=f"an index of {count} data files")
        if head.startswith(_GZIP) and _RECORDS.search(name.lower()):
            return sequential(context, "records in gzip", compressed=True, sure=context.size)
        # Records have no index: there is no way but from start to end.
        if _begins_record(head):
            return sequential(context, "records one after the other", sure=context.size)
        return NONE

    def default_rules(self) -> str:
        return """\
- id: tensorflow_records
  name: TFRecord files
  description: Read once from start to end, and then the next; what was read makes room first.
  priority: -10
  conditions:
    - {type: file_context, property: file_framework, value: tensorflow}
    - {type: file_context, property: type, value: dataset}
  actions:
    - {type: prefetch, parameters: {shards: true, next_files: 4}}
    - {type: stream, parameters: {chunk_size: 8MiB, parallel_streams: 4, drop_behind: true}}
- id: tensorflow_checkpoints
  name: TensorFlow checkpoints
  description: The data files are fetched when the index is opened, once for all workers.
  priority: -10
  conditions:
    - {type: file_context, property: file_framework, value: tensorflow}
    - {type: file_context, property: type, value: checkpoint}
  actions:
    - {type: prefetch, parameters: {shards: true, whole_file: true}}
    - {type: coordinate, parameters: {mode: single_fetch}}
"""

    def default_templates(self) -> str:
        return """\
- id: tensorflow_models
  name: TensorFlow models and data
  category: training
  rules: [tensorflow_records, tensorflow_checkpoints, tensorflow_savedmodel_optimization]
"""
