"""Directories of a filer as they are listed: pages that C answers from, and what the kernel keeps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.mount import Daemon, total
from support.pages import forget
from support.posix import getdents
from support.seaweed import Cluster

SEEN_SECONDS = 30.0
"""A change is promised within two; a loaded machine under test gets more before it counts as never."""

MANY = 12_000
"""A first page, one of the next size, and some."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def many(cluster: Cluster) -> list[str]:
    names = [f"f{number:06d}" for number in range(MANY)]
    cluster.fill("/many", names)
    return names


def until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SEEN_SECONDS
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def mounted(base: Path, cluster: Cluster, below: str, *options: str) -> Daemon:
    base.mkdir(exist_ok=True)
    url = f"seaweedfs://127.0.0.1:{cluster.filer}/{below}"
    return Daemon(base, "passthrough", source=None, options=["--source", url, *options])


def told(daemon: Daemon) -> None:
    until(lambda: "tells of its changes" in daemon.log_text(), "the filer is listened to")


def sizes(directory: Path) -> dict[str, int]:
    with os.scandir(directory) as found:
        return {entry.name: entry.stat(follow_symlinks=False).st_size for entry in found}


def test_all_names_with_their_attributes(base: Path, cluster: Cluster, many: list[str]) -> None:
    expected = {name: number % 7 for number, name in enumerate(many)}
    with mounted(base / "own", cluster, "") as daemon:
        directory = daemon.mount / "many"
        told(daemon)
        for _ in range(3):
            assert os.listdir(directory) == many
            assert sizes(directory) == expected
        assert len(os.listdir(daemon.mount)) == len(set(os.listdir(daemon.mount)))
        for name in (many[0], many[1500], many[-1]):
            assert (directory / name).read_bytes() == b"x" * expected[name]
    with mounted(base / "own", cluster, "") as daemon:  # with nothing in memory, and what is cached
        assert sizes(daemon.mount / "many") == expected
        assert (daemon.mount / "many" / many[1500]).read_bytes() == b"x" * expected[many[1500]]


@pytest.mark.parametrize("size", [600, 4000, 40_000, 400_000])
def test_positions_lead_back(base: Path, cluster: Cluster, many: list[str], size: int) -> None:
    """telldir(3), seekdir(3) and rewinddir(3), over the borders of pages, backwards too."""
    with mounted(base / "own", cluster, "many") as daemon:
        fd = os.open(daemon.mount, os.O_RDONLY | os.O_DIRECTORY)
        try:
            places: dict[int, bytes] = {}
            position = 0
            while True:
                found = getdents(fd, size)
                if not found:
                    break
                for entry in found:
                    places[position] = entry.name
                    position = entry.offset
            assert [name.decode() for name in places.values()] == [".", "..", *many]
            known = list(places)
            for step in (1, 2, 900, 1003, 3000, 9195, len(known) - 1):
                for at in {step, len(known) - step}:
                    os.lseek(fd, known[at], os.SEEK_SET)
                    assert getdents(fd, size)[0].name == places[known[at]], at
            os.lseek(fd, 0, os.SEEK_SET)
            assert getdents(fd, size)[0].name == b"."
        finally:
            os.close(fd)


def changes(
    cluster: Cluster, mount: Path, path: str
) -> Iterator[tuple[str, Callable[[], object], set[str], set[str]]]:
    """What is done to a directory by us and by another client, and the names that come and go by it."""
    yield "made here", lambda: (mount / "n1").write_bytes(b"new"), {"n1"}, set()
    yield "removed here", lambda: (mount / "f000003").unlink(), set(), {"f000003"}
    yield "renamed here", lambda: (mount / "f000004").rename(mount / "n2"), {"n2"}, {"f000004"}
    yield "directory made here", lambda: (mount / "n3").mkdir(), {"n3"}, set()
    yield "directory removed here", lambda: (mount / "n3").rmdir(), set(), {"n3"}
    yield "symlink made here", lambda: (mount / "n4").symlink_to("n1"), {"n4"}, set()
    yield "made there", lambda: cluster.put(f"{path}/n5", b"there"), {"n5"}, set()
    yield "removed there", lambda: cluster.delete(f"{path}/f000005"), set(), {"f000005"}
    yield (
        "directory made there",
        lambda: cluster.create(path, "n6", mode=1 << 31 | 0o755, is_directory=True),
        {"n6"},
        set(),
    )
    yield "renamed there", lambda: cluster.call(
        "AtomicRenameEntry", old_directory=path, old_name="f000006", new_directory=path, new_name="n7"
    ), {"n7"}, {"f000006"}  # fmt: skip


