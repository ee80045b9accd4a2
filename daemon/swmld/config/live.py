"""Settings that a daemon takes over while it runs, when the configuration changes."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swmld.config.models import Settings

LIVE = ("log_level", "cache_size", "free_floor", "readahead_max", "prefetch_parallel")
"""Others need what is made once: descriptors, threads, buffers, the kernel's mount."""

_BESIDE = ("chunk_size", "fetch_parallel")
"""What these are held against."""


def taken_over(now: Settings, said: Mapping[str, Any], fixed: Set[str]) -> Settings:
    """``now`` with what files say of ``LIVE`` by now, and their defaults where they say nothing any more.
    ``fixed``: keys of the command line and the environment variables, which count more. ValueError if values
    do not go together."""
    from pydantic import ValidationError

    from swmld.config.models import Settings

    keys = [key for key in LIVE if key not in fixed]
    kept = {key: getattr(now, key) for key in _BESIDE}
    try:
        then = Settings.model_validate(
            {"mount": now.mount, **kept, **{k: said[k] for k in keys if k in said}}
        )
    except ValidationError as error:
        raise ValueError(str(error.errors()[0]["msg"])) from None
    return now.model_copy(update={key: getattr(then, key) for key in keys})
