"""``swmld.mount.native`` over a real directory, without a mount; and the C tests of ``native/``."""

from __future__ import annotations

import errno
import os
import select
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from swmld.mount import calls
from swmld.mount import native as nat
from swmld.mount.native import Config, Mode, Native, Want
from swmld.types import Check, Identity

NATIVE = Path(__file__).resolve().parents[2] / "native"
CHUNK = 4096


class Table:
    """A session on a directory of its own, never mounted."""

    def __init__(self, base: Path, *, rules: list[tuple[str, Check, float]]) -> None:
        self.source, self.data = base / "source", base / "data"
        self.source.mkdir()
        self.data.mkdir()
        self._fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (self.source, self.data)]
        config = Config(*self._fds, local=True, hot=True, passthrough=False, acl=False, threads=1)
        self.native = Native(config, rules)

    def file(self, name: str, data: bytes) -> nat.Entry:
        """A file of the source, looked up: the kernel holds one reference."""
        (self.source / name).write_bytes(data)
        return self.native.lookup(nat.ROOT, os.fsencode(name))

    def close(self) -> None:
        self.native.stop()
        self.native.free()
        for fd in self._fds:
            os.close(fd)


MakeTable = Callable[..., Table]


@pytest.fixture
def make_table(tmp_path: Path) -> Iterator[MakeTable]:
    made: list[Table] = []

    def make(rules: list[tuple[str, Check, float]] | None = None) -> Table:
        made.append(Table(tmp_path, rules=rules or []))
        return made[-1]

    yield make
    for table in made:
        table.close()