def test_what_the_kernel_keeps_goes_with_each_change(base: Path, cluster: Cluster) -> None:
    path = f"/{base.name}"  # the next attempt has another
    cluster.fill(path, [f"f{number:06d}" for number in range(50)])
    with mounted(base / "own", cluster, base.name) as daemon:
        told(daemon)
        names = set(os.listdir(daemon.mount))
        for what, change, come, go in changes(cluster, daemon.mount, path):
            for _ in range(3):  # read into the kernel, and from there
                assert set(os.listdir(daemon.mount)) == names, what
            names = names - go | come
            change()
            if what.endswith(" here"):
                assert set(os.listdir(daemon.mount)) == names, what
            else:
                until(lambda: set(os.listdir(daemon.mount)) == names, what)  # noqa: B023
            assert set(sizes(daemon.mount)) == names, what
        cluster.put(f"{path}/f000001", b"a longer one")
        until(lambda: sizes(daemon.mount)["f000001"] == 12, "a file that is replaced there")
        assert (daemon.mount / "f000001").read_bytes() == b"a longer one"
        (daemon.mount / "f000002").write_bytes(b"written here")
        assert sizes(daemon.mount)["f000002"] == 12


def test_rewinding_shows_what_has_changed(base: Path, cluster: Cluster) -> None:
    cluster.fill("/rewound", [f"f{number:06d}" for number in range(1500)])
    with mounted(base / "own", cluster, "rewound") as daemon:
        told(daemon)
        fd = os.open(daemon.mount, os.O_RDONLY | os.O_DIRECTORY)
        try:

            def names() -> set[bytes]:
                os.lseek(fd, 0, os.SEEK_SET)
                found: set[bytes] = set()
                while part := getdents(fd, 40_000):
                    found |= {entry.name for entry in part}
                return found

            assert len(names()) == len(names()) == 1502
            (daemon.mount / "new").write_bytes(b"")
            assert b"new" in names()
            cluster.delete("/rewound/f000007")
            until(lambda: b"f000007" not in names(), "what is removed there")
        finally:
            os.close(fd)


def test_a_directory_that_changes_while_it_is_read(base: Path, cluster: Cluster) -> None:
    """What is there all the time is there once; attributes are those of now, whatever a page said."""
    names = [f"f{number:06d}" for number in range(3000)]
    cluster.fill("/moving", names)
    with mounted(base / "own", cluster, "moving") as daemon:
        told(daemon)
        fd = os.open(daemon.mount, os.O_RDONLY | os.O_DIRECTORY)
        seen: list[str] = []
        turns = 0
        try:
            while part := getdents(fd, 30_000):
                seen += [entry.name.decode() for entry in part]
                if turns < 12:
                    turns += 1
                    (daemon.mount / f"f{2_800 + turns:06d}").write_bytes(b"longer than before")
                    cluster.put(f"/moving/f{2_900 + turns:06d}", b"longer than before")
                    (daemon.mount / f"a{turns}").write_bytes(b"")
                    os.unlink(daemon.mount / f"f{turns:06d}")
                    cluster.delete(f"/moving/f{200 + turns:06d}")
        finally:
            os.close(fd)
        assert turns > 3
        gone = {f"f{more + turn:06d}" for turn in range(1, turns + 1) for more in (0, 200)}
        stayed = [name for name in names if name not in gone]
        assert [name for name in seen if name in set(stayed)] == stayed
        expected = set(stayed) | {f"a{turn}" for turn in range(1, turns + 1)}
        until(lambda: set(os.listdir(daemon.mount)) == expected, "the names of now")
        replaced = [f"f{2_900 + turn:06d}" for turn in range(1, turns + 1)]
        until(lambda: {sizes(daemon.mount)[name] for name in replaced} == {18}, "what was replaced there")
        found = sizes(daemon.mount)
        assert {found[f"f{2_800 + turn:06d}"] for turn in range(1, turns + 1)} == {18}
        assert (daemon.mount / replaced[0]).read_bytes() == b"longer than before"


def test_a_change_between_two_answers_is_seen_in_the_attributes(base: Path, cluster: Cluster) -> None:
    """C has the page that says otherwise, and the reader has not come to it yet."""
    names = [f"f{number:06d}" for number in range(900)]
    cluster.fill("/between", names)
    with mounted(base / "own", cluster, "between") as daemon:
        told(daemon)
        found: dict[str, int] = {}
        fd = os.open(daemon.mount, os.O_RDONLY | os.O_DIRECTORY)
        try:
            while part := getdents(fd, 2000):
                # Who asks for attributes gets them with the names from then on.
                found |= {
                    entry.name.decode(): (daemon.mount / entry.name.decode()).stat().st_size for entry in part
                }
                if len(found) < 300 and "zz" not in found:
                    cluster.put("/between/f000800", b"replaced there")
                    cluster.put("/between/zz", b"")
                    until(lambda: (daemon.mount / "zz").exists(), "the changes are told")
                    found["zz"] = 0
        finally:
            os.close(fd)
        assert set(names) < set(found)
        assert found["f000800"] == 14
        assert (daemon.mount / "f000800").read_bytes() == b"replaced there"


