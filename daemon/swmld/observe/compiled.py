"""The probes as compiled, in a form that outlives the process: what a later start loads without a compiler.

    swmld-probes 1 <sha256 of all that follows the line>
    {"key": ..., "headers": ..., "witnesses": ..., "maps": ..., "programs": ..., "missing": ...}
    the instructions of all programs, one after another

A program names its maps by descriptors, which are others in each process: here by their places in ``maps``.
Pure: bytes in, values out. Whether a file may be trusted is asked in ``kept.py``.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

MAGIC = b"swmld-probes"
FORMAT = b"1"

# struct bpf_insn, include/uapi/linux/bpf.h: opcode, two registers of 4 bits, offset, constant.
_SIZE, _REGISTERS, _CONSTANT = 8, 1, 4
_SOURCE_SHIFT = 4 if sys.byteorder == "little" else 0
_WIDE = 0x18  # BPF_LD | BPF_IMM | BPF_DW: two instructions long
# What the constant of a wide one is, by its source register: BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE.
# BPF_PSEUDO_MAP_IDX and BPF_PSEUDO_MAP_IDX_VALUE refer to a table of descriptors that bpf(2) would need.
_BY_DESCRIPTOR, _BY_TABLE = (1, 2), (5, 6)

_U32 = 1 << 32

T = TypeVar("T")


class Unfit(Exception):
    """Nothing kept can be loaded, or nothing can be kept. ``str`` says why, for the report."""


class Map(NamedTuple):
    """As ``bpf_map_create`` wants it: type and flags as numbers of linux/bpf.h, sizes in bytes."""

    name: str
    kind: int
    key_size: int
    value_size: int
    entries: int
    flags: int


class Witness(NamedTuple):
    """A file that had a part in the outcome: another size or time, and it is to be compiled anew."""

    path: str
    size: int
    changed_ns: int


class Compiled(NamedTuple):
    """``programs``: instructions by tracepoint; ``missing``: those that the kernel did without."""

    key: dict[str, str]
    headers: str
    witnesses: tuple[Witness, ...]
    maps: tuple[Map, ...]
    programs: dict[str, bytes]
    missing: tuple[str, ...]


# ---- what it depends on

_CHANGED = {
    "kernel": "it was compiled for another kernel",
    "types": "the kernel's types have changed",
    "source": "the sources of the probes have changed",
    "defines": "the sizes of maps or the layout of the kernel's structs have changed",
}


def key(source: str, defines: Mapping[str, str], types: bytes, host: os.uname_result) -> dict[str, str]:
    """All that decides on the outcome but compiler and headers, which are witnesses.

    ``source``: with its own headers in it; ``types``: the kernel's BTF, 6 ms for its 5 MB.
    """
    return {
        "kernel": f"{host.release} {host.version} {host.machine}",
        "types": hashlib.sha256(types).hexdigest(),
        "source": hashlib.sha256(source.encode()).hexdigest(),
        "defines": hashlib.sha256(json.dumps(sorted(defines.items())).encode()).hexdigest(),
    }


def check(kept: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raises Unfit with the first thing that is another."""
    for part, why in _CHANGED.items():
        if kept.get(part) != wanted[part]:
            raise Unfit(why)


# ---- instructions


def maps_of(code: bytes) -> set[int]:
    """The descriptors, or places, of all maps that a program names."""
    return {_constant(code, at) for at in _references(code)}


def without_descriptors(code: bytes, places: Mapping[int, int]) -> bytes:
    """A program as it is kept; ``places`` by descriptor, of all its maps."""
    return _renumbered(code, places.__getitem__)


def with_descriptors(code: bytes, descriptors: list[int]) -> bytes:
    """A kept program as the kernel takes it. Raises Unfit if it names a map that is not there."""
    if any(not 0 <= place < len(descriptors) for place in maps_of(code)):
        raise Unfit("what is kept is damaged")
    return _renumbered(code, descriptors.__getitem__)