def refuses(code: int, function: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:
        function()
    assert caught.value.errno == code


def test_lookup_tells_what_the_source_has(make_table: MakeTable) -> None:
    table = make_table()
    entry = table.file("file", b"12345")
    st = os.stat(table.source / "file")
    assert (entry.ino, entry.size, entry.mode, entry.uid) == (st.st_ino, 5, st.st_mode, st.st_uid)
    assert (entry.mtime_ns, entry.ctime_ns) == (st.st_mtime_ns, st.st_ctime_ns)
    assert entry.identity == Identity(0, st.st_ino, 5, st.st_mtime_ns, st.st_ctime_ns)
    assert table.native.cached_entry(entry.nodeid) == entry
    assert table.native.cached_entry(999_999_999) is None
    assert table.native.node_of(0, st.st_ino) == entry.nodeid
    refuses(errno.ENOENT, lambda: table.native.lookup(nat.ROOT, b"nothing"))
    refuses(errno.ESTALE, lambda: table.native.getattr(999_999_999))


def test_times_before_1970_and_far_away(make_table: MakeTable) -> None:
    table = make_table()
    entry = table.file("file", b"")
    fd = table.native.open_source(entry.nodeid, os.O_PATH)
    try:
        calls.utimens(fd, -1_500_000_000, -1)
        assert table.native.getattr(entry.nodeid).atime_ns == -1_500_000_000
        calls.utimens(fd, None, 5)
        now = table.native.getattr(entry.nodeid)
        assert (now.atime_ns, now.mtime_ns) == (-1_500_000_000, 5)
    finally:
        os.close(fd)


def test_names_that_are_not_utf8_and_paths_beyond_path_max(make_table: MakeTable) -> None:
    table = make_table()
    name = b"\xff\xfe n\n"
    (Path(os.fsdecode(os.fsencode(table.source) + b"/" + name))).write_bytes(b"x")
    entry = table.native.lookup(nat.ROOT, name)
    assert table.native.path(entry.nodeid) == name
    assert table.native.parent(entry.nodeid) == (nat.ROOT, name)
    assert table.native.path(nat.ROOT) == b"."
    above, parts = nat.ROOT, []
    fd = os.open(table.source, os.O_RDONLY)
    for _ in range(30):
        part = b"d" * 250
        os.mkdir(part, dir_fd=fd)
        below = os.open(part, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd, above = below, table.native.lookup(above, part).nodeid
        parts.append(part)
    os.close(fd)
    assert table.native.path(above) == b"/".join(parts)
    assert table.native.getattr(above).nlink == 2


def test_rename_unlink_and_what_is_still_open(make_table: MakeTable) -> None:
    table = make_table()
    native = table.native
    a, b = table.file("a", b"first"), table.file("b", b"second")
    os.rename(table.source / "a", table.source / "c")
    native.renamed((nat.ROOT, b"a"), (nat.ROOT, b"c"), exchange=False)
    assert native.path(a.nodeid) == b"c"
    native.before_unlink(nat.ROOT, b"b")
    (table.source / "b").unlink()
    native.unlinked(nat.ROOT, b"b")
    refuses(errno.ESTALE, lambda: native.path(b.nodeid))
    fd = native.open_source(b.nodeid, os.O_RDONLY)
    assert os.read(fd, 100) == b"second"
    os.close(fd)
    assert native.getattr(b.nodeid).nlink == 0
    native.forget(b.nodeid, 1)
    assert native.cached_entry(b.nodeid) is None


def test_rules_choose_the_check_by_path(make_table: MakeTable) -> None:
    table = make_table([("*.bin", Check.IMMUTABLE, 0.0), ("logs/*", Check.STRICT, 0.0)])
    assert table.file("model.bin", b"").check == 2
    assert table.file("other", b"").check == 1
    (table.source / "logs").mkdir()
    logs = table.native.lookup(nat.ROOT, b"logs")
    (table.source / "logs/today").write_bytes(b"")
    assert table.native.lookup(logs.nodeid, b"today").check == 0
    assert table.native.lookup(logs.nodeid, b"today").valid == 0.0


def test_opens_are_counted_and_the_last_close_is_told(make_table: MakeTable) -> None:
    table = make_table()
    native, entry = table.native, table.file("file", b"x" * CHUNK)
    assert native.mode(entry.nodeid) is Mode.NONE
    one = native.open_file(entry.nodeid, Want.PARTIAL, -1, False)
    two = native.open_file(entry.nodeid, Want.PARTIAL, -1, False)
    assert native.mode(entry.nodeid) is Mode.CACHED
    assert not native.open_flags(one) & nat.FOPEN_PASSTHROUGH
    assert native.open_flags(two) & nat.FOPEN_KEEP_CACHE
    usage = native.usage(entry.nodeid)
    assert usage is not None
    assert usage[1]
    native.set_cfile(entry.nodeid, table._fds[1], CHUNK, CHUNK, b"\0")
    native.landed(entry.nodeid, 0)
    native.failed(entry.nodeid, 0, errno.EIO)
    native.open_undo(one)
    assert list(native.events()) == []
    native.open_undo(two)
    assert select.select([native.event_fd], [], [], 10)[0]
    assert [(e.kind, e.nodeid) for e in native.events()] == [(nat.EventKind.IDLE, entry.nodeid)]
    assert native.detach(entry.nodeid)
    assert native.begin_write(entry.nodeid) is Mode.NONE
    native.end_write(entry.nodeid)
    refuses(errno.ESTALE, lambda: native.open_file(999_999_999, Want.PARTIAL, -1, False))


def test_counters_have_every_name(make_table: MakeTable) -> None:
    table = make_table()
    for i in range(10):
        table.file(f"file{i}", b"")
    counters = table.native.counters()
    assert counters["nodes"] == 11
    assert counters["links"] == 10
    assert counters["events_lost"] == 0


def test_a_root_that_is_no_descriptor() -> None:
    config = Config(-1, -1, local=True, hot=True, passthrough=False, acl=False)
    refuses(errno.EBADF, lambda: Native(config))


@pytest.mark.timeout(900)
def test_c_programs() -> None:
    """Compiled side by side, run one after the other: they wait for their own threads with a limit."""
    for argv in ([f"-j{os.cpu_count()}", "programs"], ["test"]):
        done = subprocess.run(
            ["make", "-C", str(NATIVE), *argv], capture_output=True, text=True, timeout=430, check=False
        )
        if done.returncode != 0:
            break
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    assert "test_table:" in done.stdout
