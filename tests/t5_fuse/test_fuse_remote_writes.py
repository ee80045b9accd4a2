"""Writing through a mount to a real SeaweedFS cluster: what close and fsync promise."""

from __future__ import annotations

import contextlib
import errno
import itertools
import mmap
import os
import random
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
from support import posix
from support.mount import MODES, Daemon
from support.posix import fails
from support.seaweed import Cluster
from support.waiting import until

MIB = 1 << 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of this module's own: its filer is stopped."""
    with Cluster() as cluster:
        yield cluster


_tries = itertools.count()


def fresh(name: str) -> str:
    """A directory of the cluster that no test has had, nor the first try of this one."""
    return f"{name}-{next(_tries)}"


class Writable:
    """A mount of a directory of the cluster, and what the filer says of it by itself."""

    def __init__(self, base: Path, cluster: Cluster, top: str, mode: str, *options: str) -> None:
        base.mkdir(exist_ok=True)
        self.cluster, self.top = cluster, top
        cluster.put(f"/{top}/.made", b"")
        url = f"seaweedfs://127.0.0.1:{cluster.filer}/{top}"
        self.daemon = Daemon(base, mode, source=None, options=["--source", url, *options])

    def __enter__(self) -> Writable:
        self.daemon.__enter__()
        return self

    def __exit__(self, *why: object) -> None:
        self.daemon.__exit__(*why)  # type: ignore[arg-type]

    def __truediv__(self, name: str) -> Path:
        return self.daemon.mount / name

    def stored(self, name: str) -> bytes | None:
        """What others get of the filer."""
        url = f"http://127.0.0.1:{self.cluster.filer}/{self.top}/{quote(name)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                body: bytes = answer.read()
                return body
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return None
        except ConnectionResetError:  # by a filer that was stopped and has just woken up
            return self.stored(name)

    def staged(self) -> list[Path]:
        return [path for path in self.daemon.cache.glob("staged/*/*") if path.name.isdigit()]

    def until_stored(self, name: str, data: bytes | None) -> None:
        until(lambda: self.stored(name) == data, f"{name} is at the source")


def content(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)


SIZES = {"empty": 0, "one": 1, "small": 3000, "image": 110_000, "large": 21 * MIB + 5}


