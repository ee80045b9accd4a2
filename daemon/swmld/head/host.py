"""What is known of the host: memory, CPUs, the cache's disk, GPUs, users. Asked in worker threads, kept here.

``Host.run`` asks once a second; ``facts`` and ``user`` answer from memory. What cannot be had (no PSI in this
kernel, no NVIDIA driver, a disk that does not answer) is left out.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from swmld.rules.kinds import Value

REFRESH = 1.0
"""Seconds between the end of one look and the next."""

STALE = 10.0
"""Seconds after which facts are no longer told: what is asked does not answer."""

RETRY = 60.0
"""Seconds between two attempts to reach the NVIDIA driver, which may be loaded later."""

USERS = 4096
"""Names of users that are remembered."""

ASKED = 256
"""Users whose names may be waited for at once."""


class Gpus:
    """NVML: for one worker thread at a time. Without library, driver or GPU there is nothing to tell."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._nvml: Any = None
        self._next_attempt = float("-inf")

    def facts(self) -> dict[str, Value]:
        """``gpu_*``. Blocking; what a GPU does not tell (some vGPU and MIG modes) is left out."""
        if self._nvml is None and not self._open():
            return {}
        try:
            return self._read()
        except self._nvml.NVMLError:  # the driver was unloaded, or updated below us
            self._close()
            return {}

    def _open(self) -> bool:
        now = self._clock()
        if now < self._next_attempt:
            return False
        self._next_attempt = now + RETRY
        try:
            # The library first: on hosts without, the large module need not be loaded.
            ctypes.CDLL("libnvidia-ml.so.1")
            import pynvml

            pynvml.nvmlInit()
        except Exception:  # pynvml has an exception class of its own for each of the library's codes
            return False
        self._nvml = pynvml
        return True

    def _close(self) -> None:
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()
        self._nvml = None
        self._next_attempt = self._clock() + RETRY

    def _read(self) -> dict[str, Value]:
        nvml = self._nvml
        count = nvml.nvmlDeviceGetCount()
        found: dict[str, Value] = {"gpu_count": count}
        memory, busy, warm = [], [], []
        for index in range(count):
            with contextlib.suppress(nvml.NVMLError):
                device = nvml.nvmlDeviceGetHandleByIndex(index)
                with contextlib.suppress(nvml.NVMLError):
                    memory.append(nvml.nvmlDeviceGetMemoryInfo(device))
                with contextlib.suppress(nvml.NVMLError):
                    busy.append(nvml.nvmlDeviceGetUtilizationRates(device).gpu)
                with contextlib.suppress(nvml.NVMLError):
                    warm.append(nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU))
        memory = [each for each in memory if each.total]
        if memory:
            # Free and not "used": that leaves out what the driver keeps for itself.
            fullest = min(memory, key=lambda each: each.free / each.total)
            found["gpu_memory"] = percent(1 - fullest.free / fullest.total)
            found["gpu_memory_free"] = fullest.free
            found["gpu_memory_total"] = min(each.total for each in memory)
        if busy:
            found["gpu_utilization"] = max(busy)
        if warm:
            found["gpu_temperature"] = max(warm)
        return found


class Host:
    """``run`` must run for there to be facts. ``cache_dir``: a directory on the cache's disk."""

    def __init__(
        self,
        cache_dir: Path,
        *,
        proc: Path = Path("/proc"),
        dev: Path = Path("/dev"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache_dir = cache_dir
        self._proc = proc
        self._drivers = (proc / "driver" / "nvidia", dev / "nvidiactl", dev / "kfd")
        """Of GPUs: NVIDIA's, AMD's for computing. Where one is, there may be GPUs although nobody tells."""
        self._clock = clock
        self._gpus = Gpus(clock)
        self._cpu: tuple[int, int] | None = None
        self._facts: Mapping[str, Value] = {}
        self._until = float("-inf")
        self._users: dict[int, str | None] = {}
        self._ask, self._asked = trio.open_memory_channel[int](ASKED)

    def facts(self) -> Mapping[str, Value]:
        """By the names of ``rules.catalogue``, in canonical units; empty before the first look and while the
        host does not answer. Not the caller's to change."""
        return self._facts if self._clock() < self._until else {}

    def user(self, uid: int) -> str | None:
        """Name of a user, or the number where there is no name. Loop-only. None: not known yet; it is being
        asked for, in a thread: a directory service may take its time."""
        if uid not in self._users:
            if len(self._users) >= USERS:
                self._users.clear()
            with contextlib.suppress(trio.WouldBlock):
                self._ask.send_nowait(uid)
                self._users[uid] = None
        return self._users.get(uid)

    async def run(self) -> None:
        """Until cancelled. A look that hangs holds one thread, and no end of the daemon."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._name)
            limiter = trio.CapacityLimiter(1)
            while True:
                found = await trio.to_thread.run_sync(self.look, abandon_on_cancel=True, limiter=limiter)
                self._facts, self._until = found, self._clock() + STALE
                await trio.sleep(REFRESH)

    async def _name(self) -> None:
        limiter = trio.CapacityLimiter(1)
        async for uid in self._asked:
            self._users[uid] = await trio.to_thread.run_sync(
                name_of, uid, abandon_on_cancel=True, limiter=limiter
            )

    def look(self) -> dict[str, Value]:
        """Blocking, one at a time: everything as it is now. ``cpu`` is since the last look."""
        now = time.localtime()
        found: dict[str, Value] = {
            "cpu_count": len(os.sched_getaffinity(0)),
            "time_of_day": now.tm_hour * 3600 + now.tm_min * 60 + min(now.tm_sec, 59),
        }
        for part in (self._memory, self._pressure, self._cpu_time, self._disk):
            with contextlib.suppress(OSError, ValueError, IndexError):
                found |= part()
        gpus = self._gpus.facts()
        if not gpus and not any(driver.exists() for driver in self._drivers):
            gpus = {"gpu_count": 0}
        return found | gpus

    def _memory(self) -> dict[str, Value]:
        """proc_meminfo(5)."""
        for line in (self._proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return {"free_memory": int(line.split()[1]) << 10}
        return {}

    def _pressure(self) -> dict[str, Value]:
        """Documentation/accounting/psi.rst: ``some avg10=0.00 avg60=0.00 ...``."""
        words = (self._proc / "pressure" / "memory").read_text().split()
        return {"memory_pressure": float(words[1].removeprefix("avg10="))} if words[0] == "some" else {}

    def _cpu_time(self) -> dict[str, Value]:
        """proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal; guest time is in user."""
        times = [int(word) for word in (self._proc / "stat").read_text().split("\n", 1)[0].split()[1:9]]
        total, idle = sum(times), times[3] + times[4]
        before, self._cpu = self._cpu, (total, idle)
        if before is None or total <= before[0]:
            return {}
        return {"cpu": percent(1 - (idle - before[1]) / (total - before[0]))}

    def _disk(self) -> dict[str, Value]:
        """As df(1) has it: what only root may use counts neither as free nor as there."""
        disk = os.statvfs(self._cache_dir)
        used = disk.f_blocks - disk.f_bfree
        found: dict[str, Value] = {"disk_free": disk.f_bavail * disk.f_frsize}
        if used + disk.f_bavail:
            found["disk_fill"] = percent(used / (used + disk.f_bavail))
        return found


def percent(share: float) -> float:
    """Points of a share of 0 to 1; rounded, so that 0.29 is 29 and not a little less."""
    return round(100 * min(1.0, max(0.0, share)), 4)


def name_of(uid: int) -> str:
    """Blocking. The name, or the number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError, OverflowError):
        return str(uid)
