"""Whether each read is looked at now, in words, and how to get exact counts. Pure."""

from __future__ import annotations

from swmld.api.messages import Probe
from swmld.doctor import Finding

EXACT = "start the daemon with --probe-rate 0: each read is looked at, at 75 to 150 ns a read"


def told(probe: Probe) -> str:
    """How often reads are looked at; "" where nothing is known of that."""
    limit = probe.get("limit", 0)
    if probe.get("share", 1.0) < 1:
        rate = f": {probe['rate']:,} a second of one CPU" if probe.get("rate") else ""
        more = f", more than --probe-rate {limit}" if limit else ""
        return (
            f"reads are sampled, {probe['share']:.0%} of the time{rate}{more}; counts "
            "are estimates, exact ones with --probe-rate 0"
        )
    if probe["how"] in ("fuse", "off"):
        return ""
    return f"each read is counted, up to {limit:,} a second of one CPU" if limit else "each read is counted"


def finding(mount: str, probe: Probe) -> Finding | None:
    """The same as the doctor says it of a daemon; None where no probe looks at reads."""
    words = told(probe)
    if not words:
        return None
    sampled = probe.get("share", 1.0) < 1
    return Finding(f"exact counts, {mount}", not sampled, words, "estimates, marked with ~", EXACT)
