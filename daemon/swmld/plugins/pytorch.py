"""PyTorch: what torch.save and torch.jit.save write (zip archives, pickles of old), and safetensors."""

from __future__ import annotations

import re

from swmld.plugins import safetensors_layout
from swmld.plugins.interface import API, NONE, Context, Hints
from swmld.plugins.parsing import Pieces, merged, sequential, span, tolerant
from swmld.plugins.zipfile_layout import Member, archive

ZIP = b"PK\x03\x04"
_OLD = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""MAGIC_NUMBER of torch/serialization.py as a pickle of protocol 2: torch.save before 1.6."""
_TORCH_ZIP = re.compile(
    rb"[^\0/]{1,200}/(?:data\.pkl|data/|version|code/|constants|byteorder|\.format_version)"
)
"""Names of first members: an archive's name, then what torch's PyTorchStreamWriter puts into it."""

_STORAGE = re.compile(r"(data|constants)/(\d{1,18})$")
_BY_NAME = {".pt": 0.7, ".pth": 0.7, ".safetensors": 0.7, ".ckpt": 0.4, ".bin": 0.2}


def is_torch_zip(head: bytes) -> bool:
    """By the name of its first member (at byte 30: APPNOTE 4.3.7)."""
    return head.startswith(ZIP) and _TORCH_ZIP.match(head[30:]) is not None


def torch_zip(context: Context) -> Hints:
    """The directory at the end, the small members, then the storages in the order in which torch.load meets
    them: their names are numbers in the order of the pickle. Malformed, OSError."""
    found = archive(Pieces(context))
    storages = [member.data.end for member in found.members if _STORAGE.search(member.name)]
    last = max(storages, default=found.directory.offset)
    # What was written after the storages (version and the like) is read together with the directory.
    members = sorted((member for member in found.members if member.data.offset < last), key=_reading)
    order = [span(last, context.size), *(member.data for member in members)]
    why = f"a directory, then {len(found.members)} members"
    return Hints(merged(order, context.size), compressed=found.compressed, why=why)


def _reading(member: Member) -> tuple[int, int, int]:
    """Small members first, as they lie; then storages of constants, then of data, by number."""
    storage = _STORAGE.search(member.name)
    if storage is None:
        return 0, 0, member.data.offset
    return 1 if storage[1] == "constants" else 2, int(storage[2]), member.data.offset


class PyTorch:
    api = API
    libraries = (
        "/libtorch_cpu[.]so",
        "/libtorch_python[.]so",
        "/libtorch[.]so",
        "/libc10[.]so",
    )
    extensions = tuple(_BY_NAME)

    def framework_name(self) -> str:
        return "pytorch"

    def detect(self, path: str, head: bytes) -> float:
        extension = "." + path.rpartition(".")[2].lower()
        if not head:
            return _BY_NAME.get(extension, 0.0)
        if is_torch_zip(head) or head.startswith(_OLD):
            return 0.95
        if safetensors_layout.is_safetensors(head):
            return 0.9
        # Anything pickled or zipped may be torch's where the name says so.
        return 0.6 if extension in (".pt", ".pth") and head.startswith((b"\x80", ZIP)) else 0.0

    @tolerant
    def hints(self, context: Context) -> Hints:
        head = Pieces(context).head()
        if head.startswith(ZIP):
            return torch_zip(context)
        if safetensors_layout.is_safetensors(head):
            return safetensors_layout.hints(context)
        if head.startswith(b"\x80"):
            return sequential(context, "one pickle and its storages", sure=context.size)
        return NONE

    def default_rules(self) -> str:
        return """\
- id: pytorch_checkpoints
  name: PyTorch checkpoints
  description: What torch.load reads comes in large pieces; its directory is fetched with the head.
  priority: -10
  conditions:
    - {type: file_context, property: file_framework, value: pytorch}
    - {type: file_context, property: type, operator: in, value: [model, checkpoint]}
  actions:
    - {type: prefetch, parameters: {header: 1MiB, footer: 1MiB}}
    - {type: stream, parameters: {chunk_size: 16MiB, parallel_streams: 4}}
- id: pytorch_loading
  name: A PyTorch model that is being loaded
  description: Its file comes before what is fetched ahead, once for all ranks.
  priority: -10
  conditions:
    - {type: workload_context, property: framework, value: pytorch}
    - {type: workload_context, property: phase, operator: in, value: [model load, checkpoint load]}
  actions:
    - {type: prioritize, parameters: {fetch_class: demand, priority: 50}}
    - {type: coordinate, parameters: {mode: single_fetch}}
"""

    def default_templates(self) -> str:
        return """\
- id: pytorch_models
  name: PyTorch models and checkpoints
  category: training
  rules: [pytorch_checkpoints, pytorch_loading, checkpoint_coordination]
"""
