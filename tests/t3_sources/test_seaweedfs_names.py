"""Names and attributes on a real SeaweedFS."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.seaweed import DIRECTORY, SYMLINK, Cluster, free_ports
from swmld.sources.interface import Feature, generation_ns
from swmld.sources.seaweedfs import SeaweedSource

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def source(seaweed: Cluster) -> Iterator[SeaweedSource]:
    seaweed.put("/names/file", b"0123456789" * 100)
    source = seaweed.source("names")
    yield source
    source.close()


def _errno(call: object, *arguments: object) -> int | None:
    with pytest.raises(OSError) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.errno


def test_the_source_is_named_and_says_what_it_can(seaweed: Cluster, source: SeaweedSource) -> None:
    assert source.name == f"seaweedfs://127.0.0.1:{seaweed.filer}/names"
    assert source.features == ~Feature.PARTS


def test_the_root_is_a_directory(seaweed: Cluster, source: SeaweedSource) -> None:
    assert source.stat(b"").is_dir
    whole = seaweed.source()
    assert whole.stat(b"").is_dir
    assert whole.stat(b"names").ino == source.stat(b"").ino
    assert whole.stat(b"names/file") == source.stat(b"file")
    assert b"names" in [name for name, _ in whole.list(b"").entries]
    whole.close()


def test_attributes_are_the_entrys(seaweed: Cluster, source: SeaweedSource) -> None:
    times = {"mtime": 1_600_000_000, "mtime_ns": 123_456_789, "crtime": 1_500_000_000}
    owner = {"uid": 1000, "gid": 2000}
    seaweed.create("/names", "attributed", mode=0o4640 & 0o777 | 1 << 23, attributes={**times, **owner})
    found = source.stat(b"attributed")
    assert found.mode == stat.S_IFREG | stat.S_ISUID | 0o640
    assert (found.uid, found.gid, found.nlink, found.size) == (1000, 2000, 1, 0)
    assert (found.mtime_ns, found.btime_ns) == (1_600_000_000_123_456_789, 1_500_000_000 * 10**9)
    seaweed.create("/names", "directory", mode=DIRECTORY | 0o750, is_directory=True)
    assert source.stat(b"directory").mode == stat.S_IFDIR | 0o750


def test_symlinks_are_not_followed(seaweed: Cluster, source: SeaweedSource) -> None:
    seaweed.create("/names", "link", mode=SYMLINK | 0o777, attributes={"symlink_target": "../é/file"})
    found = source.stat(b"link")
    assert (found.mode, found.link, found.size) == (stat.S_IFLNK | 0o777, "../é/file".encode(), 10)


def test_hard_links_are_one_file(seaweed: Cluster, source: SeaweedSource) -> None:
    entry = seaweed.entry("/names/file")
    for name in ("hard1", "hard2"):
        entry.name, entry.hard_link_id, entry.hard_link_counter = name, b"0123456789abcdef\x01", 2
        seaweed.call("CreateEntry", directory="/names", entry=entry)
    one, two = source.stat(b"hard1"), source.stat(b"hard2")
    assert (one.ino, one.nlink, one.size, one.tag) == (two.ino, 2, 1000, two.tag)
    assert one.ino != source.stat(b"file").ino


def test_a_copy_is_another_file(seaweed: Cluster, source: SeaweedSource) -> None:
    seaweed.put("/names/copy?cp.from=/names/file", b"")
    one, two = source.stat(b"file"), source.stat(b"copy")
    assert one.size == two.size
    assert one.ino != two.ino


def test_a_file_keeps_its_number_when_it_is_written_anew(seaweed: Cluster, source: SeaweedSource) -> None:
    seaweed.put("/names/kept", b"a" * 1000)
    before = source.stat(b"kept")
    seaweed.put("/names/kept", b"b" * 2000)
    after = source.stat(b"kept")
    assert (after.ino, after.btime_ns, after.size) == (before.ino, before.btime_ns, 2000)


def test_what_is_written_anew_is_another_generation(seaweed: Cluster, source: SeaweedSource) -> None:
    found = set()
    for number in range(8):
        seaweed.put("/names/again", bytes([number]) * 1000)
        found.add(generation_ns(source.stat(b"again")))
        seaweed.put("/names/again", bytes([number]) * 10)
        found.add(generation_ns(source.stat(b"again")))
    assert len(found) == 16


def test_a_listing_comes_in_pages(seaweed: Cluster, source: SeaweedSource) -> None:
    names = sorted(f"{number:x} é%?#".encode() for number in range(1203))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: seaweed.create("/names/many", name.decode()), names))
    found: list[bytes] = []
    pages = 0
    more = True
    while more:
        page = source.list(b"many", found[-1] if found else b"", 500)
        found += [name for name, _ in page.entries]
        pages, more = pages + 1, page.more
    assert (found, pages) == (names, 3)
    exact = source.list(b"many", names[-501], 500)
    assert len(exact.entries) == 500
    assert not exact.more
    name, attributes = exact.entries[7]
    assert source.stat(b"many/" + name) == attributes
    assert source.list(b"many", b"zz").entries == ()


def test_what_is_not_there_and_what_is_no_directory(seaweed: Cluster, source: SeaweedSource) -> None:
    seaweed.create("/names", "bare", mode=DIRECTORY | 0o755, is_directory=True)
    assert source.list(b"bare").entries == ()
    assert _errno(source.stat, b"none") == errno.ENOENT
    assert _errno(source.stat, b"none/below") == errno.ENOENT
    assert _errno(source.list, b"none") == errno.ENOENT
    assert _errno(source.list, b"file") == errno.ENOTDIR
    listing = {"Path": "/names/listing", "Entries": [{"FullPath": "/names/listing/x"}]}
    for name, padding in (("listing", 0), ("listing.json", 1000)):
        seaweed.put(f"/names/{name}", json.dumps(listing).encode() + b" " * padding)
        assert _errno(source.list, name.encode()) == errno.ENOTDIR
        assert _errno(source.list, name.encode(), b"a") == errno.ENOTDIR


def test_http_and_grpc_say_the_same(seaweed: Cluster, source: SeaweedSource) -> None:
    seaweed.put("/names/both/inline", b"few bytes")
    seaweed.put("/names/both/chunks", b"c" * 1000)
    seaweed.create("/names/both", "link", mode=SYMLINK | 0o777, attributes={"symlink_target": "x"})
    seaweed.create("/names/both", "dir", mode=DIRECTORY | 1 << 22 | 0o755, is_directory=True)
    times = {"mtime": 1_600_000_000, "mtime_ns": 5, "ctime": 1_600_000_001, "ctime_ns": 6, "rdev": 259}
    seaweed.create("/names/both", "null", mode=1 << 26 | 1 << 21 | 0o666, attributes=times)
    linked = {"hard_link_id": b"\xff\x00both", "hard_link_counter": 2, "content": b"of both"}
    for name in ("one", "two"):
        seaweed.create("/names/both", name, **linked)
    by_grpc = seaweed.source("names")
    by_grpc._names._refused = True
    assert source.list(b"both").entries == by_grpc.list(b"both").entries
    assert source.list(b"both", b"dir", 3) == by_grpc.list(b"both", b"dir", 3)
    for path in (b"", b"both", b"both/inline", b"both/two"):
        assert source.stat(path) == by_grpc.stat(path)
    assert _errno(by_grpc.stat, b"none") == errno.ENOENT
    assert _errno(by_grpc.list, b"none") == errno.ENOENT
    by_grpc.close()


@pytest.mark.parametrize("path", [b"..", b"../names", b"bare/../..", b".", b"\xff\xfe"])
def test_no_path_leads_out_of_the_root(source: SeaweedSource, path: bytes) -> None:
    assert _errno(source.stat, path) == errno.ENOENT
    assert _errno(source.list, path) == errno.ENOENT


def test_a_filer_that_is_not_there(seaweed: Cluster) -> None:
    (port,) = free_ports(1)
    source = seaweed.source(port=port, timeout=2)
    assert _errno(source.stat, b"x") in (errno.EHOSTUNREACH, errno.ETIMEDOUT)
    source.close()
    assert _errno(source.stat, b"x") == errno.EHOSTUNREACH


def test_names_of_every_kind_are_read(seaweed: Cluster, source: SeaweedSource) -> None:
    body = os.urandom(700)
    for name in ("a b", "é", "100%", "a+b", "a;b", "q?#", "日本"):
        quoted = "".join(f"%{byte:02X}" for byte in name.encode())
        seaweed.put(f"/names/kinds/{quoted}", body)
        path = b"kinds/" + name.encode()
        view = memoryview(bytearray(700))
        assert source.open(path, source.stat(path)).read(view, 0) == 700
        assert bytes(view) == body
