"""Offsets and ids from BTF: a file built here, whose answers are known, and the running kernel's own."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

import pytest
from swmld.errors import HostError
from swmld.observe import btf
from swmld.observe.btf import Btf

INT, POINTER, STRUCT, UNION, ENUM, TYPEDEF, CONST, FUNC, PROTOTYPE = 1, 2, 4, 5, 6, 8, 10, 12, 13


class Blob:
    """Writes BTF, after linux/btf.h. Types are numbered from 1 in the order in which they are added."""

    def __init__(self) -> None:
        self.types, self.strings, self.count = b"", b"\0", 0

    def name(self, name: str) -> int:
        at = len(self.strings) if name else 0
        self.strings += name.encode() + b"\0" if name else b""
        return at

    def add(
        self, name: str, kind: int, target: int, entries: int = 0, rest: bytes = b"", flag: int = 0
    ) -> int:
        info = flag << 31 | kind << 24 | entries
        self.types += struct.pack("=III", self.name(name), info, target) + rest
        self.count += 1
        return self.count

    def compound(
        self, name: str, kind: int, size: int, members: list[tuple[str, int, int]], flag: int = 0
    ) -> int:
        rest = b"".join(
            struct.pack("=III", self.name(title), number, where) for title, number, where in members
        )
        return self.add(name, kind, size, len(members), rest, flag)

    def prototype(self, *parameters: int) -> int:
        rest = b"".join(struct.pack("=II", 0, number) for number in parameters)
        return self.add("", PROTOTYPE, 0, len(parameters), rest)

    def write(self, path: Path) -> Path:
        header = struct.pack(
            "=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings)
        )
        path.write_bytes(header + self.types + self.strings)
        return path


@pytest.fixture
def kernel(tmp_path: Path) -> Btf:
    blob = Blob()
    number = blob.add("int", INT, 4, rest=struct.pack("=I", 32))
    pointer = blob.add("", POINTER, 0)
    inner = blob.compound("", STRUCT, 8, [("x", number, 0), ("deep", number, 32)])
    union = blob.compound("", UNION, 8, [("whole", pointer, 0), ("", inner, 0)])
    constant = blob.add("", CONST, union)
    blob.compound("node", STRUCT, 24, [("first", number, 0), ("", constant, 64), ("named", inner, 128)])
    blob.compound("bits", STRUCT, 8, [("low", number, 4 << 24 | 0), ("whole", number, 32)], flag=1)
    traced = blob.prototype(pointer, number, number)
    blob.add("btf_trace_it_happened", TYPEDEF, blob.add("", POINTER, traced))
    blob.add("plain", TYPEDEF, number)
    blob.add("do_it", FUNC, blob.prototype(number, pointer, pointer))
    named = b"".join(struct.pack("=Ii", blob.name(name), value) for name, value in (("low", -1), ("high", 6)))
    blob.add("flags", ENUM, 4, 2, named)
    return Btf.load(blob.write(tmp_path / "btf"))


@pytest.mark.parametrize(
    ("structure", "member", "offset"),
    [
        ("node", "first", 0),
        ("node", "whole", 8),
        ("node", "deep", 12),
        ("node", "named", 16),
        ("bits", "whole", 4),
    ],
)
def test_offsets_are_bytes_and_go_through_what_has_no_name(
    kernel: Btf, structure: str, member: str, offset: int
) -> None:
    assert kernel.offset(structure, member) == offset


@pytest.mark.parametrize(
    ("structure", "member", "says"),
    [("bits", "low", "bit field"), ("node", "gone", "no member gone"), ("gone", "x", "no struct gone")],
)
def test_what_has_no_offset_is_said(kernel: Btf, structure: str, member: str, says: str) -> None:
    with pytest.raises(HostError, match=says):
        kernel.offset(structure, member)


def test_typedefs_functions_and_their_arguments(kernel: Btf) -> None:
    assert kernel.typedef("btf_trace_it_happened") == 10
    assert kernel.func("do_it") == 13
    assert kernel.typedef("do_it") is kernel.func("btf_trace_it_happened") is None
    # A program gets neither the tracepoint's own first parameter nor anything of a type that is no function.
    assert kernel.params("btf_trace_it_happened") == 2
    assert kernel.params("do_it") == 3
    assert kernel.params("plain") is kernel.params("gone") is None


def test_values_of_an_enum(kernel: Btf) -> None:
    assert kernel.enumerator("flags", "low") == -1
    assert kernel.enumerator("flags", "high") == 6
    assert kernel.enumerator("flags", "gone") is kernel.enumerator("node", "first") is None


def test_a_file_that_is_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HostError, match="CONFIG_DEBUG_INFO_BTF"):
        Btf.load(tmp_path / "btf")
    (tmp_path / "btf").write_bytes(b"no BTF")
    with pytest.raises(HostError, match="libbpf cannot read it: "):
        Btf.load(tmp_path / "btf")
    assert capfd.readouterr().err == ""
    # What others let libbpf print to is as it was: setting it gives the one before.
    library = btf._library()
    others = ctypes.cast(ctypes.CFUNCTYPE(None)(lambda: None), ctypes.c_void_p).value
    printer = library.libbpf_set_print(others)
    with pytest.raises(HostError):
        Btf.load(tmp_path / "btf")
    assert library.libbpf_set_print(printer) == others


def test_without_libbpf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(btf, "LIBRARY", "libbpf-that-is-not-there.so")
    with pytest.raises(HostError, match="libbpf1"):
        Btf.load()


@pytest.mark.skipif(not btf.VMLINUX.exists(), reason="this kernel has no BTF")
def test_the_running_kernel() -> None:
    kernel = Btf.load()
    # A struct of two pointers for as long as there has been Linux.
    assert (kernel.offset("list_head", "next"), kernel.offset("list_head", "prev")) == (
        0,
        ctypes.sizeof(ctypes.c_void_p),
    )
    assert kernel.offset("inode", "i_ino") > 0
    assert kernel.offset("address_space", "host") >= 0
    assert kernel.params("btf_trace_sched_process_fork") == 2
    assert kernel.enumerator("pid_type", "PIDTYPE_PID") == 0
