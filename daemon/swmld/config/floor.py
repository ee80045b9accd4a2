"""How much of a disk stays free."""

from __future__ import annotations

from dataclasses import dataclass

from swmld.units import format_size


@dataclass(frozen=True, slots=True)
class FreeFloor:
    """Disk space that the cache leaves free: ``share`` of the disk, but never more than ``cap`` bytes.

    ``auto`` is 5 % of the disk, at most 10 GiB: the 5 % is what ext4 reserves for root by default, so other
    programs meet no full disk before the cache stops; the cap keeps a 20 TB disk from giving up 1 TB.
    """

    share: float
    cap: int | None

    def of(self, disk_size: int) -> int:
        """Bytes to leave free on a disk of ``disk_size`` bytes."""
        floor = int(disk_size * self.share)
        return floor if self.cap is None else min(floor, self.cap)

    def __str__(self) -> str:
        if self == AUTO_FLOOR:
            return "auto"
        return f"{self.share * 100:g}%" if self.cap is None else format_size(self.cap)


AUTO_FLOOR = FreeFloor(0.05, 10 << 30)