def _renumbered(code: bytes, number: Callable[[int], int]) -> bytes:
    out = bytearray(code)
    for at in _references(code):
        struct.pack_into("=i", out, at + _CONSTANT, number(_constant(code, at)))
    return bytes(out)


def _constant(code: bytes, at: int) -> int:
    found: int
    (found,) = struct.unpack_from("=i", code, at + _CONSTANT)
    return found


def _references(code: bytes) -> Iterator[int]:
    """Where instructions begin that name a map."""
    if not code or len(code) % _SIZE:
        raise Unfit("a program is cut off")
    opcodes = code[::_SIZE]
    place = opcodes.find(_WIDE)
    while place >= 0:
        if opcodes[place + 1 : place + 2] != b"\0":
            raise Unfit("a program is cut off")
        at = place * _SIZE
        kind = code[at + _REGISTERS] >> _SOURCE_SHIFT & 0xF
        if kind in _BY_TABLE:
            raise Unfit("a program names maps in a way that cannot be kept")
        if kind in _BY_DESCRIPTOR:
            yield at
        place = opcodes.find(_WIDE, place + 2)


# ---- as bytes


def dump(compiled: Compiled) -> bytes:
    """As ``parse`` reads it."""
    told = compiled._asdict() | {"programs": [[name, len(code)] for name, code in compiled.programs.items()]}
    body = b"\n".join((json.dumps(told).encode(), b"".join(compiled.programs.values())))
    return b"%b %b %b\n%b" % (MAGIC, FORMAT, _digest(body), body)


def parse(data: bytes) -> Compiled:
    """Raises Unfit for any bytes that ``dump`` has not made, nothing else."""
    line, _, body = data.partition(b"\n")
    fields = line.split(b" ")
    if fields[0] != MAGIC or len(fields) != 3:
        raise Unfit("what is kept is damaged")
    if fields[1] != FORMAT:
        raise Unfit("it was kept by another version of swmld")
    if fields[2] != _digest(body):
        raise Unfit("what is kept is damaged")
    head, _, code = body.partition(b"\n")
    try:
        told = json.loads(head)
    except (ValueError, RecursionError):
        raise Unfit("what is kept is damaged") from None
    told = _typed(dict, told)
    programs = [*_rows(told.get("programs"), (str, int))]
    if len({name for name, _ in programs}) < len(programs):
        raise Unfit("what is kept is damaged")
    return Compiled(
        key={name: _typed(str, value) for name, value in _typed(dict, told.get("key")).items()},
        headers=_typed(str, told.get("headers")),
        witnesses=tuple(Witness(*row) for row in _rows(told.get("witnesses"), (str, int, int))),
        maps=tuple(_map(row) for row in _rows(told.get("maps"), (str, int, int, int, int, int))),
        programs=dict(_cut(code, programs)),
        missing=tuple(_typed(str, name) for name in _typed(list, told.get("missing"))),
    )


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def _map(row: list[Any]) -> Map:
    if not row[0].isascii() or any(not 0 <= number < _U32 for number in row[1:]):
        raise Unfit("what is kept is damaged")
    return Map(*row)


def _cut(code: bytes, programs: Iterable[list[Any]]) -> Iterator[tuple[str, bytes]]:
    at = 0
    for name, length in programs:
        if length <= 0 or at + length > len(code):
            raise Unfit("what is kept is damaged")
        yield name, code[at : at + length]
        at += length
    if at != len(code):
        raise Unfit("what is kept is damaged")


def _rows(value: Any, kinds: tuple[type, ...]) -> Iterator[list[Any]]:
    return (_row(row, kinds) for row in _typed(list, value))


def _row(value: Any, kinds: tuple[type, ...]) -> list[Any]:
    row = _typed(list, value)
    if [type(field) for field in row] != [*kinds]:
        raise Unfit("what is kept is damaged")
    return row


def _typed(kind: type[T], value: Any) -> T:
    if type(value) is not kind:
        raise Unfit("what is kept is damaged")
    return value
