"""ONNX: a protobuf of a graph with its weights, or with the names of files that hold them.

Messages and field numbers: onnx/onnx.proto of onnx/onnx.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from swmld.plugins.interface import API, NONE, Context, Hints
from swmld.plugins.parsing import BROKEN, LONGEST, Pieces, names, sequential, tolerant
from swmld.plugins.protobuf import LENGTH, Message

_WEIGHTS = (".onnx.data", ".onnx_data")
"""How torch.onnx and optimum name the files of external data."""

_STEPS = 200_000
"""Fields that are looked at: of a graph of some 10,000 initializers, in some 0.3 s."""

_NEXT_TAGS = frozenset(b"\x12\x1a\x22\x28\x32\x3a\x42\x72")
"""Of ModelProto's fields 2 to 8 and 14 (metadata), one of which comes after the version."""


def _is_model(head: bytes) -> bool:
    """ir_version, a small number, comes first: field 1, a varint."""
    return len(head) > 2 and head[0] == 8 and 1 <= head[1] < 64 and head[2] in _NEXT_TAGS


def _locations(message: Message, start: int, end: int) -> Iterator[str]:
    """Of the graphs in ModelProto (field 7), their initializers (5) and of these the external data (13)."""
    for number, kind, at, stop in message.fields(start, end):
        if (number, kind) == (7, LENGTH):
            for inner, of, first, last in message.fields(at, stop):
                if (inner, of) == (5, LENGTH):
                    yield from _external(message, first, last)


def _external(message: Message, start: int, end: int) -> Iterator[str]:
    """TensorProto: StringStringEntryProto of the key (1) location; the value is 2."""
    for number, kind, at, stop in message.fields(start, end):
        if (number, kind) != (13, LENGTH):
            continue
        entry = {inner: (first, last) for inner, of, first, last in message.fields(at, stop) if of == LENGTH}
        if 1 in entry and 2 in entry and message.data[slice(*entry[1])] == b"location":
            yield message.text(*entry[2]).removeprefix("./")


class Onnx:
    api = API
    libraries = ("/libonnxruntime[.]so", "/onnxruntime_pybind11_state[.]", "/onnx_cpp2py_export[.]")
    extensions = (".onnx", *_WEIGHTS)

    def framework_name(self) -> str:
        return "onnx"

    def detect(self, path: str, head: bytes) -> float:
        if path.lower().endswith(_WEIGHTS):
            return 0.8  # numbers without a header
        if head:
            return 0.9 if _is_model(head) else 0.0
        return 0.8

    @tolerant
    def hints(self, context: Context) -> Hints:
        if context.path.lower().endswith(_WEIGHTS):
            return sequential(context, "weights of an ONNX model", compressed=False)
        pieces = Pieces(context)
        if not _is_model(pieces.head()):
            return NONE
        if context.size > LONGEST:
            # A graph whose weights are elsewhere is not as long.
            return Hints(whole=True, compressed=False, why="a graph with its weights")
        message = Message(pieces.head(LONGEST), _STEPS)
        found: list[str] = []
        with contextlib.suppress(*BROKEN):  # those so far
            for location in _locations(message, 0, context.size):
                found.append(location)
        files = names(found)
        why = f"a graph and {len(files)} files of weights" if files else "a graph with its weights"
        return Hints(whole=True, files=files, compressed=False, why=why)

    def default_rules(self) -> str:
        return """\
- id: onnx_models
  name: ONNX models
  description: A session reads a model whole, and once; nothing of it is read again until the next start.
  priority: -10
  conditions:
    - {type: file_context, property: file_framework, value: onnx}
  actions:
    - {type: prefetch, parameters: {whole_file: true}}
    - {type: stream, parameters: {chunk_size: 16MiB, parallel_streams: 4}}
    - {type: coordinate, parameters: {mode: single_fetch}}
- id: onnx_serving
  name: Models that are served
  description: A restarted session finds them in the cache.
  priority: -10
  conditions:
    - {type: workload_context, property: framework, value: onnx}
    - {type: file_context, property: type, value: model}
  actions:
    - {type: cache, parameters: {strategy: aggressive}}
"""

    def default_templates(self) -> str:
        return """\
- id: onnx_inference
  name: Inference by ONNX Runtime
  category: inference
  rules: [onnx_models, onnx_serving]
"""
