"""What rules are told about the host: from a /proc made here, from the real one, and from a library of NVML
that is compiled here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from swmld.head import host as head_host
from swmld.head.host import Host, name_of, percent
from swmld.rules import catalogue

LOADED = "cpu  100 0 100 {idle} 0 0 0 0 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    made = tmp_path / "proc"
    (made / "pressure").mkdir(parents=True)
    (made / "meminfo").write_text("MemTotal:  4096 kB\nMemFree:  1 kB\nMemAvailable:  2048 kB\n")
    (made / "pressure" / "memory").write_text(
        "some avg10=1.25 avg60=9.00 avg300=8.00 total=77\nfull avg10=0.50 avg60=0 avg300=0 total=5\n"
    )
    (made / "stat").write_text(LOADED.format(idle=800))
    return made


def test_what_a_proc_says(proc: Path, tmp_path: Path) -> None:
    host = Host(tmp_path, proc=proc)
    found = host.look()
    assert (found["free_memory"], found["memory_pressure"]) == (2 << 20, 1.25)
    assert found["cpu_count"] == len(os.sched_getaffinity(0))
    assert "cpu" not in found
    (proc / "stat").write_text("cpu  130 5 115 810 30 5 10 5 99 99\n")
    assert host.look()["cpu"] == percent(70 / 110)
    assert "cpu" not in host.look()  # no time has passed


def test_a_proc_without_answers(proc: Path, tmp_path: Path) -> None:
    (proc / "pressure" / "memory").unlink()
    (proc / "meminfo").write_text("MemAvailable:\n")
    (proc / "stat").write_text("")
    found = Host(tmp_path / "nothing", proc=proc).look()
    assert {name for name in found if not name.startswith("gpu")} == {"cpu_count", "time_of_day"}


def test_the_real_host(tmp_path: Path) -> None:
    host = Host(tmp_path)
    found = host.look()
    disk = os.statvfs(tmp_path)
    assert 0 < found["free_memory"] < os.sysconf("SC_PAGESIZE") * os.sysconf("SC_PHYS_PAGES")  # type: ignore[operator]
    assert 0 <= found["time_of_day"] < 86400  # type: ignore[operator]
    assert 0 <= found["disk_fill"] <= 100  # type: ignore[operator]
    assert 0 < found["disk_free"] <= disk.f_blocks * disk.f_frsize  # type: ignore[operator]


def test_a_host_without_a_driver_has_no_gpu(
    proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has beside a driver that does not answer is not known."""
    dev = tmp_path / "dev"
    dev.mkdir()

    def told(facts: dict[str, int]) -> object:
        monkeypatch.setattr(head_host.Gpus, "facts", lambda gpus: facts)
        return Host(tmp_path, proc=proc, dev=dev).look().get("gpu_count")

    assert told({}) == 0
    assert told({"gpu_count": 2}) == 2
    for driver in (dev / "kfd", dev / "nvidiactl", proc / "driver" / "nvidia"):
        driver.mkdir(parents=True)
        assert told({}) is None
        assert told({"gpu_count": 2}) == 2
        driver.rmdir()


@pytest.mark.parametrize(("share", "points"), [(0.29, 29), (-0.1, 0), (1.2, 100), (1 / 3, 33.3333)])
def test_percent(share: float, points: float) -> None:
    assert percent(share) == points


# ---- kept in memory


async def until(host: Host, uid: int = -1) -> None:
    with trio.fail_after(20):
        while not host.facts() if uid < 0 else host.user(uid) is None:  # noqa: ASYNC110
            await trio.sleep(0.002)


@pytest.mark.trio
async def test_facts_are_there_while_it_runs_and_go_when_it_no_longer_answers(
    proc: Path, tmp_path: Path
) -> None:
    clock = Clock()
    host = Host(tmp_path, proc=proc, clock=clock)
    assert host.facts() == {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.run)
        await until(host)
        assert host.facts()["free_memory"] == 2 << 20
        nursery.cancel_scope.cancel()
    clock.now += head_host.STALE - 0.1
    assert host.facts()
    clock.now += 0.2
    assert host.facts() == {}


@pytest.mark.trio
async def test_facts_are_renewed(proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_host, "REFRESH", 0.001)
    host = Host(tmp_path, proc=proc)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.run)
        await until(host)
        idle = 850
        with trio.fail_after(20):
            while host.facts().get("cpu") is None:
                # Each time: only the look after a change has the share of the time since the one before.
                (proc / "stat").write_text(LOADED.format(idle=idle))
                idle += 100
                await trio.sleep(0.002)
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_users_have_names(proc: Path, tmp_path: Path) -> None:
    host = Host(tmp_path, proc=proc)
    nobody = 4_000_000_001
    assert host.user(0) is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.run)
        await until(host, 0)
        await until(host, nobody)
        nursery.cancel_scope.cancel()
    assert host.user(0) == "root"
    assert host.user(nobody) == str(nobody)
    assert name_of(1 << 70) == str(1 << 70)


def test_users_are_bounded(proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_host, "USERS", 5)
    host = Host(tmp_path, proc=proc)
    for uid in range(1000):
        assert host.user(uid) is None
    assert len(host._users) <= 5
    assert host._asked.statistics().current_buffer_used <= head_host.ASKED


# ---- GPUs

