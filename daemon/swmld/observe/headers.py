"""Kernel headers to compile the probes with.

bcc wants one source tree with everything in it. The running kernel's own headers are best; the probes take
layouts from BTF or from tracepoints, so any other kernel's will do. What a distribution installs in two
halves (one for all flavours, one for each) is merged as a tree of links in the state directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import lzma
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from swmld.errors import HostError

SOURCES = Path("/usr/src")
MODULES = Path("/lib/modules")
# CONFIG_IKHEADERS: the kernel carries its own headers (modprobe kheaders).
ARCHIVE = Path("/sys/kernel/kheaders.tar.xz")

_MAKING = ".making-"
# The kernel's name of an architecture (arch/*) and Debian's, by uname's.
_KERNEL_ARCH = {"x86_64": "x86", "i686": "x86", "aarch64": "arm64", "ppc64le": "powerpc", "riscv64": "riscv"}
_DEBIAN_ARCH = {"x86_64": "amd64", "i686": "686", "aarch64": "arm64", "ppc64le": "powerpc64le"}
# By ID and ID_LIKE of os-release(5).
_PACKAGE = {
    "ubuntu": "linux-headers-generic",
    "fedora": "kernel-devel",
    "rhel": "kernel-devel",
    "suse": "kernel-default-devel",
    "arch": "linux-headers",
}


class Headers(NamedTuple):
    path: Path  # for BCC_KERNEL_SOURCE
    release: str  # of the kernel that they belong to
    why: str  # which were taken, for the log


class Source(NamedTuple):
    """Headers as installed: ``roots`` together have all that bcc needs; one alone needs no merging."""

    roots: tuple[Path, ...]
    release: str
    why: str


def find(
    state_dir: Path,
    release: str = os.uname().release,
    src: Path = SOURCES,
    modules: Path = MODULES,
    archive: Path = ARCHIVE,
) -> Headers:
    """The headers to compile with; a tree that has to be made is made in ``state_dir``.

    Blocking: 2 ms, 20 ms if links are made, seconds if the kernel's archive is unpacked, once each.
    Several processes may do it at once. Raises HostError in one line where there are none.
    """
    try:
        for source in sources(release, src, modules, archive):
            if source.roots == (archive,):
                path = _extracted(state_dir, archive)
            elif len(source.roots) > 1:
                path = _merged(state_dir, source.roots)
            else:
                path = source.roots[0]
            if path is not None and _complete((path,)):
                return Headers(path, source.release, source.why)
    except OSError as error:
        raise HostError(f"{state_dir}: cannot prepare kernel headers: {error.strerror}") from error
    raise HostError(f"no kernel headers to compile probes with: install {package()}")


def sources(
    release: str = os.uname().release,
    src: Path = SOURCES,
    modules: Path = MODULES,
    archive: Path = ARCHIVE,
) -> Iterator[Source]:
    """What is installed, best first: the running kernel's own, its archive, then others, newest first."""
    own = _built(modules / release)
    if own:
        yield Source(own, release, "the running kernel's own")
    if archive.exists():
        yield Source((archive,), release, "the running kernel's own, from its archive")
    others = [*_others(src, modules)]
    for roots, other in sorted(others, key=lambda found: _version(found[1]), reverse=True):
        yield Source(roots, other, f"another kernel's, {other}")


def package(os_release: Path = Path("/etc/os-release")) -> str:
    """The package that brings headers on this distribution."""
    named: list[str] = []
    with contextlib.suppress(OSError):
        for line in os_release.read_text().splitlines():
            key, _, value = line.partition("=")
            if key in ("ID", "ID_LIKE"):
                named += value.strip("\"'").split()
    known = next((_PACKAGE[name] for name in named if name in _PACKAGE), None)
    machine = os.uname().machine
    return known or f"linux-headers-{_DEBIAN_ARCH.get(machine, machine)}"


def _others(src: Path, modules: Path) -> Iterator[tuple[tuple[Path, ...], str]]:
    for build in modules.glob("*/build"):
        roots = _built(build.parent)
        if roots:
            yield roots, build.parent.name
    commons = [*src.glob("linux-headers-*-common*")]
    for tree in [*src.glob("linux-headers-*"), *src.glob("kernels/*")]:
        release = tree.name.removeprefix("linux-headers-")
        if _complete((tree,)):
            yield (tree,), release
            continue
        for common in commons:
            version, _, flavour = common.name.partition("-common")
            # linux-headers-6.1.0-9-rt-amd64 goes with -common-rt, linux-headers-6.1.0-9-amd64 with -common.
            fits = tree.name.startswith(f"{version}{flavour}-") and tree != common
            if fits and ("-rt-" in tree.name) == (flavour == "-rt") and _complete((tree, common)):
                yield (tree, common), release
                break


