"""Real programs on the mount: torch, safetensors, numpy, pyarrow, fio, git, sqlite, stress-ng."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from support import posix
from support.tree import Tree

SAMPLES = 300


def tool(*command: str | Path, cwd: Path | None = None, timeout: float = 120) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, (
        f"{command}: exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    )
    return done.stdout


def require(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def python(script: str, *args: str | Path) -> str:
    """In a process of its own: what it maps or forks cannot hang or outlive the test."""
    return tool(sys.executable, "-c", script, *args)


def test_torch_dataloader(fs: Tree) -> None:
    """Several workers, shuffled, two epochs, the file changed by nobody: every sample arrives right."""
    pytest.importorskip("torch")
    for number in range(SAMPLES):
        (fs.source / f"{number}.bin").write_bytes(random.Random(number).randbytes(20_000 + number))
    fs.settle()
    script = """
import random, sys, zlib
from pathlib import Path
import torch
from torch.utils.data import DataLoader, Dataset

class Files(Dataset):
    def __init__(self, top):
        self.paths = sorted(Path(top).iterdir(), key=lambda path: int(path.stem))
    def __len__(self):
        return len(self.paths)
    def __getitem__(self, at):
        data = self.paths[at].read_bytes()
        return at, len(data), zlib.crc32(data), torch.frombuffer(bytearray(data[:16]), dtype=torch.uint8)

files = Files(sys.argv[1])
for epoch in range(2):
    seen = set()
    loader = DataLoader(files, batch_size=16, shuffle=True, num_workers=3, persistent_workers=False)
    for numbers, sizes, sums, heads in loader:
        for at, size, crc, head in zip(numbers.tolist(), sizes.tolist(), sums.tolist(), heads):
            wanted = random.Random(at).randbytes(20_000 + at)
            assert size == len(wanted) and crc == zlib.crc32(wanted), at
            assert bytes(head.tolist()) == wanted[:16], at
            seen.add(at)
    assert len(seen) == len(files)
print("fine")
"""
    assert python(script, fs.path) == "fine\n"


def test_torch_save_and_load(fs: Tree) -> None:
    pytest.importorskip("torch")
    script = """
import sys, torch
path = sys.argv[1] + "/model.pt"
torch.manual_seed(1)
model = {f"layer{n}": torch.randn(256, 256) for n in range(12)}
torch.save(model, path)
for mmap in (False, True, True):
    again = torch.load(path, mmap=mmap, weights_only=True)
    assert all(torch.equal(model[name], again[name]) for name in model)
torch.save({"layer0": model["layer0"] + 1}, path + ".tmp")
import os; os.replace(path + ".tmp", path)
assert torch.equal(torch.load(path, mmap=True, weights_only=True)["layer0"], model["layer0"] + 1)
print("fine")
"""
    assert python(script, fs.path) == "fine\n"


def test_safetensors_mapped(fs: Tree) -> None:
    pytest.importorskip("safetensors")
    script = """
import sys, time, numpy
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
here, source = sys.argv[1:]
random = [numpy.random.default_rng(n) for n in range(20)]
tensors = {f"t{n}": random[n].standard_normal((300, 211), dtype=numpy.float32) for n in range(20)}
save_file(tensors, source + "/model.safetensors")
time.sleep(0.1)  # so old that it may be cached
for _ in range(2):
    with safe_open(here + "/model.safetensors", framework="numpy") as file:
        for name in reversed(sorted(tensors)):
            assert (file.get_tensor(name) == tensors[name]).all(), name
            assert (file.get_slice(name)[7:19] == tensors[name][7:19]).all(), name
assert all((value == tensors[name]).all() for name, value in load_file(here + "/model.safetensors").items())
print("fine")
"""
    assert python(script, fs.path, fs.source) == "fine\n"


def test_numpy_memmap(fs: Tree) -> None:
    pytest.importorskip("numpy")
    script = """
import sys, time, numpy
here, source = sys.argv[1:]
data = numpy.random.default_rng(3).integers(0, 2**31, size=(2000, 333), dtype=numpy.int32)
numpy.save(source + "/data.npy", data)
time.sleep(0.1)  # so old that it may be cached
for _ in range(2):
    view = numpy.load(here + "/data.npy", mmap_mode="r")
    rows = numpy.random.default_rng(4).permutation(2000)
    assert (view[rows] == data[rows]).all()
    del view
