"""Settings that a daemon takes over while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from swmld.config.live import LIVE, taken_over
from swmld.config.models import Settings

NOW = Settings.model_validate(
    {"mount": "/mnt", "chunk_size": "1MiB", "fetch_parallel": 8, "cache_size": "1GiB"}
)


def test_what_files_say_by_now_and_their_defaults_count() -> None:
    said = {"cache_size": "2GiB", "log_level": "debug", "chunk_size": "4MiB", "prefetch_parallel": 3}
    then = taken_over(NOW, said, frozenset())
    assert (then.cache_size, then.log_level, then.prefetch_parallel) == (2 << 30, "debug", 3)
    assert then.chunk_size == NOW.chunk_size
    again = taken_over(then, {}, frozenset())
    assert (again.cache_size, again.log_level, again.prefetch_parallel) == (100 << 30, "info", 6)
    changed = {key for key in Settings.model_fields if getattr(again, key) != getattr(NOW, key)}
    assert changed <= set(LIVE)
    assert again.mount == Path("/mnt")


def test_the_command_line_counts_more() -> None:
    then = taken_over(NOW, {"cache_size": "2GiB", "readahead_max": "1MiB"}, frozenset({"cache_size"}))
    assert (then.cache_size, then.readahead_max) == (NOW.cache_size, 1 << 20)


@pytest.mark.parametrize("said", [{"cache_size": "64KiB"}, {"prefetch_parallel": 9}, {"log_level": "loud"}])
def test_what_does_not_go_together_is_refused(said: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        taken_over(NOW, said, frozenset())
