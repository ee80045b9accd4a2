"""What the running kernel says of its own types, for programs that were compiled against other headers.

BTF is read by libbpf, the library that Debian's bcc brings along. Offsets are taken from it when the probes
are compiled; ids of the `btf_trace_` typedefs and of functions are what typed probes attach to.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import NamedTuple, Self

from swmld.errors import HostError

VMLINUX = Path("/sys/kernel/btf/vmlinux")
LIBRARY = "libbpf.so.1"

# linux/btf.h: BTF_KIND_*, and the layouts of struct btf_type, btf_member, btf_enum and btf_param.
_POINTER, _STRUCT, _UNION, _ENUM, _TYPEDEF = 2, 4, 5, 6, 8
_VOLATILE, _CONST, _RESTRICT, _FUNC, _PROTOTYPE = 9, 10, 11, 12, 13
_TRANSPARENT = {_TYPEDEF, _VOLATILE, _CONST, _RESTRICT}
_TYPE = struct.Struct("=III")
_MEMBER = struct.Struct("=III")
_ENUMERATOR = struct.Struct("=Ii")
_PARAMETERS_OF_TRACEPOINT = "btf_trace_"


class _Type(NamedTuple):
    address: int
    kind: int
    entries: int
    bitfields: bool  # members then hold their width in the upper 8 bits of the offset
    target: int  # the type referred to; of a struct: its size in bytes


class Btf:
    """Types of one kernel. Not thread-safe; the memory (some 10 MB) is freed with the object."""

    def __init__(self, library: ctypes.CDLL, handle: int, path: Path) -> None:
        self._lib = library
        self._handle = handle
        self._path = path

    @classmethod
    def load(cls, path: Path = VMLINUX) -> Self:
        """Read the BTF file, about 15 ms. Raises HostError if it or libbpf is missing or cannot be used."""
        library = _library()
        if not os.access(path, os.R_OK):
            raise HostError(f"{path}: not there: the kernel was built without CONFIG_DEBUG_INFO_BTF")
        # libbpf prints what it dislikes to stderr; here the HostError says it.
        printer = library.libbpf_set_print(None)
        try:
            handle = library.btf__parse(os.fsencode(path), None)
            error = ctypes.get_errno()
        finally:
            library.libbpf_set_print(printer)
        if not handle:
            raise HostError(f"{path}: libbpf cannot read it: {os.strerror(error)}")
        return cls(library, handle, path)

    def __del__(self) -> None:
        self._lib.btf__free(self._handle)

    def offset(self, structure: str, member: str) -> int:
        """Bytes from the start of a struct to its member, also one of an anonymous struct or union in it.

        Raises HostError if this kernel has no such struct or member, or if it is a bit field.
        """
        number = self._find(structure, _STRUCT)
        if number is None:
            raise HostError(f"this kernel has no struct {structure}")
        bits = self._member(number, member.encode())
        if bits is None:
            raise HostError(f"this kernel's struct {structure} has no member {member}")
        if bits % 8:
            raise HostError(f"this kernel's {structure}.{member} is a bit field")
        return bits // 8

    def enumerator(self, enum: str, name: str) -> int | None:
        """Value of a name of an enum, None if this kernel has no such enum or name."""
        number = self._find(enum, _ENUM)
        if number is None:
            return None
        found = self._type(number)
        raw = ctypes.string_at(found.address, found.entries * _ENUMERATOR.size)
        title: int
        value: int
        for title, value in _ENUMERATOR.iter_unpack(raw):
            if self._lib.btf__name_by_offset(self._handle, title) == name.encode():
                return value
        return None

    def typedef(self, name: str) -> int | None:
        """Id of a typedef, None if there is none: a tracepoint that is not there, or has no type."""
        return self._find(name, _TYPEDEF)

    def func(self, name: str) -> int | None:
        """Id of a function that the kernel did not inline away everywhere, None if there is none."""
        return self._find(name, _FUNC)

    def params(self, name: str) -> int | None:
        """How many arguments a program gets of a function or of a ``btf_trace_`` typedef, None if neither.

        A tracepoint's prototype begins with the kernel's own ``void *__data``, which is not counted: programs
        do not get it.
        """
        number = self._find(name, _TYPEDEF) or self._find(name, _FUNC)
        while number:
            found = self._type(number)
            if found.kind == _PROTOTYPE:
                return found.entries - name.startswith(_PARAMETERS_OF_TRACEPOINT)
            if found.kind not in (_TRANSPARENT | {_POINTER, _FUNC}):
                break
            number = found.target
        return None

    def _find(self, name: str, kind: int) -> int | None:
        number = int(self._lib.btf__find_by_name_kind(self._handle, name.encode(), kind))
        return number if number > 0 else None

    def _type(self, number: int) -> _Type:
        address = self._lib.btf__type_by_id(self._handle, number)
        if not address:
            raise HostError(f"{self._path}: refers to type {number}, which is not there")
        _, info, target = _TYPE.unpack(ctypes.string_at(address, _TYPE.size))
        return _Type(address + _TYPE.size, info >> 24 & 0x1F, info & 0xFFFF, bool(info >> 31), target)

    def _member(self, number: int, name: bytes) -> int | None:
        """Bits from the start of a struct or union to a member; a bit field never gives a multiple of 8."""
        found = self._type(number)
        while found.kind in _TRANSPARENT:
            found = self._type(found.target)
        if found.kind not in (_STRUCT, _UNION):
            return None
        raw = ctypes.string_at(found.address, found.entries * _MEMBER.size)
        title: int
        member: int
        where: int
        for title, member, where in _MEMBER.iter_unpack(raw):
            bits, width = (where & 0xFFFFFF, where >> 24) if found.bitfields else (where, 0)
            if title and self._lib.btf__name_by_offset(self._handle, title) == name:
                return bits | 1 if width else bits
            if not title and not width:
                inner = self._member(member, name)
                if inner is not None:
                    return bits + inner
        return None


def _library() -> ctypes.CDLL:
    """libbpf with the types of the functions used here. Raises HostError if it is not installed."""
    try:
        library = ctypes.CDLL(LIBRARY, use_errno=True)
    except OSError:
        raise HostError(f"{LIBRARY} is not installed (Debian: apt-get install libbpf1)") from None
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32
    library.libbpf_set_print.argtypes, library.libbpf_set_print.restype = [pointer], pointer
    library.btf__parse.argtypes, library.btf__parse.restype = [text, pointer], pointer
    library.btf__free.argtypes, library.btf__free.restype = [pointer], None
    library.btf__find_by_name_kind.argtypes = [pointer, text, number]
    library.btf__find_by_name_kind.restype = ctypes.c_int32
    library.btf__type_by_id.argtypes, library.btf__type_by_id.restype = [pointer, number], pointer
    library.btf__name_by_offset.argtypes, library.btf__name_by_offset.restype = [pointer, number], text
    return library
