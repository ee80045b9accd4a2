"""Fixtures that layers t4 to t7 share: modes, mounted trees, hang protection, log checks, options."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from hypothesis import settings
from support import mount, tree
from support.mount import Daemon
from support.tree import Tree
from support.watchdog import watchdog

_numbers = itertools.count(1)

# No daemon or command of a test reads the configuration of the host.
os.environ["SWMLD_CONFIG"] = "off"

# Where nothing may be skipped nothing may depend on luck either: the same examples each time. Other runs look
# for new ones.
settings.register_profile("same", derandomize=True)
if os.environ.get("SWMLD_REQUIRE"):
    settings.load_profile("same")


# What most tests of a daemon expect comes in its own time: what the kernel does, when a process has ended, a
# server answers, a change is seen, what was fetched ahead has landed. Another's load can fail them where
# nothing is wrong, so they have a second try, with fixtures of its own: a daemon or a cluster that the first
# has left in the middle of something would fail it again. A failed first one is printed whole, as it may be a
# race. What proves bytes has one try.
SECOND_TRY = pytest.StashKey[bool]()
ONE_TRY = {
    "test_fault_cache",
    "test_fuse_bytes",
    "test_fuse_coherence",
    "test_fuse_concurrent",
    "test_fuse_fsx",
    "test_fuse_tree_model",
    "test_staging_model",
}
ALONE = {"t4_bpf", "t7_stress", "test_fuse_concurrent", "test_native"}
"""What counts all that the kernel does, what bounds how long threads wait, what needs all CPUs: not beside
others. A daemon that a test ends is the test's own, and no reason to be alone."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--stress", action="store_true", help="also run what takes minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Layers in order: the first failure is then the lowest broken layer.
    items.sort(key=lambda item: item.path.parent.name)
    for item in items:
        places = {item.path.parent.name, item.path.stem}
        if not places & ONE_TRY:
            item.stash[SECOND_TRY] = True
        if places & ALONE:
            item.add_marker(pytest.mark.alone)
    if not config.getoption("--stress"):
        skip = pytest.mark.skip(reason="minutes long: run with --stress")
        for item in items:
            if item.get_closest_marker("stress"):
                item.add_marker(skip)


@pytest.hookimpl(trylast=True)  # after the fixtures that -x leaves to the end: their daemons are watched, too
def pytest_sessionfinish() -> None:
    watchdog.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.section(f"failed at the first try: {report.nodeid}", sep="_")
        terminalreporter.write_line(report.longreprtext)
        for title, text in report.sections:
            terminalreporter.section(title, sep="-")
            terminalreporter.write_line(text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for daemon in mount.LIVE:
            report.sections.append(("daemon log", daemon.tail()))
    return report


@pytest.hookimpl(wrapper=True, specname="pytest_runtest_protocol")
def watched(item: pytest.Item) -> Generator[None, Any, Any]:
    """Arm the watchdog below the test's own timeout: a hung test then fails with its log, not the run."""
    marker = item.get_closest_marker("timeout")
    limit = float(marker.args[0] if marker else item.config.getini("timeout"))
    armed = any(f"/t{layer}_" in str(item.path) for layer in (4, 5, 6, 7))
    if armed:
        watchdog.arm(min(limit * 0.8, limit - 5))
    try:
        return (yield)
    finally:
        if armed:
            watchdog.disarm()


@pytest.hookimpl
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """The second try of those that have one."""
    if not item.stash.get(SECOND_TRY, False):
        return None
    at = {"nodeid": item.nodeid, "location": item.location}
    item.ihook.pytest_runtest_logstart(**at)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if any(report.failed for report in reports):
        for report in reports:
            if report.failed:
                report.outcome = "rerun"  # type: ignore[assignment]
                item.ihook.pytest_runtest_logreport(report=report)
        with contextlib.suppress(Exception):  # what the first one has broken
            item.session._setupstate.teardown_exact(None)
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(**at)
    return True


def pytest_report_teststatus(
    report: pytest.TestReport,
) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    if report.outcome != "rerun":  # type: ignore[comparison-overlap]
        return None
    return "rerun", "R", ("RERUN", {"yellow": True})


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory of the test's own that every user can enter."""
    with tree.work_dir() as path:
        yield path


@pytest.fixture(params=tree.modes())
def mode(request: pytest.FixtureRequest) -> str:
    """Each way the mount can serve reads; the disk itself with SWMLD_TEST_BACKEND=native."""
    tree.require_mode(request.param)
    return str(request.param)


@pytest.fixture(params=[mode for mode in tree.modes() if mode != tree.DISK])
def daemon_mode(request: pytest.FixtureRequest) -> str:
    """As ``mode``, for tests that make no sense without a daemon."""
    tree.require_mode(request.param)
    return str(request.param)


class _Shared:
    """One daemon a module and mode; started again where a test ended it."""

    def __init__(self, mode: str, options: Sequence[str]) -> None:
        self._mode = mode
        self._options = options
        self._stack = ExitStack()
        self._tree: Tree | None = None

    def tree(self) -> Tree:
        if self._tree is not None and self._tree.daemon is not None and not self._tree.daemon.alive:
            self.close(quietly=True)
        if self._tree is None:
            base = self._stack.enter_context(tree.work_dir())
            self._tree = self._stack.enter_context(
                tree.backend(self._mode, base, options=["--chunk-size", "64KiB", *self._options])
            )
        return self._tree

    def close(self, quietly: bool = False) -> None:
        self._tree = None
        try:
            self._stack.close()
        except AssertionError:
            if not quietly:
                raise


@pytest.fixture(scope="module", params=tree.modes())
def shared(request: pytest.FixtureRequest) -> Iterator[_Shared]:
    tree.require_mode(request.param)
    shared = _Shared(request.param, getattr(request.module, "SHARED_OPTIONS", ()))
    yield shared
    shared.close()


@pytest.fixture
def fs(shared: _Shared) -> Iterator[Tree]:
    """A fresh directory, made through the mount, in a daemon that the module's tests share.

    Its chunks are the smallest: files are cached whole up to 64 KiB and in parts above. A module's
    ``SHARED_OPTIONS`` are for the daemon as well.
    """
    whole = shared.tree()
    name = f"t{next(_numbers)}"
    (whole.path / name).mkdir()
    (whole.path / name).chmod(0o755)
    yield Tree(whole.path / name, whole.source / name, whole.mode, whole.daemon)
    if whole.daemon is not None:
        assert whole.daemon.alive, f"the daemon died\n{whole.daemon.tail()}"
        whole.daemon.check_log()


@pytest.fixture
def own(mode: str, base: Path) -> Iterator[Callable[..., Tree]]:
    """Make a tree with a daemon of the test's own; arguments are those of Daemon."""
    with ExitStack() as stack:
        yield lambda **daemon: stack.enter_context(tree.backend(mode, base, **daemon))


@pytest.fixture
def daemon(daemon_mode: str, base: Path) -> Iterator[Callable[..., Daemon]]:
    """Start a daemon of the test's own in the mode; arguments are those of Daemon."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Daemon(base, daemon_mode, **options))