view = numpy.memmap(here + "/grown.bin", dtype="float64", mode="w+", shape=(1000, 100))
view[:] = numpy.arange(100_000).reshape(1000, 100)
view.flush()
assert (numpy.fromfile(source + "/grown.bin").reshape(1000, 100) == view).all()
edit = numpy.load(here + "/data.npy", mmap_mode="r+")
edit[5] = -1
edit.flush()
assert (numpy.load(source + "/data.npy")[5] == -1).all()
print("fine")
"""
    assert python(script, fs.path, fs.source) == "fine\n"


def test_pyarrow_parquet_and_feather(fs: Tree) -> None:
    pytest.importorskip("pyarrow")
    script = """
import sys, time, pyarrow, pyarrow.feather, pyarrow.parquet
here, source = sys.argv[1:]
table = pyarrow.table({"n": list(range(50_000)), "s": [f"value {n % 977}" for n in range(50_000)]})
pyarrow.parquet.write_table(table, source + "/t.parquet", row_group_size=5_000)
pyarrow.feather.write_feather(table, here + "/t.arrow", compression="uncompressed")
time.sleep(0.1)  # so old that it may be cached
for _ in range(2):
    assert pyarrow.parquet.read_table(here + "/t.parquet").equals(table)
    mapped = pyarrow.parquet.read_table(here + "/t.parquet", memory_map=True, columns=["s"])
    assert mapped.equals(table.select(["s"]))
    file = pyarrow.parquet.ParquetFile(here + "/t.parquet")
    assert file.read_row_group(7).equals(table.slice(35_000, 5_000))
    assert pyarrow.feather.read_table(here + "/t.arrow", memory_map=True).equals(table)
print("fine")
"""
    assert python(script, fs.path, fs.source) == "fine\n"


@pytest.mark.parametrize("engine", ["psync", "mmap", "libaio", "io_uring"])
def test_fio_verify(fs: Tree, base: Path, engine: str) -> None:
    """Written with checksums into the source, read at random through the mount, cold and warm."""
    require("fio")
    common = [
        "--name=v",
        "--bs=4k",
        "--size=8m",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--output-format=terse",
    ]
    tool(
        "fio",
        *common,
        "--rw=write",
        "--ioengine=psync",
        "--do_verify=0",
        f"--filename={fs.source}/fio",
        cwd=base,
    )
    for more in ([], ["--direct=1"] if engine in ("libaio", "io_uring") else []):
        fs.settle()
        tool("fio", *common, *more, "--rw=randread", "--readonly", "--iodepth=16", f"--ioengine={engine}",
             f"--filename={fs.path}/fio", cwd=base)  # fmt: skip


@pytest.mark.parametrize("engine", ["psync", "mmap", "libaio", "io_uring"])
def test_fio_write_and_verify(fs: Tree, base: Path, engine: str) -> None:
    require("fio")
    tool("fio", "--name=w", "--rw=randwrite", "--bs=8k", "--size=16m", "--verify=crc32c", "--verify_fatal=1",
         "--verify_state_save=0", "--iodepth=8", f"--ioengine={engine}", "--fsync_on_close=1",
         f"--directory={fs.path}", cwd=base)  # fmt: skip


def test_git(fs: Tree, base: Path) -> None:
    require("git")
    origin = base / "origin"
    origin.mkdir()
    git = partial(tool, "git", "-c", "user.name=test", "-c", "user.email=test@example.com")
    git("init", "-q", "-b", "main", ".", cwd=origin)
    for number in range(200):
        (origin / f"dir{number % 7}").mkdir(exist_ok=True)
        (origin / f"dir{number % 7}" / f"file{number}").write_bytes(random.Random(number).randbytes(3_000))
    git("add", ".", cwd=origin)
    git("commit", "-q", "-m", "first", cwd=origin)
    git("clone", "-q", origin, fs / "clone")
    clone = fs / "clone"
    assert git("status", "--porcelain", cwd=clone) == ""
    (clone / "dir1" / "file1").write_text("changed")
    (clone / "new").write_text("new")
    shutil.rmtree(clone / "dir2")
    assert len(git("status", "--porcelain", cwd=clone).splitlines()) == 31
    git("add", "-A", cwd=clone)
    git("commit", "-q", "-m", "second", cwd=clone)
    git("checkout", "-q", "-b", "other", "HEAD~1", cwd=clone)
    assert (clone / "dir2").is_dir()
    git("merge", "-q", "--no-ff", "-m", "merge", "main", cwd=clone)
    git("gc", "-q", cwd=clone)
    git("fsck", "--full", "--strict", cwd=clone)
    assert git("status", "--porcelain", cwd=clone) == ""
    assert git("status", "--porcelain", cwd=fs.source / "clone") == ""


@pytest.mark.parametrize("journal", ["wal", "delete", "truncate"])
def test_sqlite_in_two_processes(fs: Tree, journal: str) -> None:
    """Both write in their own transactions and wait for each other's locks; WAL needs shared mappings."""
    with sqlite3.connect(fs / "db") as db:
        assert db.execute(f"pragma journal_mode={journal}").fetchone()[0] == journal
        db.execute("create table t (who int, n int, data blob)")
    db.close()

    def work(who: int) -> None:
        mine = sqlite3.connect(fs / "db", timeout=60)
        for number in range(40):
            with mine:
                mine.execute("begin immediate")
                count = mine.execute("select count(*) from t where who=?", (who,)).fetchone()[0]
                assert count == number
                mine.execute("insert into t values (?, ?, ?)", (who, number, bytes(3_000)))
        mine.close()

    children = [posix.Child(partial(work, who)) for who in range(2)]
    for child in children:
        child.wait()
    for path in (fs / "db", fs.source / "db"):
        db = sqlite3.connect(path)
        assert db.execute("pragma integrity_check").fetchone()[0] == "ok"
        assert db.execute("select who, count(*) from t group by who").fetchall() == [(0, 40), (1, 40)]
        db.close()


