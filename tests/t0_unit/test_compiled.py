"""Compiled probes as bytes: what is written is read, all else is refused; and whose file it may be."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swmld.observe import compiled, kept
from swmld.observe.compiled import Compiled, Map, Unfit, Witness


def insn(opcode: int, source: int = 0, constant: int = 0) -> bytes:
    """struct bpf_insn, on a machine of either byte order."""
    return struct.pack("=BBhi", opcode, source << compiled._SOURCE_SHIFT, 0, constant)


def wide(source: int, constant: int, second: int = 0) -> bytes:
    return insn(0x18, source, constant) + insn(0, 0, second)


MOVE, EXIT = insn(0xB7), insn(0x95)
HOST = os.uname_result(("Linux", "box", "6.99.0", "#1 SMP", "x86_64"))
KEY = compiled.key("int f;", {"A": "1"}, b"types", HOST)
CODE = wide(1, 0) + wide(2, 1, 24) + EXIT
ONE = Compiled(
    key=KEY,
    headers="the running kernel's own",
    witnesses=(Witness("/usr/lib/libbcc.so.0", 3, 1_700_000_000_000_000_001),),
    maps=(Map("config", 2, 4, 48, 1, 0), Map("watched", 1, 16, 8, 524288, 1)),
    programs={"sched_switch": CODE, "page_cache_sync_ra": MOVE + EXIT},
    missing=("iomap_dio_rw_begin",),
)


# ---- instructions


@pytest.mark.parametrize(
    ("code", "maps"),
    [
        (MOVE + EXIT, set()),
        (wide(1, 7) + EXIT, {7}),
        (wide(1, 7) + wide(1, 9) + wide(1, 7) + EXIT, {7, 9}),
        (wide(2, 7, 24) + EXIT, {7}),
        (wide(0, 7) + EXIT, set()),  # a number of 64 bits
        (wide(3, 7) + EXIT, set()),  # BPF_PSEUDO_BTF_ID
        (insn(0x61, 1, 7) + EXIT, set()),  # a load by a register that is 1
        (insn(0xB7, 0, 0x18) + EXIT, set()),
    ],
)
def test_which_maps_a_program_names(code: bytes, maps: set[int]) -> None:
    assert compiled.maps_of(code) == maps


def test_descriptors_become_places_and_others_descriptors() -> None:
    code = MOVE + wide(1, 31) + wide(0, 31) + wide(2, 17, 24) + wide(1, 31) + EXIT
    placed = compiled.without_descriptors(code, {17: 0, 31: 1})
    assert placed == MOVE + wide(1, 1) + wide(0, 31) + wide(2, 0, 24) + wide(1, 1) + EXIT
    assert compiled.with_descriptors(placed, [17, 31]) == code
    assert compiled.with_descriptors(placed, [5, 6]) == (
        MOVE + wide(1, 6) + wide(0, 31) + wide(2, 5, 24) + wide(1, 6) + EXIT
    )


@pytest.mark.parametrize(
    "code",
    [
        b"",
        EXIT[:-1],
        insn(0x18, 1),  # its second half is missing
        insn(0x18, 1) + EXIT,  # and here another instruction
        wide(5, 0) + EXIT,
        wide(6, 0) + EXIT,
    ],
)
def test_programs_that_cannot_be_kept(code: bytes) -> None:
    with pytest.raises(Unfit):
        compiled.maps_of(code)


@pytest.mark.parametrize("place", [-1, 2])
def test_a_map_that_is_not_there(place: int) -> None:
    with pytest.raises(Unfit, match="damaged"):
        compiled.with_descriptors(wide(1, place) + EXIT, [5, 6])


parts = st.one_of(
    st.builds(wide, st.sampled_from([0, 1, 2, 3, 4]), st.integers(0, 4), st.integers(0, 99)),
    st.builds(insn, st.integers(0, 255).filter(lambda opcode: opcode != 0x18), st.integers(0, 15)),
)


@given(st.lists(parts, min_size=1), st.permutations([7, 11, 13, 17, 19]))
def test_all_descriptors_and_nothing_else_is_changed(code: list[bytes], fds: list[int]) -> None:
    placed = b"".join(code)
    linked = compiled.with_descriptors(placed, fds)
    assert compiled.without_descriptors(linked, {fd: place for place, fd in enumerate(fds)}) == placed
    for before, after in zip(
        struct.iter_unpack("=BBhi", placed), struct.iter_unpack("=BBhi", linked), strict=True
    ):
        assert before[:3] == after[:3]
    assert compiled.maps_of(linked) == {fds[place] for place in compiled.maps_of(placed)}


@given(st.binary(max_size=200))
def test_no_bytes_are_more_than_unfit(code: bytes) -> None:
    with contextlib.suppress(Unfit):
        assert len(compiled.with_descriptors(code, [3, 4, 5])) == len(code)


# ---- what it depends on


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (compiled.key("int f;", {"A": "1"}, b"types", HOST), ""),
        (compiled.key("int g;", {"A": "1"}, b"types", HOST), "sources"),
        (compiled.key("int f;", {"A": "2"}, b"types", HOST), "layout"),
        (compiled.key("int f;", {"A": "1", "B": ""}, b"types", HOST), "layout"),
        (compiled.key("int f;", {"A": "1"}, b"typez", HOST), "types"),
        *(
            (compiled.key("int f;", {"A": "1"}, b"types", os.uname_result(host)), "another kernel")
            for host in (
                ("Linux", "box", "6.99.1", "#1 SMP", "x86_64"),
                ("Linux", "box", "6.99.0", "#2 SMP", "x86_64"),
                ("Linux", "box", "6.99.0", "#1 SMP", "aarch64"),
            )
        ),
        (compiled.key("int f;", {"A": "1"}, b"types", os.uname_result(("Linux", "tub", *HOST[2:]))), ""),
    ],
)
def test_what_makes_it_another(other: dict[str, str], why: str) -> None:
    if not why:
        compiled.check(other, KEY)
        return
    with pytest.raises(Unfit, match=why):
        compiled.check(other, KEY)


def test_the_order_of_definitions_is_of_no_account() -> None:
    a, b = {"A": "1", "B": "2"}, {"B": "2", "A": "1"}
    assert compiled.key("", a, b"", HOST) == compiled.key("", b, b"", HOST)


@pytest.mark.parametrize("part", [*KEY])
def test_a_key_that_lacks_something(part: str) -> None:
    with pytest.raises(Unfit):
        compiled.check({name: value for name, value in KEY.items() if name != part}, KEY)


# ---- as bytes


names = st.text(st.characters(codec="ascii"), max_size=15)
numbers = st.integers(0, 2**32 - 1)
wholes = st.builds(
    Compiled,
    key=st.dictionaries(names, st.text(), max_size=4),
    headers=st.text(),
    witnesses=st.lists(st.builds(Witness, st.text(), st.integers(0), st.integers())).map(tuple),
    maps=st.lists(st.builds(Map, names, *[numbers] * 5)).map(tuple),
    programs=st.dictionaries(names, st.binary(min_size=1)),
    missing=st.lists(names).map(tuple),
)


@given(wholes)
def test_what_is_written_is_read(whole: Compiled) -> None:
    assert compiled.parse(compiled.dump(whole)) == whole


DATA = compiled.dump(ONE)


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_any_changed_byte_is_noticed(at: int, change: int) -> None:
    damaged = bytearray(DATA)
    damaged[at] ^= change
    with pytest.raises(Unfit):
        compiled.parse(bytes(damaged))


def test_any_missing_end_is_noticed() -> None:
    for length in range(len(DATA)):
        with pytest.raises(Unfit):
            compiled.parse(DATA[:length])


@given(st.binary(min_size=1))
def test_anything_more_is_noticed(more: bytes) -> None:
    with pytest.raises(Unfit):
        compiled.parse(DATA + more)


@given(st.binary())
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Unfit):
        compiled.parse(data)


def test_another_format_is_said_to_be_one() -> None:
    with pytest.raises(Unfit, match="another version"):
        compiled.parse(DATA.replace(b"swmld-probes 1 ", b"swmld-probes 2 ", 1))


def signed(head: Any, code: bytes = b"") -> bytes:
    """Anything at all with the right checksum."""
    body = (head if isinstance(head, bytes) else json.dumps(head).encode()) + b"\n" + code
    return b"swmld-probes 1 %b\n%b" % (hashlib.sha256(body).hexdigest().encode(), body)


TOLD: dict[str, Any] = json.loads(DATA.split(b"\n")[1])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


def test_this_is_how_it_is_signed() -> None:
    assert signed(TOLD, CODE + MOVE + EXIT) == DATA


@given(st.sampled_from([*TOLD]), values)
def test_with_the_right_checksum_each_field_must_still_be_one(field: str, value: Any) -> None:
    try:
        found = compiled.parse(signed(TOLD | {field: value}, CODE + MOVE + EXIT))
    except Unfit:
        return
    assert json.loads(compiled.dump(found).split(b"\n")[1]) == TOLD | {field: value}


@pytest.mark.parametrize(
    "data",
    [
        *(signed({name: TOLD[name] for name in TOLD if name != gone}, CODE + MOVE + EXIT) for gone in TOLD),
        signed(TOLD | {"programs": [["a", 8], ["b", -8], ["c", 56]]}, CODE + MOVE + EXIT),
        signed(TOLD | {"programs": [["a", True], ["b", 55]]}, CODE + MOVE + EXIT),
        signed(TOLD | {"programs": [["a", 56], ["b", 0]]}, CODE + MOVE + EXIT),
        signed(TOLD | {"programs": [["a", 48]]}, CODE + MOVE + EXIT),
        signed(TOLD | {"programs": [["a", 64]]}, CODE + MOVE + EXIT),
        signed(TOLD | {"programs": [["a", 28], ["a", 28]]}, CODE + MOVE + EXIT),
        signed(TOLD | {"maps": [["config", 2, 4, 48, -1, 0]]}, CODE + MOVE + EXIT),
        signed(TOLD | {"maps": [["config", 2, 4, 48, 2**32, 0]]}, CODE + MOVE + EXIT),
        signed(TOLD | {"maps": [["\ud800", 2, 4, 48, 1, 0]]}, CODE + MOVE + EXIT),
        signed(TOLD | {"maps": [["config", 2, 4, 48, 1]]}, CODE + MOVE + EXIT),
        signed(b"[" * 100_000),
        signed(b"\xff"),
        signed(b"1" * 5000),
        signed([]),
    ],
)  # fmt: skip
def test_with_the_right_checksum_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(Unfit):
        compiled.parse(data)


# ---- the file


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "state"


@pytest.fixture
def one(tmp_path: Path) -> Compiled:
    witness = tmp_path / "compiler"
    witness.write_text("of machines")
    return ONE._replace(witnesses=kept.witnesses([witness]))


def refused(state: Path) -> str:
    with pytest.raises(Unfit) as error:
        kept.load(state)
    return str(error.value)


def test_what_is_saved_is_loaded(state: Path, one: Compiled) -> None:
    old = os.umask(0)
    try:
        kept.save(state, one)
    finally:
        os.umask(old)
    assert kept.load(state) == one
    assert os.listdir(state) == [kept.NAME]
    assert ((state / kept.NAME).stat().st_mode & 0o777, state.stat().st_mode & 0o777) == (0o600, 0o755)
    other = one._replace(headers="others")
    kept.save(state, other)
    assert kept.load(state) == other
    assert os.listdir(state) == [kept.NAME]


def test_what_a_killed_process_left_is_no_hindrance(state: Path, one: Compiled) -> None:
    state.mkdir(parents=True)
    (state / kept._MAKING).write_text("half of")
    kept.save(state, one)
    assert os.listdir(state) == [kept.NAME]


def test_nothing_there(state: Path) -> None:
    assert refused(state) == "nothing is kept yet"
    state.mkdir(parents=True)
    assert refused(state) == "nothing is kept yet"


def test_a_file_that_was_cut_off(state: Path, one: Compiled) -> None:
    kept.save(state, one)
    os.truncate(state / kept.NAME, 0)
    assert "damaged" in refused(state)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_write(state: Path, one: Compiled, mode: int) -> None:
    kept.save(state, one)
    (state / kept.NAME).chmod(mode)
    assert "others" in refused(state)
    kept.save(state, one)
    assert kept.load(state) == one, "it was not replaced"


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_directory_that_others_write(state: Path, one: Compiled, mode: int) -> None:
    kept.save(state, one)
    state.chmod(mode)
    assert "others" in refused(state)
    with pytest.raises(Unfit, match="others"):
        kept.save(state, one)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("whose", ["file", "directory"])
def test_what_belongs_to_others(state: Path, one: Compiled, whose: str) -> None:
    kept.save(state, one)
    os.chown(state / kept.NAME if whose == "file" else state, 1234, -1)
    assert "others" in refused(state)


def test_what_is_no_file(state: Path, one: Compiled, tmp_path: Path) -> None:
    kept.save(state, one)
    elsewhere = (state / kept.NAME).rename(tmp_path / "elsewhere")
    (state / kept.NAME).symlink_to(elsewhere)
    assert kept.NAME in refused(state)
    (state / kept.NAME).unlink()
    os.mkfifo(state / kept.NAME, 0o600)
    assert "damaged" in refused(state)  # and nobody waits for a writer
    (state / kept.NAME).unlink()
    with (state / kept.NAME).open("wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.truncate(kept.LIMIT + 1)
    assert "damaged" in refused(state)
    kept.save(state, one)
    assert kept.load(state) == one


def test_a_directory_that_is_a_file(state: Path, one: Compiled) -> None:
    state.parent.write_text("a file")
    assert "Not a directory" in refused(state)
    with pytest.raises(Unfit, match="Not a directory"):
        kept.save(state, one)


def test_another_process_is_writing(state: Path, one: Compiled) -> None:
    kept.save(state, one)
    lock = os.open(state, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Unfit, match="another process"):
            kept.save(state, one)
        assert kept.load(state) == one
    finally:
        os.close(lock)


@pytest.mark.parametrize("change", ["newer", "longer", "gone"])
def test_a_witness_that_changed(state: Path, one: Compiled, tmp_path: Path, change: str) -> None:
    kept.save(state, one)
    witness = tmp_path / "compiler"
    before = witness.stat()
    if change == "newer":
        os.utime(witness, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    elif change == "longer":
        witness.write_text("of machines, longer")
        os.utime(witness, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        witness.unlink()
    assert refused(state) == f"the compiler or its headers have changed: {witness}"


def test_witnesses_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(Unfit):
        kept.witnesses([])
    with pytest.raises(Unfit, match="gone"):
        kept.witnesses([tmp_path, tmp_path / "gone"])
    assert kept.seen("with a \0 in it") == Witness("with a \0 in it", -1, -1)
