"""Kernel headers: which are taken of what is installed, and the tree that is made of two halves."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from swmld.errors import HostError
from swmld.observe import headers
from swmld.observe.headers import Headers

ARCH = {"x86_64": "x86", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
COMMON = ("include/linux/kconfig.h", "include/net/tcp.h", f"arch/{ARCH}/include/asm/page.h")
FLAVOUR = (
    "include/generated/autoconf.h",
    "include/config/auto.conf",
    f"arch/{ARCH}/include/generated/asm/x.h",
)
RUNNING = "6.18.0-here"


def tree(root: Path, files: Iterable[str]) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{root}/{name}")
    return root


def made(path: Path) -> tuple[int, int]:
    """Tells a tree from one that was made anew: inode numbers are used again."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


class Host:
    """A host's /usr/src, /lib/modules and /sys/kernel/kheaders.tar.xz."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.src, self.modules, self.archive = root / "src", root / "modules", root / "kheaders.tar.xz"
        self.state = root / "state" / "deep"

    def installed(self, name: str, *parts: tuple[str, ...]) -> Path:
        return tree(self.src / name, [file for part in parts for file in part])

    def debian(self, release: str, flavour: str = "amd64", real_time: str = "") -> None:
        self.installed(f"linux-headers-{release}-common{real_time}", COMMON)
        self.installed(f"linux-headers-{release}{real_time}-{flavour}", FLAVOUR)

    def linked(self, release: str, **links: Path) -> None:
        (self.modules / release).mkdir(parents=True)
        for name, target in links.items():
            (self.modules / release / name).symlink_to(target)

    def archived(self) -> None:
        content = tree(self.root / "content", COMMON + FLAVOUR)
        with tarfile.open(self.archive, "w:xz") as archive:
            archive.add(content, ".")

    def find(self) -> Headers:
        return headers.find(self.state, RUNNING, self.src, self.modules, self.archive)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_running_kernels_own_tree_is_taken_as_it_is(host: Host) -> None:
    host.debian("6.99.0-1")
    host.linked(RUNNING, build=host.installed("elsewhere", COMMON, FLAVOUR))
    assert host.find() == (host.modules / RUNNING / "build", RUNNING, "the running kernel's own")
    assert not host.state.exists()


def test_the_running_kernels_own_halves_are_merged(host: Host) -> None:
    host.linked(RUNNING, build=host.installed("a-obj", FLAVOUR), source=host.installed("a", COMMON))
    found = host.find()
    assert (found.release, found.why) == (RUNNING, "the running kernel's own")
    assert (found.path / COMMON[0]).read_text() == f"{host.src}/a/{COMMON[0]}"
    assert (found.path / FLAVOUR[0]).read_text() == f"{host.src}/a-obj/{FLAVOUR[0]}"


def test_the_kernels_archive_comes_before_another_kernels_headers(host: Host) -> None:
    host.debian("6.99.0-1")
    host.archived()
    found = host.find()
    assert (found.release, found.path.parent) == (RUNNING, host.state)
    assert (found.path / FLAVOUR[0]).is_file()
    before = made(found.path)
    assert made(host.find().path) == before, "unpacked again"


def test_a_broken_archive_is_passed_over(host: Host) -> None:
    host.debian("6.99.0-1")
    host.archive.write_bytes(b"nothing of use")
    assert host.find().release == "6.99.0-1-amd64"


def test_another_kernels_halves_are_merged(host: Host) -> None:
    host.debian("6.1.0-9")
    found = host.find()
    assert (found.release, found.why) == ("6.1.0-9-amd64", "another kernel's, 6.1.0-9-amd64")
    for half, files in (("common", COMMON), ("amd64", FLAVOUR)):
        for name in files:
            assert (found.path / name).read_text() == f"{host.src}/linux-headers-6.1.0-9-{half}/{name}"
    assert os.listdir(host.state) == [found.path.name]


@pytest.mark.parametrize(
    ("releases", "newest"),
    [
        (["6.1.0-9", "6.1.0-10", "5.10.0-30"], "6.1.0-10-amd64"),
        (["6.2.0-1", "6.10.0-1"], "6.10.0-1-amd64"),
    ],
)
def test_versions_are_compared_as_numbers(host: Host, releases: list[str], newest: str) -> None:
    for release in releases:
        host.debian(release)
    assert host.find().release == newest


def test_each_flavour_gets_its_own_common_half(host: Host) -> None:
    host.debian("6.1.0-9", real_time="-rt")
    assert host.find().release == "6.1.0-9-rt-amd64"
    host.installed("linux-headers-6.1.0-10-rt-amd64", FLAVOUR)
    host.installed("linux-headers-6.1.0-10-common", COMMON)
    assert host.find().release == "6.1.0-9-rt-amd64", "headers of two kernels in one tree"


def test_one_whole_tree_of_another_kernel(host: Host) -> None:
    path = host.installed("kernels/5.14.0-427.el9.x86_64", COMMON, FLAVOUR)
    assert host.find()[:2] == (path, "5.14.0-427.el9.x86_64")


def test_a_directory_in_both_halves_shows_what_both_have(host: Host) -> None:
    host.debian("6.1.0-9")
    host.installed("linux-headers-6.1.0-9-common", ("include/config/more.h", "include/config/auto.conf"))
    config = host.find().path / "include/config"
    assert sorted(os.listdir(config)) == ["auto.conf", "more.h"]
    assert "amd64" in (config / "auto.conf").read_text()


def test_a_half_is_not_enough(host: Host) -> None:
    host.installed("linux-headers-6.1.0-9-common", COMMON)
    host.linked(RUNNING, build=host.root / "gone")
    with pytest.raises(HostError, match=r"^no kernel headers to compile probes with: install \S+$"):
        host.find()


def test_the_tree_is_made_again_when_it_must_be_and_only_then(host: Host) -> None:
    host.debian("6.1.0-9")
    first = host.find().path
    before = made(first)
    assert made(host.find().path) == before
    (first / "include/net").unlink()
    assert (host.find().path / "include/net/tcp.h").exists(), "a damaged tree is kept"
    (first / "include/net").unlink()
    (first / "include/net").symlink_to(host.root)
    assert (host.find().path / "include/net/tcp.h").exists(), "a link that leads elsewhere is kept"
    host.installed("linux-headers-6.1.0-9-common", ("include/more/new.h",))
    second = host.find().path
    assert (second / "include/more/new.h").exists()
    assert {path.name for path in host.state.iterdir()} == {first.name, second.name}


def test_what_is_of_no_more_use_is_removed(host: Host) -> None:
    host.debian("6.1.0-9")
    old = host.find().path
    tree(host.state / ".making-killed", COMMON + FLAVOUR)
    for name in ("common", "amd64"):
        (host.src / f"linux-headers-6.1.0-9-{name}").rename(host.root / name)
    host.debian("6.1.0-10")
    new = host.find().path
    assert new != old
    assert os.listdir(host.state) == [new.name]


def test_what_another_process_made_meanwhile_is_taken(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.debian("6.1.0-9")
    flock = headers.fcntl.flock
    others: list[tuple[int, int]] = []

    def wait(fd: int, operation: int) -> None:
        # While this one waits for the lock, another has it and makes the tree.
        monkeypatch.setattr(headers.fcntl, "flock", flock)
        others.append(made(host.find().path))
        flock(fd, operation)

    monkeypatch.setattr(headers.fcntl, "flock", wait)
    assert [made(host.find().path)] == others


def test_many_at_once_take_the_same_whole_tree(host: Host) -> None:
    host.debian("6.1.0-9")

    def found(_: int) -> tuple[Path, tuple[int, int]]:
        path = host.find().path
        assert (path / COMMON[0]).exists()
        assert (path / FLAVOUR[0]).exists()
        return path, made(path)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(found, range(32)))) == 1
    assert len(os.listdir(host.state)) == 1


def test_a_state_directory_that_cannot_be_written_is_one_line(host: Host) -> None:
    host.debian("6.1.0-9")
    host.state.parent.write_text("a file")
    with pytest.raises(HostError, match=r"state/deep: cannot prepare kernel headers: Not a directory$"):
        host.find()


@pytest.mark.parametrize(
    ("text", "package"),
    [
        ('ID=ubuntu\nID_LIKE=debian\nNAME="Ubuntu"\n', "linux-headers-generic"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "kernel-devel"),
        ("ID=debian\n", f"linux-headers-{headers._DEBIAN_ARCH.get(os.uname().machine, os.uname().machine)}"),
    ],
)
def test_the_package_to_install(text: str, package: str, tmp_path: Path) -> None:
    (tmp_path / "os-release").write_text(text)
    assert headers.package(tmp_path / "os-release") == package


def test_bcc_compiles_with_what_is_found_here(tmp_path: Path) -> None:
    if not any(headers.sources()):
        pytest.skip("no kernel headers are installed")
    program = (
        "import bcc; bcc.BPF(text='#include <linux/fs.h>\\nint f(void *c) { return sizeof(struct inode); }')"
    )
    environment = os.environ | {"BCC_KERNEL_SOURCE": str(headers.find(tmp_path).path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
