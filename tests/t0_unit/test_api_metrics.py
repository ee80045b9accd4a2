"""Metrics: every definition is exported as it says, and the endpoint answers scrapers and nobody else."""

from __future__ import annotations

import errno
import logging
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from swmld.api import http
from swmld.api.metrics import METRICS, RuleFigures, Snapshot, StagedFigures, values
from swmld.api.scrape import SnapshotCollector
from swmld.errors import UsageError
from swmld.fetch.stats import FetchStats, Result
from swmld.histogram import LATENCY_BUCKETS
from swmld.sources.counting import Outcome, SourceCounts
from swmld.sources.wrapping import Kind
from swmld.types import FetchClass, Served


def snapshot() -> Snapshot:
    """Every field has its own value, so that a mixed-up one shows."""
    fetch = FetchStats()
    fetch.flights[FetchClass.DEMAND, Result.LANDED] = 41
    fetch.flights[FetchClass.PREFETCH, Result.TIMEOUT] = 42
    fetch.bytes.update({FetchClass.DEMAND: 43, FetchClass.PREFETCH: 44})
    for seconds in (0.0004, 0.001, 0.0015, 100.0):
        fetch.latency[FetchClass.DEMAND].observe(seconds)
    fetch.queued[FetchClass.PREFETCH] = 45
    fetch.in_flight[FetchClass.DEMAND] = 46
    fetch.reads_in_flight, fetch.stuck, fetch.retries = 47, 48, 49
    fetch.dropped, fetch.promoted, fetch.refused = 50, 51, 52
    source = SourceCounts(bytes=54, written=90, retries=55, given_up=56, hedges=57, hedges_won=58)
    source.calls[Kind.STAT, Outcome.ABSENT] = 53
    source.errors[errno.EIO] = 59
    source.failovers[Outcome.BUSY] = 196
    source.latency[Kind.READ].observe(0.0015)
    return Snapshot(
        fetch=fetch,
        source=source,
        staged=StagedFigures(91, 92, 93, {"conflict": 94}, 95),
        opens={Served.PASSTHROUGH: 1},
        reads={Served.NATIVE: 6, Served.MISS: 2},
        read_bytes={Served.NATIVE: 3},
        writes=4,
        written_bytes=5,
        requests={"native": 7, "python": 8},
        errors={"source_io": 9},
        prefetch_used_bytes=10,
        prefetch_wasted_bytes=11,
        patterns={"random": 20},
        tiers={"page_cache": 21},
        lost={"events": 22},
        seen_share=0.25,
        sampled_seconds=33.5,
        parked_reads=12,
        cache_bytes=13,
        cache_files=14,
        cache_limit_bytes=15,
        disk_free_bytes=16,
        evictions=17,
        followed={"present": 96},
        compressed={"stored": 33},
        open_files=18,
        known_nodes=19,
        rules=RuleFigures(
            25,
            23,
            24,
            {"images": 26},
            {("images", "late"): 31},
            {("images", "raw"): 32},
            {"started": 27},
            {("webhook", "failed"): 28},
            {"images": (32.5, 33)},
            {("images", "before"): 0.25},
        ),
        plugins={"disabled": 29},
        plugin_calls={"onnx": 30},
    )


def samples(text: str) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def exported(make: Callable[[], Snapshot]) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(make))
    return samples(generate_latest(registry).decode())