def _built(module_dir: Path) -> tuple[Path, ...] | None:
    """What a kernel's module directory links to: one whole tree, or its own half and the common one."""
    build, source = module_dir / "build", module_dir / "source"
    if _complete((build,)):
        return (build,)
    return (build, source) if _complete((build, source)) else None


def _arch() -> str:
    machine = os.uname().machine
    return _KERNEL_ARCH.get(machine, machine)


def _complete(roots: tuple[Path, ...]) -> bool:
    """Whether the roots together have what every compilation by bcc includes, in whichever half it is."""
    arch = f"arch/{_arch()}/include"
    needed = ("include/linux/kconfig.h", "include/generated/autoconf.h", f"{arch}/asm", f"{arch}/generated")
    return all(any((root / name).exists() for root in roots) for name in needed)


def _version(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release))


def _merged(state_dir: Path, roots: tuple[Path, ...]) -> Path:
    """A tree of links to the roots. Its name says what it links to, so that a change makes another one."""
    links = _overlay(roots, "include") | _overlay(roots, f"arch/{_arch()}/include")
    digest = hashlib.sha256("\n".join(f"{at} {to}" for at, to in sorted(links.items())).encode())
    tree = state_dir / f"headers-{digest.hexdigest()[:16]}"

    def fill(made: Path) -> None:
        for at, to in links.items():
            (made / at).parent.mkdir(parents=True, exist_ok=True)
            (made / at).symlink_to(to)

    _make(tree, lambda: _linked(tree, links), fill)
    return tree


def _extracted(state_dir: Path, archive: Path) -> Path | None:
    """The content of the kernel's archive; None if it cannot be unpacked."""
    tree = state_dir / f"kheaders-{hashlib.sha256(archive.read_bytes()).hexdigest()[:16]}"

    def fill(made: Path) -> None:
        with tarfile.open(archive) as content:
            content.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
            content.extractall(made)

    try:
        _make(tree, lambda: _complete((tree,)), fill)
    except (tarfile.TarError, lzma.LZMAError, EOFError):
        return None
    return tree


def _overlay(roots: tuple[Path, ...], place: str) -> dict[str, str]:
    """Links, by path in the tree, that show all roots at once; of a file in several, the first root's."""
    owners: dict[str, list[Path]] = {}
    for root in roots:
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(root / place):
                owners.setdefault(name, []).append(root)
    links: dict[str, str] = {}
    for name, having in owners.items():
        below = f"{place}/{name}"
        if len(having) > 1 and all((root / below).is_dir() for root in having):
            links |= _overlay(tuple(having), below)
        else:
            links[below] = str(having[0].absolute() / below)
    return links


def _linked(tree: Path, links: dict[str, str]) -> bool:
    try:
        return all(os.readlink(tree / at) == to for at, to in links.items())
    except OSError:
        return False


def _make(tree: Path, ready: Callable[[], bool], fill: Callable[[Path], None]) -> None:
    """Fill a directory beside ``tree`` and rename it, unless the tree is there: one process at a time.

    The lock is the kernel's and ends with its process. A whole tree is never touched: others compile with it.
    """
    if ready():
        return
    tree.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(tree.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if ready():
            return
        _tidy(tree)
        made = Path(tempfile.mkdtemp(prefix=_MAKING, dir=tree.parent))
        try:
            fill(made)
            made.chmod(0o755)
            made.rename(tree)
        except BaseException:
            shutil.rmtree(made)
            raise
    finally:
        os.close(lock)


def _tidy(tree: Path) -> None:
    """Remove what a killed process left, ``tree`` itself (damaged), and trees whose headers are gone."""
    for old in [
        *tree.parent.glob(f"{_MAKING}*"),
        *tree.parent.glob("headers-*"),
        *tree.parent.glob("kheaders-*"),
    ]:
        if old == tree or old.name.startswith(_MAKING) or not _complete((old,)):
            shutil.rmtree(old)
