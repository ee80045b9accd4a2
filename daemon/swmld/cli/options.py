"""Option types shared by the commands, and the settings' options made from ``config.models``.

The help of a setting is the description of its key, so the command line, the man page and the configuration
file never tell different stories.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from swmld.config.floor import FreeFloor
from swmld.config.layers import option_name
from swmld.config.models import RUN_DIR, Settings
from swmld.units import format_duration, format_size

# Which parser of config.values reads the value decides what stands for it in the help.
METAVARS = {
    "mount": "DIR", "source": "DIR|URL", "cache_dir": "DIR", "run_dir": "DIR", "state_dir": "DIR",
    "cache_size": "SIZE", "chunk_size": "SIZE", "sub_read": "SIZE", "readahead_max": "SIZE",
    "free_floor": "SIZE|N%|auto", "check": "strict|relaxed|immutable", "engine": "auto|uring|threads",
    "write": "through|back", "staging_size": "SIZE",
    "neighbours": "auto|off", "log_level": "debug|info|warning|error", "log_format": "text|json",
    "check_interval": "TIME", "metadata_timeout": "TIME", "fetch_timeout": "TIME", "source_wait": "TIME",
    "source_grace": "TIME",
    "fetch_parallel": "N", "prefetch_parallel": "N", "neighbours_max_files": "N",
    "metrics_address": "HOST:PORT|off", "probe": "auto|ebpf|fuse|off|WAY", "probe_rate": "N",
    "rules": "PATH", "environment": "NAME", "plugins": "DIR",
}  # fmt: skip
SIZES = frozenset(key for key, metavar in METAVARS.items() if metavar == "SIZE")
TIMES = frozenset(key for key, metavar in METAVARS.items() if metavar == "TIME")
PluginsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--plugins",
        metavar="DIR",
        help="Directory of plugins, besides /etc/swmld/plugins. Repeatable.",
        show_default=False,
    ),
]
"""Of commands that read files as a daemon would."""
PANELS = {
    "Mount": ("mount", "source", "read_only", "passthrough", "native", "fuse_uring", "follow", "hedge"),
    "Write": ("write", "staging_size"),
    "Cache": ("cache_dir", "cache_size", "free_floor", "chunk_size"),
    "Consistency": ("check", "check_interval", "metadata_timeout"),
    "Fetch": ("engine", "fetch_parallel", "prefetch_parallel", "sub_read", "fetch_timeout", "source_wait",
              "source_grace", "readahead_max", "neighbours", "neighbours_max_files"),
    "Rules": ("rules", "environment", "plugins", "use_plugins"),
    "Operation": ("probe", "probe_rate", "metrics_address", "run_dir", "state_dir", "log_level",
                  "log_format"),
}  # fmt: skip
_PANEL_OF = {key: panel for panel, keys in PANELS.items() for key in keys}


def default_text(key: str) -> str | None:
    """The default of a setting as a person writes it; None if it has none of its own or is a switch."""
    field = Settings.model_fields[key]
    default = field.default
    if (
        field.is_required()
        or field.default_factory is not None
        or default is None
        or isinstance(default, bool | tuple)
    ):
        return None
    if key in SIZES:
        return format_size(default)
    if key in TIMES:
        return format_duration(default)
    return str(getattr(default, "value", default)) if not isinstance(default, FreeFloor) else str(default)


def setting(key: str, *names: str) -> Any:
    """The option of the settings key ``key``; ``names`` if it is not just ``--key``."""
    default = default_text(key)
    shown = f" Default: {default}." if default else ""
    return typer.Option(
        *(names or (option_name(key),)),
        help=f"{Settings.model_fields[key].description}{shown}",
        metavar=METAVARS.get(key),
        show_default=False,
        rich_help_panel=_PANEL_OF[key],
    )


MountOption = Annotated[
    str | None,
    typer.Option("--mount", metavar="DIR", help="Which daemon: the one that serves DIR.", show_default=False),
]
RunDirOption = Annotated[
    str,
    typer.Option("--run-dir", metavar="DIR", help="The daemon's --run-dir, if it was given one."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead, for scripts.")]
DEFAULT_RUN_DIR = str(RUN_DIR)