def test_each_value_is_exported_under_its_name() -> None:
    found = exported(snapshot)
    expected = {
        "swmld_opens_total{how=passthrough}": 1,
        "swmld_reads_total{how=native}": 6,
        "swmld_reads_total{how=miss}": 2,
        "swmld_read_bytes_total{how=native}": 3,
        "swmld_hit_ratio": 0.75,
        "swmld_writes_total": 4,
        "swmld_written_bytes_total": 5,
        "swmld_requests_total{handler=native}": 7,
        "swmld_requests_total{handler=python}": 8,
        "swmld_errors_total{kind=source_io}": 9,
        "swmld_fetches_total{class=demand,result=landed}": 41,
        "swmld_fetches_total{class=prefetch,result=timeout}": 42,
        "swmld_fetches_total{class=prefetch,result=landed}": 0,
        "swmld_fetched_bytes_total{class=demand}": 43,
        "swmld_fetched_bytes_total{class=prefetch}": 44,
        "swmld_fetch_duration_seconds_bucket{class=demand,le=0.0005}": 1,
        "swmld_fetch_duration_seconds_bucket{class=demand,le=0.001}": 2,
        "swmld_fetch_duration_seconds_bucket{class=demand,le=0.002}": 3,
        "swmld_fetch_duration_seconds_bucket{class=demand,le=30.0}": 3,
        "swmld_fetch_duration_seconds_bucket{class=demand,le=+Inf}": 4,
        "swmld_fetch_duration_seconds_count{class=demand}": 4,
        "swmld_fetch_queue_length{class=prefetch}": 45,
        "swmld_fetch_in_flight{class=demand}": 46,
        "swmld_source_reads_in_flight": 47,
        "swmld_source_reads_stuck": 48,
        "swmld_source_calls_total{call=stat,outcome=absent}": 53,
        "swmld_source_call_duration_seconds_count{call=read}": 1,
        "swmld_source_errors_total{errno=EIO}": 59,
        "swmld_source_read_bytes_total": 54,
        "swmld_source_written_bytes_total": 90,
        "swmld_source_retries_total": 55,
        "swmld_source_given_up_total": 56,
        "swmld_source_failovers_total{outcome=busy}": 196,
        "swmld_source_hedges_total{result=sent}": 57,
        "swmld_source_hedges_total{result=won}": 58,
        "swmld_staged_files": 91,
        "swmld_staged_bytes": 92,
        "swmld_staged_aside_files": 93,
        "swmld_uploads_total{outcome=conflict}": 94,
        "swmld_uploaded_bytes_total": 95,
        "swmld_fetch_retries_total": 49,
        "swmld_prefetch_dropped_total": 50,
        "swmld_prefetch_promoted_total": 51,
        "swmld_fetch_refused_total": 52,
        "swmld_prefetch_bytes_total{outcome=used}": 10,
        "swmld_prefetch_bytes_total{outcome=wasted}": 11,
        "swmld_seen_reads_total{pattern=random}": 20,
        "swmld_seen_tier_reads_total{tier=page_cache}": 21,
        "swmld_seen_lost_total{kind=events}": 22,
        "swmld_seen_share": 0.25,
        "swmld_seen_sampled_seconds_total": 33.5,
        "swmld_parked_reads": 12,
        "swmld_cache_bytes": 13,
        "swmld_cache_files": 14,
        "swmld_cache_limit_bytes": 15,
        "swmld_cache_disk_free_bytes": 16,
        "swmld_evictions_total": 17,
        "swmld_followed_files_total{found=present}": 96,
        "swmld_cache_compressed_bytes_total{size=stored}": 33,
        "swmld_rule_compressed_bytes_total{rule=images,size=raw}": 32,
        "swmld_open_files": 18,
        "swmld_known_nodes": 19,
        "swmld_rules": 23,
        "swmld_rule_decisions_total": 24,
        "swmld_rules_reload_errors_total": 25,
        "swmld_rule_applied_total{rule=images}": 26,
        "swmld_rule_prefetch_bytes_total{outcome=late,rule=images}": 31,
        "swmld_rule_wait_seconds_total{rule=images}": 32.5,
        "swmld_rule_read_bytes_total{rule=images}": 33,
        "swmld_rule_wait_seconds_per_byte{rule=images,when=before}": 0.25,
        "swmld_events_total{event=started}": 27,
        "swmld_notifications_total{how=webhook,result=failed}": 28,
        "swmld_plugins{state=disabled}": 29,
        "swmld_plugin_calls_total{plugin=onnx}": 30,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert {name.partition("{")[0] for name in expected} >= {
        definition.name for definition in METRICS if definition.kind != "histogram"
    }


def test_what_is_not_known_is_left_out() -> None:
    assert exported(Snapshot) == {}
    assert values(Snapshot()) == {}
    assert "swmld_writes_total" in exported(lambda: Snapshot(writes=0))


def test_stats_has_the_same_values() -> None:
    found = values(snapshot())
    assert found["reads_total"] == {"native": 6, "miss": 2}
    assert found["hit_ratio"] == 0.75
    assert found["fetches_total"]["demand,landed"] == 41  # type: ignore[index]
    assert found["fetch_duration_seconds"]["demand"] == {  # type: ignore[index]
        "bounds": list(LATENCY_BUCKETS),
        "counts": [1, 1, 1, *[0] * (len(LATENCY_BUCKETS) - 3), 1],
        "sum": pytest.approx(100.0029),
    }
    assert set(found) == {definition.name.removeprefix("swmld_") for definition in METRICS}


def test_definitions_keep_to_the_conventions() -> None:
    names = [definition.name for definition in METRICS]
    assert len(set(names)) == len(names)
    for definition in METRICS:
        assert re.fullmatch(r"swmld_[a-z_]+", definition.name)
        assert (definition.kind == "counter") == definition.name.endswith("_total")
        assert definition.help.endswith(".")


@asynccontextmanager
async def serving(address: str) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        yield await nursery.start(http.serve, snapshot, address)
        nursery.cancel_scope.cancel()


async def exchange(address: str, request: bytes) -> tuple[str, str]:
    """Send ``request`` whole, read until the server closes: head and body."""
    host, _, port = address.rpartition(":")
    async with await trio.open_tcp_stream(host.strip("[]"), int(port)) as stream:
        await stream.send_all(request)
        text = b""
        async for piece in stream:
            text += piece
    head, _, body = text.decode().partition("\r\n\r\n")
    return head, body


@pytest.mark.trio
async def test_a_scrape() -> None:
    async with serving("127.0.0.1:0") as address:
        head, body = await exchange(address, b"GET /metrics HTTP/1.0\r\nAccept: text/plain\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 ")
    assert "\r\ncontent-type: text/plain; version=" in head
    assert f"\r\ncontent-length: {len(body.encode())}\r\n" in head
    found = samples(body)
    assert found["swmld_cache_bytes"] == 13
    assert found["process_open_fds"] > 0


@pytest.mark.trio
async def test_a_scrape_in_the_openmetrics_format() -> None:
    request = b"GET /ml/metrics?x=1 HTTP/1.0\r\naccept: application/openmetrics-text; version=1.0.0\r\n\r\n"
    async with serving("127.0.0.1:0") as address:
        head, body = await exchange(address, request)
    assert "application/openmetrics-text" in head
    assert body.endswith("# EOF\n")


@pytest.mark.trio
@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET / HTTP/1.0", "404"),
        (b"POST /metrics HTTP/1.0", "405"),
        (b"OPTIONS /metrics HTTP/1.0", "405"),
        (b"HEAD /metrics HTTP/1.0", "200"),
        (b"GET /metrics HTTP/1.1", "400"),  # without a Host
        (b"\xff\xfe", "400"),
        (b"GET", "400"),
    ],
)
async def test_other_requests(request_line: bytes, status: str) -> None:
    async with serving("127.0.0.1:0") as address:
        head, body = await exchange(address, request_line + b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert "swmld_cache_bytes" not in body


@pytest.mark.trio
async def test_an_endless_request_is_cut_off() -> None:
    async with serving("127.0.0.1:0") as address:
        head, _ = await exchange(address, b"x" * (http.MAX_HEAD + 1))
    assert head.startswith("HTTP/1.1 431 ")


@pytest.mark.trio
async def test_a_client_that_says_nothing_is_left(autojump_clock: trio.testing.MockClock) -> None:
    async with serving("127.0.0.1:0") as address:
        assert await exchange(address, b"GET /met") == ("", "")
        assert trio.current_time() >= http.EXCHANGE_TIMEOUT


@pytest.mark.trio
async def test_a_taken_port_is_told_and_another_chosen(caplog: pytest.LogCaptureFixture) -> None:
    async with serving("127.0.0.1:0") as first:
        with caplog.at_level(logging.WARNING):
            async with serving(first) as second:
                assert second != first
                assert (await exchange(second, b"GET /metrics HTTP/1.0\r\n\r\n"))[0].startswith(
                    "HTTP/1.1 200"
                )
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "is taken" in caplog.text


@pytest.mark.trio
async def test_off_serves_nothing() -> None:
    async with serving("off") as address:
        assert address == "off"


@pytest.mark.trio
async def test_an_address_that_is_not_ours() -> None:
    # 192.0.2.0/24 is for documentation (RFC 5737): no machine has it.
    with pytest.raises(UsageError, match=r"metrics address 192\.0\.2\.1:9617: "):
        await http.serve(snapshot, "192.0.2.1:9617")


@pytest.mark.trio
async def test_the_port_is_free_again_at_the_end() -> None:
    async with serving("127.0.0.1:0") as address:
        await exchange(address, b"GET /metrics HTTP/1.0\r\n\r\n")
    host, _, port = address.rpartition(":")
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind((host, int(port)))
        again.listen(1)


def test_a_daemon_that_nobody_scrapes_does_without_the_library() -> None:
    code = (
        "import sys, swmld.app; print([m for m in ('prometheus_client', 'http.server') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
