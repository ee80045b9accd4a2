"""What was compiled once is loaded at the next start: without a compiler, the same maps, the same counts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import gates, kernel, posix
from support.kernel import load
from support.mount import Daemon
from support.probes import PAGE, Lab, Watched
from swmld.observe import kept, programs
from swmld.observe.compiled import Compiled, dump

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = 23


@pytest.fixture(autouse=True)
def _bpf() -> None:
    gates.require("bpf", "bpftool")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A state directory after a first start, and what the loader said."""
    gates.require("bpf")
    place = tmp_path_factory.mktemp("state")
    return place, load(place, "auto")


@pytest.fixture
def state(tmp_path: Path, first: tuple[Path, dict[str, Any]]) -> Path:
    """The same for one test; merged headers stay where they are."""
    shutil.copy2(first[0] / kept.NAME, tmp_path)
    return tmp_path


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Of two reports: they tell of the same probes."""
    parts = ("way", "tried", "missing", "headers", "descriptors")
    return [one[part] for part in parts] == [other[part] for part in parts]


def test_the_second_start_needs_no_compiler(
    first: tuple[Path, dict[str, Any]], base: Path, nothing_stays: None
) -> None:
    state, one = first
    assert (one["origin"], one["why"], one["unkept"]) == ("compiled", "nothing is kept yet", "")
    before = (state / kept.NAME).stat()
    two = load(state, "auto", **kernel.without_bcc(base))
    assert (two["origin"], two["why"], two["unkept"]) == ("kept", "", "")
    assert same(one, two)
    after = (state / kept.NAME).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "it was written again"


def test_set_up_by_make_the_first_start_finds_them(tmp_path: Path, nothing_stays: None) -> None:
    venv, state = tmp_path / "venv", tmp_path / "state"
    venv.mkdir()
    given = [f"VENV={venv}", f"STATE={state}", f"PYTHON={sys.executable}"]
    made = ["make", "-C", ROOT, "-o", venv / ".installed", *given, venv / ".probes"]
    subprocess.run(made, check=True, capture_output=True, timeout=120)
    assert load(state, "auto")["origin"] == "kept"


def test_what_is_kept_of_btf_is_of_no_use_elsewhere(state: Path) -> None:
    report = load(state, "tracepoint")
    assert (report["origin"], report["way"]) in (("compiled", "tracepoint"), ("", ""))


def test_changed_sources_are_compiled_anew(state: Path, base: Path) -> None:
    sources = shutil.copytree(programs.directory(), base / "bpf")
    elsewhere = kernel.python(
        base,
        "from pathlib import Path\nfrom swmld.observe import programs\n"
        f"programs.directory = lambda: Path({str(sources)!r})\n",
    )
    assert load(state, "btf", **elsewhere)["origin"] == "kept", "where they are is of no account"
    with (sources / "books.h").open("a") as file:
        file.write("/* more */\n")
    changed = load(state, "btf", **elsewhere)
    assert (changed["origin"], changed["why"]) == ("compiled", "the sources of the probes have changed")
    assert load(state, "btf", **elsewhere)["origin"] == "kept"


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def open_to_others(path: Path) -> None:
    path.chmod(0o606)


def given_away(path: Path) -> None:
    os.chown(path, 1234, -1)


def rewrite(change: Callable[[Compiled], Compiled]) -> Callable[[Path], None]:
    """Another content, with the right checksum."""

    def damage(path: Path) -> None:
        path.write_bytes(dump(change(kept.load(path.parent))))

    return damage


def without_a_program(one: Compiled) -> Compiled:
    return one._replace(
        programs={name: code for name, code in one.programs.items() if name != "sched_switch"}
    )


def with_a_program_that_only_ends(one: Compiled) -> Compiled:
    """The verifier wants a result first."""
    return one._replace(programs=one.programs | {"mm_filemap_fault": bytes([0x95, *bytes(7)])})


def with_fewer_maps(one: Compiled) -> Compiled:
    return one._replace(maps=one.maps[:-1])


def with_a_map_of_no_kind(one: Compiled) -> Compiled:
    return one._replace(maps=(*one.maps[:-1], one.maps[-1]._replace(kind=9999)))


def with_other_maps(one: Compiled) -> Compiled:
    return one._replace(maps=one.maps[::-1])


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (cut, "damaged"),
    (flip, "damaged"),
    (open_to_others, "others"),
    (given_away, "others"),
    (rewrite(without_a_program), "other programs"),
    (rewrite(with_a_program_that_only_ends), "mm_filemap_fault: the kernel refuses the program"),
    (rewrite(with_fewer_maps), "damaged"),
    (rewrite(with_a_map_of_no_kind), "Invalid argument"),
    (rewrite(with_other_maps), "damaged"),
]
_NAMES = [
    "cut", "flipped", "open_to_others", "given_away", "program_gone", "program_refused", "map_gone",
    "map_refused", "maps_mixed_up",
]  # fmt: skip


@pytest.mark.parametrize(("damage", "why"), DAMAGES, ids=_NAMES)
def test_what_is_damaged_is_compiled_anew_and_replaced(
    state: Path,
    first: tuple[Path, dict[str, Any]],
    damage: Callable[[Path], None],
    why: str,
    nothing_stays: None,
) -> None:
    good = kept.load(state)
    damage(state / kept.NAME)
    report = load(state, "btf")
    assert (report["origin"], report["unkept"]) == ("compiled", "")
    assert why in report["why"]
    assert same(first[1], report)
    assert kept.load(state)._replace(witnesses=good.witnesses) == good
    assert load(state, "btf")["origin"] == "kept"


def test_in_a_directory_of_others_nothing_is_kept(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for _ in range(2):
        report = load(tmp_path, "btf")
        assert (report["way"], report["origin"]) == ("btf", "compiled")
        assert "others" in report["why"]
        assert "others" in report["unkept"]
    assert not (tmp_path / kept.NAME).exists()


def made(ids: kernel.Ids) -> set[tuple[Any, ...]]:
    """Programs and maps as bpftool shows them, but for their numbers."""
    maps = {
        tuple(one.get(part) for part in ("name", "type", "bytes_key", "bytes_value", "max_entries", "flags"))
        for one in kernel.ask("map")
        if ("map", one["id"]) in ids
    }
    return maps | {
        (one["name"], one["type"], one["bytes_xlated"], len(one["map_ids"]))
        for one in kernel.ask("prog")
        if ("prog", one["id"]) in ids
    }


def test_counts_are_exact_and_maps_the_same(
    quick: Callable[..., Daemon], base: Path, monkeypatch: pytest.MonkeyPatch, nothing_stays: None
) -> None:
    daemon = quick()
    with daemon, Watched(daemon):
        compiled = made(kernel.held(daemon.pid))
        assert len(compiled) > 15
        assert "(compiled, since nothing is kept yet" in daemon.log_text()
    for name, value in kernel.without_bcc(base).items():
        monkeypatch.setenv(name, value)
    with daemon, Watched(daemon) as seen:
        assert seen.probe()["why"].startswith("from the state directory; headers: ")
        ids = kernel.held(daemon.pid)
        assert made(ids) == compiled
        lab = Lab(seen, "own")
        names = [str(number) for number in range(97)]
        lab.make("data", *names)
        posix.run(lambda: (lab / "data").read_bytes())
        with (lab / "data").open("rb", buffering=0) as file:
            while file.read(PAGE):
                pass
        for name in names:
            (lab / name).read_bytes()
        stream = lab.stream("data")
        assert (stream.reads, stream.pages, stream.sequential) == (BLOCKS, BLOCKS, BLOCKS - 1)
        assert seen.paths() == {f"own/{name}" for name in ["data", *names]}
        assert all(len(seen.stream(f"own/{name}").touches) >= 1 for name in names)
        assert seen.snapshot()["probe"]["lost"] == {"events": 0, "cursors": 0, "processes": 0}
    kernel.wait_gone(ids)


def test_killed_daemon_leaves_nothing(quick: Callable[..., Daemon], nothing_stays: None) -> None:
    daemon = quick()
    with daemon, Watched(daemon):
        pass
    with daemon:
        with Watched(daemon) as seen:
            assert "from the state directory" in seen.probe()["why"]
            ids = kernel.held(daemon.pid)
            assert {kind for kind, _ in ids} == set(kernel.KINDS)
        daemon.kill9()
        posix.umount(daemon.mount)
    kernel.wait_gone(ids)
