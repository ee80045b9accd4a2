"""Settings: what the daemon is told to do. ``models`` has the keys, ``layers`` where they are given, ``load``
makes one of all, ``recipes`` has what comes with the package."""

from swmld.config.load import ConfigError, load
from swmld.config.models import FreeFloor, PathRule, Settings, mount_name

__all__ = ["ConfigError", "FreeFloor", "PathRule", "Settings", "load", "mount_name"]