@pytest.mark.parametrize("write", ["through", "back"])
@pytest.mark.parametrize("mode", MODES)
def test_what_is_written_is_at_the_source(base: Path, cluster: Cluster, mode: str, write: str) -> None:
    with Writable(base / "own", cluster, fresh("all"), mode, "--write", write) as here:
        data = {name: content(name, size) for name, size in SIZES.items()}
        (here / "d").mkdir(0o750)
        for name, body in data.items():
            (here / f"d/{name}").write_bytes(body)
            assert (here / f"d/{name}").read_bytes() == body
            assert (here / f"d/{name}").stat().st_size == len(body)
            if write == "through":
                assert here.stored(f"d/{name}") == body, name
        assert sorted(os.listdir(here / "d")) == sorted(data)

        with (here / "d/small").open("r+b") as file:
            file.seek(1000)
            file.write(b"within")
            file.flush()
            assert os.fstat(file.fileno()).st_size == 3000
            os.fsync(file.fileno())
            if write == "through":
                assert (here.stored("d/small") or b"")[1000:1006] == b"within"
        with (here / "d/image").open("ab") as file:
            file.write(b"appended")
        os.truncate(here / "d/large", 5 * MIB)
        data["small"] = data["small"][:1000] + b"within" + data["small"][1006:]
        data["image"] += b"appended"
        data["large"] = data["large"][: 5 * MIB]
        (here / "d/one").rename(here / "d/two")
        (here / "d/empty").rename(here / "d/image2")
        (here / "d/image").replace(here / "d/image2")
        (here / "d/link").symlink_to("two")
        data = {"two": data["one"], "image2": data["image"], "small": data["small"], "large": data["large"]}
        assert sorted(os.listdir(here / "d")) == sorted([*data, "link"])
        (here / "d").rename(here / "e")
        (here / "e/small").chmod(0o600)
        os.utime(here / "e/small", ns=(0, 1_600_000_000_123_456_789))
        for name, body in data.items():
            assert (here / f"e/{name}").read_bytes() == body, name
            here.until_stored(f"e/{name}", body)
        here.daemon.restart()
        assert os.readlink(here / "e/link") == "two"
        assert sorted(os.listdir(here / "e")) == sorted([*data, "link"])
        for name, body in data.items():
            assert (here / f"e/{name}").read_bytes() == body, name
        st = (here / "e/small").stat()
        assert (st.st_mode & 0o777, st.st_mtime_ns // 1_000_000_000) == (0o600, 1_600_000_000)
        assert not here.staged()
        shutil.rmtree(here / "e")
        assert here.stored("e/small") is None
        with fails(errno.EOPNOTSUPP):
            os.link(here / ".made", here / "hard")


@pytest.mark.parametrize("write", ["through", "back"])
def test_names_that_the_source_cannot_have_are_refused_at_once(
    base: Path, cluster: Cluster, write: str
) -> None:
    """Each byte in a name: what is not UTF-8 was staged, could never be uploaded, and held up the end."""
    names = [bytes([byte]) * 2 + b"n" for byte in range(1, 256) if byte != ord("/")]
    with Writable(base / "own", cluster, fresh("names"), "passthrough", "--write", write) as here:
        top = os.fsencode(here / "d")
        os.mkdir(top)
        for name in names:
            path = top + b"/" + name
            if name[0] < 0x80:
                with open(path, "wb") as file:
                    file.write(name)
                continue
            with fails(errno.EILSEQ):
                os.open(path, os.O_CREAT | os.O_WRONLY)
            with open(top + b"/aan", "ab") as file:  # that is staged while it is open
                file.write(b"")
                with fails(errno.EILSEQ):
                    os.rename(top + b"/aan", path)
            with fails(errno.EILSEQ):
                os.mkdir(path)
        kept = [name for name in names if name[0] < 0x80]
        assert sorted(os.listdir(top)) == sorted(kept)
        for name in kept:
            with open(top + b"/" + name, "rb") as file:
                assert file.read() == name
            here.until_stored("d/" + name.decode(), name)
        until(lambda: not here.staged(), "nothing waits for its upload")


@pytest.mark.parametrize("mode", MODES)
def test_who_has_it_open_sees_what_is_written(base: Path, cluster: Cluster, mode: str) -> None:
    """Readers that had it open cached or passed through, before and while it is written, and a mapping."""
    old, new = content("old", 3 * MIB), content("new", 3 * MIB)
    top = fresh("open")
    cluster.put(f"/{top}/f", old)
    with Writable(base / "own", cluster, top, mode) as here:
        for _ in range(2):
            assert (here / "f").read_bytes() == old
        with (here / "f").open("rb") as reader, (here / "f").open("r+b") as writer:
            assert os.pread(reader.fileno(), 100, 0) == old[:100]
            writer.write(new[:MIB])
            writer.flush()
            assert os.pread(reader.fileno(), 100, 0) == new[:100]
            assert (here / "f").read_bytes() == new[:MIB] + old[MIB:]
            with mmap.mmap(writer.fileno(), 0) as view:
                view[MIB:] = new[MIB:]
                view.flush()
                assert os.pread(reader.fileno(), 100, 2 * MIB) == new[2 * MIB :][:100]
            os.unlink(here / "f")
            assert os.fstat(writer.fileno()).st_nlink == 0
            assert os.pread(writer.fileno(), 100, 2 * MIB) == new[2 * MIB :][:100]
            (here / "f").write_bytes(b"another")
        assert (here / "f").read_bytes() == b"another"
        assert here.stored("f") == b"another"
        with (here / "m").open("w+b") as file:
            file.truncate(8192)
            view = mmap.mmap(file.fileno(), 0)
        assert here.stored("m") == bytes(8192)
        view[:5] = b"later"
        view.close()  # after close(2): nobody waits for it any more
        here.until_stored("m", b"later" + bytes(8187))
        assert (here / "m").read_bytes() == b"later" + bytes(8187)


def test_two_hosts_do_not_overwrite_each_other(base: Path, cluster: Cluster) -> None:
    options, top = ("--check", "strict"), fresh("two")
    with (
        Writable(base / "one", cluster, top, "passthrough", *options) as one,
        Writable(base / "two", cluster, top, "passthrough", "--write", "back", *options) as two,
    ):
        os.close(os.open(one / "lock", os.O_CREAT | os.O_EXCL))
        with fails(errno.EEXIST):
            os.open(two / "lock", os.O_CREAT | os.O_EXCL)
        (one / "f").write_bytes(b"first")
        until(lambda: (two / "f").exists(), "the other host sees it")
        mine = (one / "f").open("r+b")
        mine.write(b"mine ")
        (two / "f").write_bytes(b"theirs")
        one.until_stored("f", b"theirs")
        one.daemon.expect_log("f is put aside")
        with fails(errno.ESTALE):
            mine.close()
        assert one.stored("f") == b"theirs"
        until(lambda: (one / "f").read_bytes() == b"theirs", "the mount shows the source's")
        (kept,) = one.staged()
        assert kept.read_bytes() == b"mine "
        assert "put aside" in one.daemon.log_text()
        one.daemon.restart()
        assert one.staged() == [kept]
        assert (one / "f").read_bytes() == b"theirs"


def test_nothing_that_was_closed_is_lost(base: Path, cluster: Cluster) -> None:
    """The daemon is killed: its next start uploads what was closed or synced, and puts aside what was not."""
    with Writable(base / "own", cluster, fresh("killed"), "passthrough", "--write", "back") as here:
        (here / "before").write_bytes(content("before", 2 * MIB))
        here.until_stored("before", content("before", 2 * MIB))
        (here / "changed").write_bytes(b"old")
        here.until_stored("changed", b"old")
        held = (here / "held").open("wb", buffering=0)
        held.write(b"half")
        synced = (here / "synced").open("wb", buffering=0)
        synced.write(b"synced")
        (here / "changed").write_bytes(b"new")
        for number in range(20):
            (here / f"tmp{number}").write_bytes(content(str(number), 100_000))
            (here / f"tmp{number}").rename(here / f"f{number}")
        os.fsync(synced.fileno())
        here.daemon.kill9()
        for file in (held, synced):
            with contextlib.suppress(OSError):
                file.close()
        here.daemon.expect_log("held is put aside")
        here.daemon.start()
        for number in range(20):
            here.until_stored(f"f{number}", content(str(number), 100_000))
            assert here.stored(f"tmp{number}") is None
        here.until_stored("changed", b"new")
        here.until_stored("synced", b"synced")
        assert (here / "synced").read_bytes() == b"synced"
        assert here.stored("held") is None
        until(lambda: len(here.staged()) == 1, "only what nobody closed is left")
        assert here.staged()[0].read_bytes() == b"half"


@pytest.mark.parametrize("write", ["through", "back"])
def test_a_source_that_goes_away(base: Path, cluster: Cluster, write: str) -> None:
    """close fails or does not, as it was promised; the bytes are kept, shown, and stored when it is back."""
    options = ("--write", write, "--source-wait", "0", "--fetch-timeout", "2s")
    with Writable(base / "own", cluster, fresh("away"), "passthrough", *options) as here:
        (here / "known").write_bytes(b"known")
        file = (here / "f").open("wb", buffering=0)
        file.write(b"kept")
        with cluster.stopped():
            here.daemon.expect_log("is not uploaded yet|does not answer|answers again")
            if write == "through":
                with pytest.raises(OSError, match=r"."):
                    os.fsync(file.fileno())
                with pytest.raises(OSError, match=r"."):
                    file.close()
            else:
                os.fsync(file.fileno())
                file.close()
            assert (here / "f").read_bytes() == b"kept"
        here.until_stored("f", b"kept")
        until(lambda: not here.staged(), "nothing is staged any more")
        assert (here / "f").read_bytes() == b"kept"


class Model:
    """Random operations of one process, on the mount and on a plain directory alike."""

    def __init__(self, tops: tuple[Path, Path], seed: int) -> None:
        self.tops, self.dice = tops, random.Random(seed)

    def any_path(self) -> str:
        return "/".join(
            [f"d{self.dice.randrange(2)}" for _ in range(self.dice.randrange(3))]
            + [self.dice.choice(["f0", "f1", "f2", "d0", "d1", "l0"])]
        )

    def write(self) -> Callable[[Path], object]:
        path, flags = self.any_path(), os.O_CREAT | self.dice.choice([0, os.O_TRUNC, os.O_APPEND, os.O_EXCL])
        access = self.dice.choice([os.O_WRONLY, os.O_RDWR])
        writes = [
            (self.dice.randbytes(self.dice.choice([1, 100, 5000, 70_000])), self.dice.randrange(100_000))
            for _ in range(self.dice.randrange(4))
        ]
        sync, then = self.dice.random() < 0.3, self.dice.choice(["", "", "unlink", "rename", "truncate"])
        other = self.any_path()

        def run(top: Path) -> object:
            fd = os.open(top / path, flags | access, 0o644)
            try:
                for data, offset in writes:
                    os.pwrite(fd, data, offset)
                    if sync:
                        os.fsync(fd)
                if then == "unlink":
                    os.unlink(top / path)
                elif then == "rename":
                    os.rename(top / path, top / other)
                elif then == "truncate":
                    os.ftruncate(fd, 777)
                for data, offset in writes[:1]:
                    os.pwrite(fd, data, offset + 10)
                return os.fstat(fd).st_size
            finally:
                os.close(fd)

        return run

    def read(self) -> Callable[[Path], object]:
        path = self.any_path()
        return lambda top: (top / path).read_bytes()

    def mkdir(self) -> Callable[[Path], object]:
        path = self.any_path()
        return lambda top: (top / path).mkdir()

    def rename(self) -> Callable[[Path], object]:
        old, new = self.any_path(), self.any_path()
        return lambda top: (top / old).rename(top / new) and None

    def unlink(self) -> Callable[[Path], object]:
        path = self.any_path()
        return lambda top: (top / path).unlink()

    def rmdir(self) -> Callable[[Path], object]:
        path = self.any_path()
        return lambda top: (top / path).rmdir()

    def symlink(self) -> Callable[[Path], object]:
        path, target = self.any_path(), self.dice.choice(["f0", "d1", "../f1", "l0"])
        return lambda top: (top / path).symlink_to(target)

    def chmod(self) -> Callable[[Path], object]:
        path, mode = self.any_path(), self.dice.choice([0o600, 0o644, 0o755])
        return lambda top: (top / path).chmod(mode)

    def truncate(self) -> Callable[[Path], object]:
        path, size = self.any_path(), self.dice.randrange(200_000)
        return lambda top: os.truncate(top / path, size)

    def listing(self) -> Callable[[Path], object]:
        path = self.any_path()
        return lambda top: sorted(os.listdir((top / path).parent))

    def stat(self) -> Callable[[Path], object]:
        path = self.any_path()

        def run(top: Path) -> object:
            st = (top / path).lstat()
            size = st.st_size if not os.path.isdir(top / path) or os.path.islink(top / path) else 0
            return st.st_mode, size

        return run

    def run(self, steps: int) -> None:
        weights: dict[Callable[[], Callable[[Path], object]], int] = {
            self.write: 30, self.read: 15, self.mkdir: 10, self.rename: 15, self.unlink: 8, self.rmdir: 3,
            self.symlink: 4, self.chmod: 4, self.truncate: 6, self.listing: 6, self.stat: 10,
        }  # fmt: skip
        for number in range(steps):
            (make,) = self.dice.choices(list(weights), list(weights.values()))
            operation = make()
            mount, plain = (_outcome(operation, top) for top in self.tops)
            assert mount == plain, f"step {number}: {make.__name__}"


def _outcome(operation: Callable[[Path], object], top: Path) -> object:
    try:
        return operation(top)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def tree_of(top: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for directory, dirs, files in os.walk(top):
        for name in [*dirs, *files]:
            path = Path(directory) / name
            what: object = os.readlink(path) if path.is_symlink() else None
            if what is None and path.is_file():
                what = (path.stat().st_mode, path.read_bytes())
            found[os.fspath(path.relative_to(top))] = what
    return found


@pytest.mark.parametrize("write", ["through", "back"])
@pytest.mark.parametrize("mode", MODES)
def test_it_is_as_a_plain_directory(base: Path, cluster: Cluster, mode: str, write: str) -> None:
    plain = base / "plain"
    plain.mkdir()
    with Writable(base / "own", cluster, fresh("model"), mode, "--write", write) as here:
        (here / "top").mkdir()
        posix.run(partial(Model((here / "top", plain), 8).run, 400), timeout=300)
        assert tree_of(here / "top") == tree_of(plain)
        assert len(tree_of(plain)) > 5, "the operations cancel each other out"
        here.daemon.restart()  # which uploads what waits
        assert not here.staged()
        assert tree_of(here / "top") == tree_of(plain)


def test_read_only_stays_so(base: Path, cluster: Cluster) -> None:
    with (
        Writable(base / "own", cluster, fresh("ro"), "passthrough", "--read-only") as here,
        fails(errno.EROFS),
    ):
        (here / "f").touch()


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC])
@pytest.mark.parametrize("mode", MODES)
def test_synchronous_writes_are_at_the_source_when_they_return(
    base: Path, cluster: Cluster, mode: str, flag: int
) -> None:
    with Writable(base / "own", cluster, fresh("osync"), mode) as here:
        fd = os.open(here / "new", os.O_CREAT | os.O_WRONLY | flag)
        wanted = b""
        for part in (b"first", b" and second" * 1000, b" and last"):
            assert os.write(fd, part) == len(part)
            wanted += part
            assert here.stored("new") == wanted
        # Others have it open meanwhile, each in their own way.
        with (here / "new").open("r+b", buffering=0) as plain, (here / "new").open("rb") as reader:
            assert reader.read() == wanted
            plain.write(b"FIRST")
            os.pwrite(fd, b"!", len(wanted))
            assert here.stored("new") == b"FIRST" + wanted[5:] + b"!"
            reader.seek(0)
            assert reader.read() == b"FIRST" + wanted[5:] + b"!"
        os.close(fd)
        fd = os.open(here / "new", os.O_RDWR | flag)
        os.pwrite(fd, b"again", 0)
        assert here.stored("new") == b"again" + wanted[5:] + b"!"
        os.close(fd)