NVML = r"""
/* As nvml.h has them. The GPUs are the lines of the file $FAKE_GPUS: total, free (bytes), utilisation (%) and
   temperature; a total of -1 is a GPU that is lost, a utilisation of -1 one that does not say. No file: the
   driver does not answer. */
#include <stdio.h>
#include <stdlib.h>

enum { OK, UNINITIALIZED, INVALID, NOT_SUPPORTED, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15, UNKNOWN = 999 };
struct memory { unsigned long long total, free, used; };
struct utilization { unsigned gpu, memory; };
struct gpu { long long total, free; int busy, degrees; };

static struct gpu gpus[8];
static int inits;

static int look(void)
{
    FILE *file = fopen(getenv("FAKE_GPUS"), "r");
    int count = 0;

    if (!file)
        return -1;
    while (count < 8 && fscanf(file, "%lld %lld %d %d", &gpus[count].total, &gpus[count].free,
                               &gpus[count].busy, &gpus[count].degrees) == 4)
        count++;
    fclose(file);
    return count;
}

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    inits++;
    return look() < 0 ? DRIVER_NOT_LOADED : OK;
}

int nvmlShutdown(void)
{
    if (!inits)
        return UNINITIALIZED;
    inits--;
    return OK;
}

const char *nvmlErrorString(int code) { (void)code; return "fake"; }

int nvmlDeviceGetCount_v2(unsigned *count)
{
    int found = look();

    if (found < 0)
        inits = 0; /* even if it comes back, it has to be initialised anew */
    *count = found;
    return found < 0 ? UNKNOWN : inits > 0 ? OK : UNINITIALIZED;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct gpu **gpu)
{
    *gpu = &gpus[index];
    return gpus[index].total < 0 ? GPU_IS_LOST : OK;
}

int nvmlDeviceGetMemoryInfo(struct gpu *gpu, struct memory *memory)
{
    memory->total = gpu->total;
    memory->free = gpu->free;
    memory->used = gpu->total - gpu->free;
    return OK;
}

int nvmlDeviceGetUtilizationRates(struct gpu *gpu, struct utilization *rates)
{
    rates->gpu = gpu->busy;
    return gpu->busy < 0 ? NOT_SUPPORTED : OK;
}

int nvmlDeviceGetTemperature(struct gpu *gpu, int sensor, unsigned *degrees)
{
    *degrees = gpu->degrees;
    return sensor ? INVALID : OK;
}
"""

# Each line of its input is a table of GPUs, "-" for none that answers; between two a minute goes by, half of
# one before "!".
PROGRAM = """
import json, os, sys
from swmld.head.host import RETRY, Gpus
now = 0.0
gpus = Gpus(lambda: now)
for line in sys.stdin:
    now += RETRY / 2 if line[0] == "!" else RETRY
    line = line.removeprefix("!")
    path = os.environ["FAKE_GPUS"]
    if line.strip() == "-":
        if os.path.exists(path):
            os.unlink(path)
    else:
        with open(path, "w") as file:
            file.write(line.replace(";", "\\n"))
    print(json.dumps(gpus.facts()), "pynvml" in sys.modules)
"""


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the library."""
    base = tmp_path_factory.mktemp("nvml")
    (base / "nvml.c").write_text(NVML)
    library = base / "libnvidia-ml.so.1"
    flags = ["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run(["gcc", *flags, "-o", library, base / "nvml.c"], check=True, timeout=60)
    return base


def gpus(directory: Path, tmp_path: Path, *tables: str) -> list[tuple[dict[str, float], bool]]:
    """What is told of each of these tables, and whether pynvml was imported by then."""
    environment = os.environ | {"LD_LIBRARY_PATH": str(directory), "FAKE_GPUS": str(tmp_path / "gpus")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input="\n".join(tables) + "\n",
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = [line.rpartition(" ") for line in done.stdout.splitlines()]
    return [(json.loads(facts), imported == "True") for facts, _, imported in lines]


def test_gpus(nvml: Path, tmp_path: Path) -> None:
    told = [
        facts
        for facts, _ in gpus(
            nvml,
            tmp_path,
            "-",
            "1000 400 30 61; 2000 1000 90 50",
            "1000 400 -1 61; 2000 100 -1 50; -1 0 0 99",
            "-",
            "!0 0 7 40",
            "0 0 7 40",
            "",
        )
    ]
    assert told[0] == {}
    assert told[1] == {
        "gpu_count": 2,
        "gpu_memory": 60.0,
        "gpu_memory_free": 400,
        "gpu_memory_total": 1000,
        "gpu_utilization": 90,
        "gpu_temperature": 61,
    }
    assert set(told[1]) == {what.name for what in catalogue.PROPERTIES if what.source == "gpu"}
    assert told[2] == {
        "gpu_count": 3,
        "gpu_memory": 95.0,
        "gpu_memory_free": 100,
        "gpu_memory_total": 1000,
        "gpu_temperature": 61,
    }
    assert told[3] == {}  # the driver was unloaded
    assert told[4] == {}  # it is not asked all the time
    assert told[5] == {"gpu_count": 1, "gpu_utilization": 7, "gpu_temperature": 40}
    assert told[6] == {"gpu_count": 0}


def test_without_the_library_nothing_large_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    assert gpus(tmp_path, tmp_path, "1000 400 30 61") == [({}, False)]
