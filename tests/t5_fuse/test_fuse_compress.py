"""Rules that have chunks compressed: the same bytes in each mode, fewer on the disk, and damage is mended."""

from __future__ import annotations

import mmap
import os
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.index import data_file
from support.mount import Daemon
from support.pages import forget
from support.tree import DISK, Tree, modes, require_mode, work_dir
from swmld.mount.deciding import PACK_MINIMUM
from test_fuse_rules import LIMIT, Ruled

RULES = """
rules:
  - id: less
    conditions: [{type: file_pattern, property: extension, operator: in, value: [.txt, .jpg, .bin]}]
    actions: [{type: compress, parameters: {level: 5}}]
  - id: moved
    conditions: [{type: file_pattern, property: extension, value: .log}]
    actions: [{type: stream, parameters: {compression: true}}]
  - id: off
    conditions: [{type: file_pattern, property: extension, value: .raw}]
    actions: [{type: compress, parameters: {enabled: false}}]
"""

LARGE = 5 * (256 << 10) + 12_345
"""Bytes: several chunks of several frames, the last one short."""


def text(name: str, size: int) -> bytes:
    """Words, which shrink to about a third."""
    words = random.Random(name)
    parts = [b"%x " % words.getrandbits(8) for _ in range(size // 3)]
    return b"".join(parts)[:size].ljust(size, b".")


class Compressing(Ruled):
    """A daemon with ``RULES``."""

    def put(self, name: str, data: bytes) -> bytes:
        (self.source / name).parent.mkdir(parents=True, exist_ok=True)
        (self.source / name).write_bytes(data)
        Tree(self.mount, self.source, self.daemon.mode, self.daemon).settle()
        return data

    def reads(self, name: str, data: bytes) -> None:
        """Twice: as it comes, and from the cache."""
        for _ in range(2):
            assert (self.mount / name).read_bytes() == data
            forget(self.mount / name)

    def taken(self) -> int:
        """Bytes that the data files take on the disk."""
        return sum(path.stat().st_blocks * 512 for path in (self.daemon.cache / "data").glob("??/*"))

    def packed(self) -> list[Path]:
        return list((self.daemon.cache / "data").glob("??/*.z"))

    def data_file(self, name: str) -> Path:
        self.until(lambda: name in self.cached(), f"{name} in the index")
        return data_file(self.daemon.cache, name)


@pytest.fixture(scope="module", params=[mode for mode in modes() if mode != DISK])
def here(request: pytest.FixtureRequest) -> Iterator[Compressing]:
    require_mode(request.param)
    with ExitStack() as stack:
        base = stack.enter_context(work_dir())
        rules = base / "rules.yaml"
        rules.write_text(RULES)
        options = ("--rules", str(rules), "--chunk-size", "256KiB", "--neighbours", "off")
        yield Compressing(stack.enter_context(Daemon(base, request.param, options=options)), rules)


def test_bytes_are_the_same_and_fewer_on_the_disk(here: Compressing) -> None:
    data = here.put("a.txt", text("a", LARGE))
    taken, opened = here.taken(), here.daemon.metric("swmld_opens_total", how="passthrough")
    here.reads("a.txt", data)
    stored = here.cached()["a.txt"]
    assert 0 < stored < LARGE // 2
    assert here.taken() - taken <= stored + 4096
    assert here.data_file("a.txt").suffix == ".z"
    assert here.daemon.metric("swmld_opens_total", how="passthrough") == opened


def test_what_was_saved_is_told(here: Compressing) -> None:
    here.reads("b.txt", here.put("b.txt", text("b", LARGE)))
    stored = here.cached()["b.txt"]
    assert here.history(path="b.txt")[-1]["compressed"] == {"bytes": LARGE, "stored": stored}
    (rule,) = here.daemon.call("rules", rule="less")["rules"]
    assert rule["compressed"]["bytes"] >= LARGE > rule["compressed"]["stored"] / 2
    assert here.daemon.metric("swmld_rule_compressed_bytes_total", rule="less", size="raw") >= LARGE
    assert here.daemon.metric("swmld_cache_compressed_bytes_total", size="stored") >= stored


def test_what_is_not_compressed(here: Compressing) -> None:
    """By extension, by size, or because a rule says so; bytes that do not shrink are kept as they are."""
    for name, size in (
        ("a.jpg", LARGE),
        ("small.txt", PACK_MINIMUM - 1),
        ("a.raw", LARGE),
        ("a.none", LARGE),
    ):
        here.reads(name, here.put(name, text(name, size)))
        assert here.cached()[name] == size
        assert here.data_file(name).suffix == ""
    here.reads("noise.bin", here.put("noise.bin", random.Random(5).randbytes(LARGE)))
    assert LARGE <= here.cached()["noise.bin"] <= LARGE + 8192
    here.reads("smallest.txt", here.put("smallest.txt", text("s", PACK_MINIMUM)))
    assert here.cached()["smallest.txt"] < PACK_MINIMUM
    here.reads("a.log", here.put("a.log", text("log", LARGE)))
    assert here.cached()["a.log"] < LARGE // 2


def test_any_part_by_many_readers(here: Compressing) -> None:
    """While it is fetched, and after that."""
    data = here.put("parts.txt", text("parts", LARGE) + random.Random(6).randbytes(300_000) + b"end" * 99_999)
    wrong: list[tuple[int, int]] = []

    def read(seed: int) -> None:
        dice = random.Random(seed)
        with open(here.mount / "parts.txt", "rb", buffering=0) as file:
            for _ in range(60):
                offset, size = dice.randrange(len(data)), dice.choice((1, 511, 4096, 70_000, 300_000))
                if os.pread(file.fileno(), size, offset) != data[offset : offset + size]:
                    wrong.append((offset, size))
                if dice.random() < 0.3:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert wrong == []
    forget(here.mount / "parts.txt")
    with (
        open(here.mount / "parts.txt", "rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages,
    ):
        assert pages[:] == data


def test_a_file_that_is_written(here: Compressing) -> None:
    here.reads("new.txt", here.put("new.txt", text("old", LARGE)))
    with (
        open(here.mount / "new.txt", "rb", buffering=0) as reader,
        open(here.mount / "new.txt", "r+b") as writer,
    ):
        assert reader.read(10) == text("old", LARGE)[:10]
        writer.seek(100_000)
        writer.write(b"written")
        writer.flush()
        assert os.pread(reader.fileno(), 9, 99_999)[1:8] == b"written"
    data = (here.source / "new.txt").read_bytes()
    assert data[100_000:100_007] == b"written"
    here.put("settle", b"")
    here.reads("new.txt", data)
    assert here.cached()["new.txt"] < LARGE // 2


@pytest.mark.parametrize("where", ["entry", "frame"])
def test_damage_on_the_disk_is_never_read(here: Compressing, where: str) -> None:
    name = f"{where}.txt"
    here.reads(name, here.put(name, data := text(name, LARGE)))
    path = here.data_file(name)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(70 if where == "entry" else size - LARGE + 5000)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))
    forget(here.mount / name)
    assert (here.mount / name).read_bytes() == data
    forget(here.mount / name)
    here.reads(name, data)
    assert here.data_file(name) != path, "fetched again"
    assert here.daemon.call("cache.verify", path=name)["bad"] == 0


def test_what_was_compressed_outlives_the_daemon(here: Compressing) -> None:
    names = {name: here.put(name, text(name, LARGE)) for name in ("x.txt", "y.txt")}
    for name, data in names.items():
        here.reads(name, data)
    before = here.cached()
    here.until(lambda: here.data_file("y.txt").exists(), "in the index")
    here.daemon.kill9()
    here.daemon.start()
    assert here.cached() == before
    for name, data in names.items():
        assert (here.mount / name).read_bytes() == data
    assert here.daemon.metric("swmld_fetched_bytes_total") == 0
    here.daemon.call("cache.drop", path="x.txt")
    assert here.taken() <= sum(before.values()) - before["x.txt"] + 4096 * (len(before) + 1)
