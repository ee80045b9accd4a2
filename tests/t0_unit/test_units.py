"""Sizes, shares and times: what is read, what is refused, and that what is printed reads back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swmld import units
from swmld.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("17", 17),
        (4096, 4096),
        ("17B", 17),
        ("1KiB", 1024),
        ("4MiB", 4 << 20),
        ("4 MiB", 4 << 20),
        ("  100GiB ", 100 << 30),
        ("2TiB", 2 << 40),
        ("1PiB", 1 << 50),
        ("1EiB", 1 << 60),
        ("4M", 4 << 20),
        ("4m", 4 << 20),
        ("4mib", 4 << 20),
        ("1.5GiB", 3 << 29),
        (".5K", 512),
        ("10KB", 10_000),
        ("1GB", 1_000_000_000),
        ("0.1B", 0),
        # Beyond a float's 53 bits: the last digit counts.
        ("9007199254740993", 9007199254740993),
        ("7.999999999999999999EiB", 9223372036854775806),
    ],
)
def test_reads_sizes(text: str | int, expected: int) -> None:
    assert units.parse_size(text) == expected


@pytest.mark.parametrize(
    "text", ["", " ", "GiB", "-1", "1e9", "4 M iB", "4XB", "1,5G", "0x10", "80%", "٣", "1..5", "8EiB", True]
)
def test_refuses_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="expected a size such as"):
        units.parse_size(text)


def test_message_names_option_value_and_what_was_expected() -> None:
    with pytest.raises(UsageError) as caught:
        units.parse_size("lots", what="--cache-size")
    assert str(caught.value) == (
        "--cache-size: cannot read 'lots'; expected a size such as 512KiB, 4MiB or 100GiB"
    )
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("text", "expected"), [("80%", 0.8), ("0%", 0.0), ("100%", 1.0), ("12.5 %", 0.125)])
def test_reads_shares(text: str, expected: float) -> None:
    assert units.parse_share(text) == expected


@pytest.mark.parametrize("text", ["80", "101%", "-1%", "%", "0.8", "80 percent"])
def test_refuses_what_is_no_share(text: str) -> None:
    with pytest.raises(UsageError, match="expected a share such as 80%"):
        units.parse_share(text)


def test_a_size_may_be_a_share_of_the_whole() -> None:
    assert units.parse_size_of("80%", 1000) == 800
    assert units.parse_size_of("1KiB", 1000) == 1024
    with pytest.raises(UsageError, match=r"size such as .* or a share such as 80%"):
        units.parse_size_of("much", 1000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("300s", 300.0),
        ("300", 300.0),
        (300, 300.0),
        (0.5, 0.5),
        ("250ms", 0.25),
        ("10us", 1e-5),
        ("5m", 300.0),
        ("5min", 300.0),
        ("1h", 3600.0),
        ("1.5H", 5400.0),
        ("2d", 172800.0),
    ],
)
def test_reads_durations(text: str | float, expected: float) -> None:
    assert units.parse_duration(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "soon", "-5s", "5y", "1h30m", "inf", "nan", True, "9" * 400])
def test_refuses_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="expected a time such as"):
        units.parse_duration(text, what="timeout")


@pytest.mark.parametrize(
    ("nbytes", "expected"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1KiB"),
        (1536, "1.5KiB"),
        ((1 << 20) - 1, "1MiB"),
        (4 << 20, "4MiB"),
        (100 << 30, "100GiB"),
        (-1536, "-1.5KiB"),
        (5 << 60, "5EiB"),
        (3 << 70, "3072EiB"),
    ],
)
def test_prints_sizes(nbytes: int, expected: str) -> None:
    assert units.format_size(nbytes) == expected


@given(st.integers(0, units.MAX_SIZE - (1 << 59)))
def test_a_printed_size_reads_back_nearly(nbytes: int) -> None:
    assert units.parse_size(units.format_size(nbytes)) == pytest.approx(nbytes, rel=0.051)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0ms"),
        (0.25, "250ms"),
        (0.9996, "1s"),
        (12.5, "12.5s"),
        (59.96, "1m"),
        (200, "3m20s"),
        (3600, "1h"),
        (7500, "2h5m"),
        (4 * 86400 + 3 * 3600 + 5, "4d3h"),
        (-1, "-1s"),
    ],
)
def test_prints_durations(seconds: float, expected: str) -> None:
    assert units.format_duration(seconds) == expected


def test_prints_rates() -> None:
    assert units.format_rate(1.5 * (1 << 30)) == "1.5GiB/s"
