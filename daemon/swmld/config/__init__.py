"""Settings: what the daemon is told to do. ``models`` has the keys, ``load`` makes one."""

from swmld.config.load import ConfigError, load
from swmld.config.models import FreeFloor, PathRule, Settings, mount_name

__all__ = ["ConfigError", "FreeFloor", "PathRule", "Settings", "load", "mount_name"]
