"""Hugging Face: what lies in the hub's cache, indexes of models in shards, Arrow files of datasets."""

from __future__ import annotations

import re

from swmld.plugins import arrow_layout, pytorch, safetensors_layout, shard_index
from swmld.plugins.interface import API, NONE, Context, Hints
from swmld.plugins.parquet import Parquet
from swmld.plugins.parquet_layout import MAGIC
from swmld.plugins.parsing import LONGEST, Pieces, parts, sequential, tolerant

_HUB = re.compile(r"(^|/)(models|datasets|spaces)--[^/]+/(snapshots|blobs)/")
"""huggingface_hub, "Understand caching". Names in a snapshot are links to blobs, and a blob is named by
its hash: what is opened may have no other name."""

_INDEX = re.compile(r"\.(safetensors|bin)\.index\.json$")
_ARROW = (".arrow", ".feather")


def _arrow(context: Context) -> Hints:
    pieces = Pieces(context)
    if arrow_layout.is_stream(pieces.head()):
        return sequential(context, "record batches, a stream")
    footer, blocks = arrow_layout.blocks(pieces)
    why = f"a footer and {len(blocks)} record batches"
    return parts(context, footer, blocks, why)


class HuggingFace:
    api = API
    libraries = ("/tokenizers[.][^/]*[.]so", "/_safetensors_rust[.]", "/hf_xet[^/]*[.]so")
    extensions = ()
    """None: blobs are named by their hash."""

    def __init__(self) -> None:
        self._parquet = Parquet()

    def framework_name(self) -> str:
        return "huggingface"

    def detect(self, path: str, head: bytes) -> float:
        if _HUB.search(path):
            return 0.97 if not head or self._knows(head) else 0.6
        lower = path.lower()
        if _INDEX.search(lower):
            return 0.9 if not head or head.lstrip().startswith(b"{") else 0.0
        if lower.endswith(_ARROW):
            known = head.startswith(arrow_layout.FILE) or arrow_layout.is_stream(head)
            return (0.9 if known else 0.0) if head else 0.7
        return 0.0

    def _knows(self, head: bytes) -> bool:
        return (
            safetensors_layout.is_safetensors(head)
            or pytorch.is_torch_zip(head)
            or arrow_layout.is_stream(head)
            or head.startswith((arrow_layout.FILE, MAGIC))
        )

    @tolerant
    def hints(self, context: Context) -> Hints:
        pieces = Pieces(context)
        head = pieces.head()
        if _INDEX.search(context.path.lower()):
            files = shard_index.files(pieces.head(LONGEST))
            return Hints(whole=True, files=files, compressed=False, why=f"an index of {len(files)} shards")
        if head.startswith(arrow_layout.FILE) or arrow_layout.is_stream(head):
            return _arrow(context)
        if safetensors_layout.is_safetensors(head):
            return safetensors_layout.hints(context)
        if pytorch.is_torch_zip(head):
            return pytorch.torch_zip(context)
        if head.startswith(MAGIC):
            return self._parquet.hints(context)
        return NONE

    def default_rules(self) -> str:
        return """\
- id: huggingface_models
  name: Models of the hub
  description: The first shard that is opened brings the others; all are read whole.
  priority: -10
  conditions:
    - {type: file_context, property: file_framework, value: huggingface}
    - {type: file_context, property: format, value: safetensors}
  actions:
    - {type: prefetch, target: model, parameters: {shards: true, whole_file: true}}
    - {type: stream, parameters: {chunk_size: 16MiB, parallel_streams: 4}}
- id: huggingface_small_files
  name: Configuration and tokenizer
  description: What stands beside a model is small and read first; it is fetched together.
  priority: -10
  conditions:
    - {type: file_pattern, property: path, value: "*--*/snapshots/*"}
    - {type: file_context, property: size, operator: less_than, value: 32MiB}
  actions:
    - {type: prefetch, target: directory, parameters: {siblings: true}}
- id: huggingface_datasets
  name: Data sets as Arrow files
  description: They are mapped and read again in each epoch; they go last.
  priority: -10
  conditions:
    - {type: file_context, property: format, value: arrow}
  actions:
    - {type: cache, parameters: {strategy: aggressive}}
    - {type: prefetch, parameters: {shards: true}}
"""

    def default_templates(self) -> str:
        return """\
- id: huggingface_hub
  name: The hub's cache
  category: inference
  rules: [huggingface_models, huggingface_small_files, huggingface_datasets]
"""