def test_a_synchronous_write_tells_that_the_source_refuses(base: Path, cluster: Cluster) -> None:
    top = fresh("osync-refused")
    with Writable(base / "own", cluster, top, "passthrough") as here:
        here.daemon.expect_log("is put aside as")
        fd = os.open(here / "file", os.O_CREAT | os.O_WRONLY | os.O_SYNC)
        os.write(fd, b"ours")
        cluster.put(f"/{top}/file", b"theirs")
        with fails(errno.ESTALE):
            os.write(fd, b"again")
        with contextlib.suppress(OSError):
            os.close(fd)
        until(lambda: (here / "file").read_bytes() == b"theirs", "theirs is shown")


@pytest.mark.parametrize("write", ["through", "back"])
@pytest.mark.parametrize("mode", MODES)
def test_what_was_written_is_cached_and_not_fetched(
    base: Path, cluster: Cluster, mode: str, write: str
) -> None:
    with Writable(base / "own", cluster, fresh("kept"), mode, "--write", write) as here:

        def fetched() -> float:
            return here.daemon.metric("swmld_source_read_bytes_total")

        data = {name: content(name, size) for name, size in SIZES.items() if size}
        for name, body in data.items():
            (here / name).write_bytes(body)
        with (here / "large").open("r+b") as file:
            file.seek(5 * MIB)
            file.write(b"within")
        data["large"] = data["large"][: 5 * MIB] + b"within" + data["large"][5 * MIB + 6 :]
        (here / "image").rename(here / "renamed")
        data["renamed"] = data.pop("image")
        until(lambda: not here.staged(), "all is uploaded")
        before = fetched()
        for name, body in data.items():
            assert here.stored(name) == body, name
            if name not in ("renamed", "large"):
                assert (here / name).read_bytes() == body, name
        assert fetched() == before
        assert (here / "renamed").read_bytes() == data["renamed"]
        before = fetched()
        assert (here / "large").read_bytes() == data["large"]
        assert fetched() == before + len(data["large"]), "it may still be mapped, and be written that way"
        assert "0 bad" in here.daemon.ask("cache", "verify", here.daemon.mount)

        # What is written again is another generation, and what others make of it is seen.
        (here / "small").write_bytes(b"again" * 1000)
        until(lambda: not here.staged(), "it is uploaded")
        assert (here / "small").read_bytes() == b"again" * 1000
        here.cluster.put(f"/{here.top}/small", b"theirs" * 1000)
        until(lambda: (here / "small").read_bytes() == b"theirs" * 1000, "theirs is shown")


def test_what_does_not_fit_into_the_cache_evicts_nothing(base: Path, cluster: Cluster) -> None:
    options = ["--cache-size", "24MiB"]
    top = fresh("large")
    cluster.put(f"/{top}/read", content("read", 8 * MIB))
    with Writable(base / "own", cluster, top, "passthrough", *options) as here:
        assert (here / "read").read_bytes() == content("read", 8 * MIB)
        before = here.daemon.metric("swmld_source_read_bytes_total")
        (here / "large").write_bytes(content("large", 20 * MIB))
        until(lambda: not here.staged(), "it is uploaded and let go")
        assert (here / "read").read_bytes() == content("read", 8 * MIB)
        assert here.daemon.metric("swmld_source_read_bytes_total") == before
        assert (here / "large").read_bytes() == content("large", 20 * MIB)