def test_what_is_unusual_is_listed_as_well(base: Path, cluster: Cluster) -> None:
    """A page with entries that C does not read: Python does."""
    cluster.fill("/mixed", [f"f{number:06d}" for number in range(1100)])
    cluster.create("/mixed", "f000500-link", mode=1 << 27 | 0o777, attributes={"symlink_target": "f000001"})
    cluster.create("/mixed", "f001050-short", attributes={"ttl_sec": 3600})
    cluster.put("/mixed/%26%3C%C3%A4", b"escaped")
    with mounted(base / "own", cluster, "mixed") as daemon:
        for _ in range(2):
            found = sizes(daemon.mount)
            assert len(found) == 1103
            assert found["&<ä"] == 7
        assert os.readlink(daemon.mount / "f000500-link") == "f000001"


def test_known_listings_are_shown_while_the_filer_is_away(
    base: Path, cluster: Cluster, many: list[str]
) -> None:
    """It is not even noticed: the filer would have told of a change."""
    with mounted(base / "own", cluster, "many", "--source-wait", "0") as daemon:
        told(daemon)
        assert os.listdir(daemon.mount) == many
        before = sizes(daemon.mount)
        with cluster.stopped():
            for _ in range(2):
                forget(daemon.mount)  # what the kernel keeps of it, as it does when memory is short
                assert os.listdir(daemon.mount) == many
            forget(daemon.mount)
            assert sizes(daemon.mount) == before
            assert (daemon.mount / many[77]).stat().st_size == before[many[77]]
            for name in ("absent", "f000077x", "a" * 200):
                assert not (daemon.mount / name).exists()
        cluster.put("/many/absent", b"no more")
        until((daemon.mount / "absent").exists, "who has known that a name is not there is told that it is")
        cluster.delete("/many/absent")


def test_what_was_staged_is_listed_as_it_has_become(base: Path, cluster: Cluster) -> None:
    path = f"/{base.name}"
    cluster.fill(path, ["f1", "f2"])
    with mounted(base / "own", cluster, base.name, "--write", "back") as daemon:
        told(daemon)
        with (daemon.mount / "f3").open("wb") as file:
            for size in (6, 12, 18):
                file.write(b"staged")
                file.flush()
                forget(daemon.mount)
                assert sizes(daemon.mount) == {"f1": 0, "f2": 1, "f3": size}
        daemon.ask("flush")
        shown = {entry.name: entry.stat().st_ino for entry in os.scandir(daemon.mount)}
        forget(daemon.mount)
        with mounted(base / "other", cluster, base.name) as other:
            assert {entry.name: entry.stat().st_ino for entry in os.scandir(other.mount)} == shown
            assert (other.mount / "f3").read_bytes() == b"staged" * 3


def test_files_are_made_without_asking_what_is_there(base: Path, cluster: Cluster) -> None:
    """In a directory that was made here, as unpacking an archive does; what others make there is seen."""
    cluster.put(f"/{base.name}/.made", b"")
    with mounted(base / "own", cluster, base.name) as daemon:
        told(daemon)
        (daemon.mount / "new").mkdir()
        for _ in range(3):  # the root, on the way, was forgotten when telling began: it is asked for once
            daemon.mount.stat()
        before = calls(daemon)
        for number in range(20):
            with (daemon.mount / "new" / f"f{number}").open("xb") as file:
                file.write(b"x" * 4000)
        after = calls(daemon)
        assert after["write"] - before["write"] == 40, "once to make each the only one, once with its bytes"
        assert after["stat"] == before["stat"]
        cluster.put(f"/{base.name}/new/theirs", b"theirs")
        until((daemon.mount / "new" / "theirs").exists, "what others make is there")
        with pytest.raises(FileExistsError):
            (daemon.mount / "new" / "theirs").open("xb")
        (daemon.mount / "new" / "f1").unlink()
        assert not (daemon.mount / "new" / "f1").exists()
        assert len(list((daemon.mount / "new").iterdir())) == 20
        assert (daemon.mount / "new" / "f2").read_bytes() == b"x" * 4000


def calls(daemon: Daemon) -> dict[str, float]:
    """How often the source was asked what."""
    metrics = daemon.metrics()
    return {call: total(metrics, "swmld_source_calls_total", call=call) for call in ("stat", "write")}
