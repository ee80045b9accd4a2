"""The doctor tells what it saw, and survives hosts that have nothing."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from swmld import doctor
from swmld.cli.main import run
from swmld.doctor import Finding
from swmld.observe import programs
from swmld.observe.loader import Report


def test_every_feature_has_a_way_out(tmp_path: Path) -> None:
    findings = doctor.examine(tmp_path / "not" / "there")
    assert [finding.name for finding in findings] == [
        "FUSE",
        "native library",
        "passthrough",
        "FUSE over io_uring",
        "io_uring",
        "eBPF",
        "bcc",
        "kernel headers",
        "BTF",
        "tracefs",
        "probes",
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


def test_fuse_over_io_uring_is_the_modules_parameter(tmp_path: Path) -> None:
    parameter = tmp_path / "enable_uring"
    missing = doctor.fuse_uring(parameter)
    assert (missing.works, missing.detail) == (False, f"no {parameter}")
    parameter.write_text("N\n")
    assert doctor.fuse_uring(parameter).works


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
    modules, sources, archive = tmp_path / "modules", tmp_path / "src", tmp_path / "kheaders.tar.xz"
    machine = os.uname().machine
    arch = {"x86_64": "x86", "aarch64": "arm64"}.get(machine, machine)

    def install(tree: Path) -> None:
        for name in ("include/linux/kconfig.h", "include/generated/autoconf.h"):
            (tree / name).parent.mkdir(parents=True)
            (tree / name).touch()
        for name in ("asm", "generated"):
            (tree / f"arch/{arch}/include/{name}").mkdir(parents=True)

    missing = doctor.kernel_headers(modules, sources, archive)
    assert (missing.works, "apt-get install linux-headers-" in missing.how) == (False, True)
    install(sources / "linux-headers-6.1")
    assert "another kernel's, 6.1: " in doctor.kernel_headers(modules, sources, archive).detail
    install(modules / os.uname().release / "build")
    assert "own: " in doctor.kernel_headers(modules, sources, archive).detail


def test_btf(tmp_path: Path) -> None:
    missing = doctor.btf(tmp_path / "vmlinux")
    assert (missing.works, "CONFIG_DEBUG_INFO_BTF" in missing.detail) == (False, True)


def test_tracefs(tmp_path: Path) -> None:
    filesystems = tmp_path / "filesystems"
    filesystems.write_text("nodev\tproc\n")
    place = tmp_path / "tracing"
    missing = doctor.tracefs((place,), filesystems)
    assert (missing.works, missing.detail) == (False, "this kernel has none")
    filesystems.write_text("nodev\ttracefs\n")
    unmounted = doctor.tracefs((place,), filesystems)
    assert (unmounted.works, "not mounted" in unmounted.detail) == (True, True)
    (place / "events").mkdir(parents=True)
    assert doctor.tracefs((place,), filesystems).detail == str(place)


def report(
    way: str, tried: dict[str, str], *missing: str, origin: str = "compiled", unkept: str = ""
) -> Report:
    return Report(
        way=way, tried=tried, missing=[*missing], headers="own", descriptors=9, seconds=0.44,
        origin=origin, why="", unkept=unkept,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("said", "works", "detail"),
    [
        (report("btf", {}), True, "BTF-typed tracepoints, compiled in 0.4 s; headers: own"),
        (
            report("btf", {}, origin="kept"),
            True,
            "BTF-typed tracepoints, from the state directory in 0.4 s; headers: own",
        ),
        (
            report("tracepoint", {"btf": "no BTF"}, "sched_switch", unkept="it is full"),
            True,
            "tracepoints, compiled in 0.4 s; headers: own; not kept for the next start: it is full; this "
            "kernel lacks sched_switch; better would be BTF-typed tracepoints: no BTF (takes a newer kernel, "
            "with CONFIG_DEBUG_INFO_BTF)",
        ),
        (
            report("", {"btf": "no BTF", "tracepoint": "no tracefs"}),
            False,
            "BTF-typed tracepoints: no BTF; tracepoints: no tracefs",
        ),
        (report("", {"btf": "no bcc", "tracepoint": "no bcc"}), False, "no bcc"),
    ],
)
def test_which_probes_and_what_would_be_better(said: Report, works: bool, detail: str) -> None:
    found = doctor.probes(said)
    assert (found.works, found.detail) == (works, detail)


def test_every_way_of_the_loader_has_a_name() -> None:
    assert tuple(doctor._WAYS) == programs.WAYS


def test_the_loader_is_asked_and_may_break(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python"
    monkeypatch.setattr(doctor.sys, "executable", str(python))
    assert "No such file" in doctor.probes().detail
    said = json.dumps(report("btf", {}))
    # Its state directory is a new one, and there while it runs.
    python.write_text(f"#!/bin/sh\ntouch $4/tree && echo $4 >{tmp_path}/state && echo '{said}'\n")
    python.chmod(0o755)
    assert doctor.probes().works
    assert not Path((tmp_path / "state").read_text().strip()).exists()
    python.write_text("#!/bin/sh\necho 'no module' >&2\nexit 1\n")
    assert (doctor.probes().works, doctor.probes().detail) == (False, "no module")
    python.write_text("#!/bin/sh\nexit 3\n")
    assert "ends with 3" in doctor.probes().detail


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
