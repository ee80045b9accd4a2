"""The doctor tells what it saw, and survives hosts that have nothing."""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from swmld import doctor
from swmld.cli.main import run
from swmld.doctor import Finding


def test_every_feature_has_a_way_out(tmp_path: Path) -> None:
    findings = doctor.examine(tmp_path / "not" / "there")
    assert [finding.name for finding in findings] == [
        "FUSE",
        "native library",
        "passthrough",
        "io_uring",
        "eBPF",
        "bcc",
        "kernel headers",
        "tracefs",
        "NVML",
        "open files",
        "cache disk",
    ]
    for finding in findings:
        assert finding.detail
        assert finding.how
        assert finding.works or finding.instead


def test_fuse_is_tried(tmp_path: Path) -> None:
    assert doctor.fuse("/dev/null").works
    missing = doctor.fuse(str(tmp_path / "fuse"))
    assert (missing.works, missing.required) == (False, True)
    assert "No such file" in missing.detail


def test_io_uring_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "liburing", None)
    assert not doctor.io_uring().works


def test_passthrough_tells_the_kernels_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Module:
        lib = type("lib", (), {"sw_probe_passthrough": staticmethod(lambda fd: -95)})

    monkeypatch.setitem(sys.modules, "swmld._native", Module)
    found = doctor.passthrough(tmp_path)
    assert (found.works, found.detail) == (False, "Operation not supported")
    Module.lib = type("lib", (), {"sw_probe_passthrough": staticmethod(lambda fd: 0)})
    assert doctor.passthrough(tmp_path).works
    Module.lib = type("lib", (), {})
    assert "too old" in doctor.passthrough(tmp_path).detail


def test_ebpf_passes_a_program_that_the_kernel_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What bpf(2) is given: the command, and attributes that hold two whole instructions."""
    seen: list[Any] = []

    class Libc:
        @staticmethod
        def syscall(number: int, command: int, attributes: Any, size: int) -> int:
            found = attributes._obj
            seen.append((command, found.prog_type, found.insn_cnt, ctypes.string_at(found.insns, 16), size))
            ctypes.set_errno(1)
            return -1

    monkeypatch.setattr(doctor.ctypes, "CDLL", lambda *_, **__: Libc)
    found = doctor.ebpf()
    assert (found.works, found.detail) == (False, "Operation not permitted")
    assert seen == [(5, 5, 2, b"\xb7" + bytes(7) + b"\x95" + bytes(7), 48)]


def test_headers_of_the_running_kernel_come_first(tmp_path: Path) -> None:
    modules, sources = tmp_path / "modules", tmp_path / "src"
    assert not doctor.kernel_headers(modules, sources).works
    (sources / "linux-headers-6.1-common" / "include").mkdir(parents=True)
    assert "another kernel's" in doctor.kernel_headers(modules, sources).detail
    (modules / doctor.os.uname().release / "build" / "include").mkdir(parents=True)
    assert "own" in doctor.kernel_headers(modules, sources).detail


def test_tracefs(tmp_path: Path) -> None:
    filesystems = tmp_path / "filesystems"
    filesystems.write_text("nodev\tproc\n")
    place = str(tmp_path / "tracing")
    assert doctor.tracefs((place,), str(filesystems)).detail == "this kernel has none"
    filesystems.write_text("nodev\ttracefs\n")
    unmounted = doctor.tracefs((place,), str(filesystems))
    assert (unmounted.works, unmounted.detail) == (False, "not mounted")
    (tmp_path / "tracing" / "events").mkdir(parents=True)
    assert doctor.tracefs((place,), str(filesystems)).works


def test_bcc_that_breaks_is_told_and_harms_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'ImportError: no LLVM' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(doctor.sys, "executable", str(broken))
    assert doctor.bcc().detail == "ImportError: no LLVM"
    broken.write_text("#!/bin/sh\nkill -SEGV $$\n")
    assert not doctor.bcc().works


def test_a_full_disk_and_few_descriptors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: doctor.shutil._ntuple_diskusage(100, 96, 4))
    assert not doctor.disk(tmp_path).works
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda which: (1024, 1024))
    assert not doctor.descriptors().works
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda which: (1024, doctor.resource.RLIM_INFINITY))
    assert doctor.descriptors().works


@pytest.mark.parametrize(
    ("required", "works", "code"), [(True, True, 0), (True, False, 1), (False, False, 0)]
)
def test_the_exit_code_says_whether_swmld_can_run(
    required: bool,
    works: bool,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    finding = Finding("feature", works, "seen", "instead", "how", required)
    monkeypatch.setattr(doctor, "examine", lambda cache_dir: [finding])
    assert run(["doctor"]) == code
    out = capsys.readouterr().out
    assert ("yes" in out, "used instead: instead" in out, "to get it: how" in out) == (
        works,
        not works,
        not works,
    )
    assert run(["doctor", "--json"]) == code
    assert json.loads(capsys.readouterr().out)[0]["works"] == works