def test_sqlite_reads_a_database_that_grows_behind_a_reader(fs: Tree) -> None:
    writer = sqlite3.connect(fs / "db")
    writer.execute("create table t (n int)")
    reader = sqlite3.connect(fs / "db")
    for number in range(60):
        with writer:
            writer.execute("insert into t values (?)", (number,))
        assert reader.execute("select count(*) from t").fetchone()[0] == number + 1
    reader.close()
    writer.close()


def test_compiling(fs: Tree) -> None:
    """A small build with make and gcc in the mount: many short files, an executable that then runs."""
    require("make")
    (fs / "Makefile").write_text("prog: a.o b.o\n\tgcc -o $@ $^\n%.o: %.c h.h\n\tgcc -c -o $@ $<\n")
    (fs / "h.h").write_text("int b(void);\n")
    (fs / "a.c").write_text('#include "h.h"\nint main(void) { return b(); }\n')
    (fs / "b.c").write_text('#include "h.h"\nint b(void) { return 42; }\n')
    tool("make", "-s", cwd=fs.path)
    assert subprocess.run([fs / "prog"]).returncode == 42
    assert "up to date" in tool("make", cwd=fs.path)
    posix.tick()
    (fs / "b.c").write_text('#include "h.h"\nint b(void) { return 43; }\n')
    tool("make", "-s", cwd=fs.path)
    assert subprocess.run([fs / "prog"]).returncode == 43


STRESSORS = [
    "access", "chattr", "chdir", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep", "dirmany", "dup",
    "eventfd", "fallocate", "fcntl", "fiemap", "file-ioctl", "filename", "flock", "fpunch", "fsize", "fstat",
    "getdent", "hdd", "io", "iomix", "lease", "link", "locka", "lockf", "lockmix", "lockofd", "mknod", "open",
    "rename", "revio", "seek", "symlink", "sync-file", "touch", "unlink", "utime", "verity", "xattr",
]  # fmt: skip
SHORT = [
    "dir",
    "fallocate",
    "flock",
    "hdd",
    "rename",
    "xattr",
]


def stress_ng(fs: Tree, stressor: str, seconds: int) -> None:
    require("stress-ng")
    done = subprocess.run(
        ["stress-ng", f"--{stressor}", "2", "-t", f"{seconds}", "--verify", "--temp-path", fs.path],
        capture_output=True, text=True, timeout=seconds + 60,
    )  # fmt: skip
    said = done.stdout + done.stderr
    if done.returncode == 3:  # the resource that it stresses does not exist here
        pytest.skip(said.splitlines()[-1])
    assert done.returncode == 0, said
    assert os.listdir(fs.path) == []


@pytest.mark.parametrize("stressor", SHORT)
def test_stress_ng(fs: Tree, stressor: str) -> None:
    stress_ng(fs, stressor, 1)


@pytest.mark.stress
@pytest.mark.parametrize("stressor", STRESSORS)
def test_stress_ng_all(fs: Tree, stressor: str) -> None:
    stress_ng(fs, stressor, 3)


@pytest.mark.stress
@pytest.mark.timeout(600)
def test_stress_ng_class(fs: Tree) -> None:
    """The whole class in sequence, as an operator would try a file system."""
    require("stress-ng")
    argv = ["stress-ng", "--class", "filesystem", "--seq", "1", "-t", "1", "--verify", "--temp-path", fs.path]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=500)
    said = done.stdout + done.stderr
    assert done.returncode in (0, 3), (
        said
    )  # 3: some stressor tries what this kernel lacks, binderfs as a rule
    assert "successful run completed" in said
    assert " fail: " not in said, said
    assert os.listdir(fs.path) == []
