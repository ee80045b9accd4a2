"""Settings: defaults, file, command line, and errors that say where."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swmld.config.floor import FreeFloor
from swmld.config.load import ConfigError, load
from swmld.config.models import Settings, mount_name
from swmld.documents import parse
from swmld.errors import UsageError
from swmld.types import Check

REFERENCE = Path(__file__).parents[2] / "configs" / "swmld.yaml"
MIB, GIB = 1 << 20, 1 << 30


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return path

    return write


def problems(path: Path | None, **options: Any) -> list[str]:
    """What is wrong, without columns."""
    return [re.sub(r"^(F:\d+):\d+: ", r"\1: ", line) for line in placed(path, **options)]


def placed(path: Path | None, **options: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, options)
    assert caught.value.exit_code == 2
    return [line.replace(f"{path}", "F") for line in str(caught.value).splitlines()]


def test_the_mount_alone_is_enough() -> None:
    settings = load(None, {"mount": "/mnt/ml", "cache_size": None})
    assert settings.mount == Path("/mnt/ml")
    assert settings.source is None
    assert settings.cache_dir == Path("/var/cache/swmld/mnt-ml")
    assert settings.socket_path == Path("/run/swmld/mnt-ml.sock")
    assert settings.cache_size == 100 * GIB
    assert settings.chunk_size == 4 * MIB
    assert settings.check is Check.RELAXED
    assert (settings.fetch_parallel, settings.prefetch_parallel) == (32, 24)
    assert settings.passthrough
    assert settings.native
    assert not settings.read_only


def test_options_win_over_the_file_and_the_file_over_defaults(write: Any) -> None:
    path = write("mount: /mnt/a\ncache_size: 1GiB\nchunk_size: 1MiB\nread_only: yes\n")
    settings = load(path, {"mount": "/mnt/b", "chunk_size": "2MiB", "read_only": None})
    assert settings.mount == Path("/mnt/b")
    assert settings.cache_dir == Path("/var/cache/swmld/mnt-b")
    assert settings.cache_size == GIB
    assert settings.chunk_size == 2 * MIB
    assert settings.read_only


def test_every_error_is_told_at_once_with_file_and_line(write: Any) -> None:
    path = write(
        "cache_size: 10 potatoes\n"
        "chunk-size: 4MiB\n"
        "chunk_size: 3MiB\n"
        "read_only: maybe\n"
        "check: sometimes\n"
        "read_only: yes\n"
        "fetch_parallel: 0\n"
        "metrics_address: localhost\n"
        "fetch_timeout: soon\n"
    )
    assert problems(path, mount="/mnt/x") == [
        "F:1: cache_size: expected a size such as 4MiB (at least 64KiB), got '10 potatoes'",
        "F:2: chunk-size: unknown key; did you mean chunk_size?",
        "F:3: chunk_size: expected a power of two such as 4MiB (64KiB to 64MiB), got '3MiB'",
        "F:4: read_only: expected true or false, got 'maybe'",
        "F:5: check: expected strict, relaxed or immutable, got 'sometimes'",
        "F:6: read_only: given twice, first in line 4",
        "F:7: fetch_parallel: expected a whole number from 1 to 1024, got '0'",
        "F:8: metrics_address: expected HOST:PORT such as 127.0.0.1:9617, or off, got 'localhost'",
        "F:9: fetch_timeout: expected a time such as 500ms, 1s or 2min (0.1s to 86400s), got 'soon'",
    ]


def test_an_error_has_the_column_of_its_value_or_key(write: Any) -> None:
    path = write(
        "cache_size:  lots\nmount: /m\npaths: [{glob: a, chek: strict}, {glob: b, check: no}]\ncash: 1\n"
    )
    assert [line[: line.index(": ")] for line in placed(path)] == [
        "F:1:14",
        "F:3:9",
        "F:3:19",
        "F:3:51",
        "F:4:1",
    ]


def test_errors_of_options_name_the_option(write: Any) -> None:
    path = write("cache_size: 1GiB\n")
    assert problems(path, mount="/mnt/x", cache_size="lots") == [
        "--cache-size: expected a size such as 4MiB (at least 64KiB), got 'lots'"
    ]
    assert problems(path) == ["--mount: expected the directory to serve"]


def test_rules_for_paths(write: Any) -> None:
    path = write(
        "mount: /mnt/x\n"
        "paths:\n"
        "  - {glob: '/datasets/', check: immutable}\n"
        "  - glob: '*.ckpt'\n"
        "    check: strict\n"
        "    interval: 250ms\n"
    )
    rules = load(path, {}).paths
    assert [(rule.glob, rule.check, rule.interval) for rule in rules] == [
        ("datasets/*", Check.IMMUTABLE, None),
        ("*.ckpt", Check.STRICT, 0.25),
    ]


def test_errors_in_rules_have_their_own_lines(write: Any) -> None:
    path = write(
        "mount: /mnt/x\npaths:\n  - glob: a/*\n    chek: strict\n  - 7\n  - {glob: '', check: strict}\n"
    )
    assert problems(path) == [
        "F:3: check: expected a value, got nothing",
        "F:4: chek: unknown key; did you mean check?",
        "F:5: paths: expected keys glob, check and perhaps interval",
        "F:6: glob: expected a path pattern such as 'train/*' or '*.safetensors', got nothing",
    ]
    assert problems(write("mount: /mnt/x\npaths: all\n")) == [
        "F:2: paths: expected a list of {glob, check, interval}"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mount: [1\nx: 2\n", "F:2: not YAML: "),
        ("- a\n", "F:1: expected keys with values, such as 'cache_size: 100GiB'"),
        ("mount: /m\n---\nmount: /n\n", "F:2: not YAML: "),
        ("\x00", "F:1: not YAML: "),
        ("mount: {a: 1}\n", "F:1: mount: expected the path of a directory, got a mapping"),
        ("mount:\n", "F:1: mount: expected the path of a directory, got nothing"),
        ("? [a]\n: b\nmount: /m\n", "F:1: expected a plain word as key"),
        ("mount: &a [*a]\n", "F:1: mount: "),
    ],
)
def test_files_of_another_form(write: Any, text: str, expected: str) -> None:
    assert any(line.startswith(expected) for line in problems(write(text)))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load(tmp_path / "none.yaml", {"mount": "/m"})
    with pytest.raises(UsageError, match="Is a directory"):
        load(tmp_path, {"mount": "/m"})


def test_yaml_has_no_opinion_on_words(write: Any) -> None:
    """YAML 1.1 reads off as false and 10:30 as 630; here a key's own parser decides."""
    settings = load(write("mount: /mnt/x\nmetrics_address: off\nneighbours: off\nread_only: on\n"), {})
    assert settings.metrics_address == "off"
    assert settings.neighbours == "off"
    assert settings.read_only


@pytest.mark.parametrize(
    ("given_text", "on_1_tib", "on_20_gib"),
    [
        ("auto", 10 * GIB, GIB),
        ("5%", int(0.05 * 1024 * GIB), GIB),
        ("2GiB", 2 * GIB, 2 * GIB),
        ("0", 0, 0),
    ],
)
def test_free_floor(given_text: str, on_1_tib: int, on_20_gib: int) -> None:
    floor = load(None, {"mount": "/m", "free_floor": given_text}).free_floor
    assert isinstance(floor, FreeFloor)
    assert (floor.of(1024 * GIB), floor.of(20 * GIB)) == (on_1_tib, on_20_gib)


@pytest.mark.parametrize("bad", ["96%", "-1%", "%", "x%", "-5", "plenty", "nan%"])
def test_free_floor_refuses(bad: str) -> None:
    assert problems(None, mount="/m", free_floor=bad)[0].startswith("--free-floor: expected auto, a share")


def test_values_that_do_not_go_together() -> None:
    assert problems(None, mount="/m", cache_size="1MiB")[0].startswith(
        "--cache-size: expected at least one chunk"
    )
    assert problems(None, mount="/m", fetch_parallel="8", prefetch_parallel="9") == [
        "--prefetch-parallel: expected at most fetch_parallel (8)"
    ]
    assert load(None, {"mount": "/m", "fetch_parallel": "8"}).prefetch_parallel == 6
    assert load(None, {"mount": "/m", "fetch_parallel": "1"}).prefetch_parallel == 1


@pytest.mark.parametrize(
    "address", ["127.0.0.1:0", "0.0.0.0:65535", "[::1]:9617", "host.example:1", "off", "OFF"]
)
def test_addresses(address: str) -> None:
    assert load(None, {"mount": "/m", "metrics_address": address}).metrics_address in (address, "off")


@pytest.mark.parametrize(
    "address", ["9617", ":9617", "host", "host:", "host:65536", "host:-1", "::1:9617", "h:²"]
)
def test_addresses_refused(address: str) -> None:
    assert problems(None, mount="/m", metrics_address=address)


def test_rules_are_one_path_or_several(write: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    text = "mount: /m\nenvironment: test\nrules: "
    assert load(write(text + "r.yaml\n"), {}).rules == (tmp_path / "r.yaml",)
    assert load(write(text + "[/a, b/]\n"), {}).rules == (Path("/a"), tmp_path / "b")
    assert load(write(text + "[/a]\n"), {"rules": ["/c", "/d"]}).rules == (Path("/c"), Path("/d"))
    assert load(None, {"mount": "/m"}).rules == ()
    what = "expected the path of a file or directory, or a list of such paths, got"
    assert problems(write(text + "[/a, [b]]\n")) == [f"F:3: rules: {what} a list"]
    assert problems(write(text + "\n"), rules=[""]) == [f"--rules: {what} nothing"]


def test_an_environment_is_one_of_rules(write: Any) -> None:
    assert problems(write("mount: /m\nenvironment: test\n")) == [
        "F:2: environment: needs rules that define it: --rules PATH, or --config with rules"
    ]
    assert problems(None, mount="/m", environment="", rules=["/a"]) == [
        "--environment: expected a name, got nothing"
    ]


def test_settings_from_python_take_finished_values() -> None:
    settings = Settings(
        mount=Path("/m"), chunk_size=MIB, check=Check.STRICT, fetch_timeout=2.5, read_only=True
    )
    assert (settings.chunk_size, settings.check, settings.fetch_timeout) == (MIB, Check.STRICT, 2.5)


def test_a_link_to_the_mount_is_the_mount(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert load(None, {"mount": str(tmp_path / "link")}).mount == tmp_path / "real"


def test_relative_paths_count_from_the_current_directory(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(None, {"mount": "m", "cache_dir": "c/../d"})
    assert (settings.mount, settings.cache_dir) == (tmp_path / "m", tmp_path / "d")


@pytest.mark.parametrize(
    ("mount", "name"), [("/", "root"), ("/mnt/ml", "mnt-ml"), ("/mnt-ml", "mnt%2Dml"), ("/a%/b", "a%25-b")]
)
def test_mount_names(mount: str, name: str) -> None:
    assert mount_name(Path(mount)) == name


PARTS = st.lists(st.text(st.sampled_from("ab-%.\udcffé"), min_size=1, max_size=60), min_size=1, max_size=8)
PATHS = PARTS.map(lambda parts: "/" + "/".join(part for part in parts if part not in (".", "..")))


@given(PATHS, PATHS)
def test_no_two_mounts_share_a_name(one: str, other: str) -> None:
    names = mount_name(Path(one)), mount_name(Path(other))
    assert (names[0] == names[1]) == (Path(one) == Path(other)) or "/root" in (one, other)
    for name in names:
        assert "/" not in name
        # "/run/swmld/" and ".sock" have to fit a socket's address as well.
        assert len(os.fsencode(name)) <= 107 - 11 - 5


@given(st.binary(max_size=200) | st.text("ab:-[]{}&*!|>'\"#%@,?\n ", max_size=80).map(str.encode))
def test_no_bytes_break_the_parser(text: bytes) -> None:
    document = parse("F", text)
    # Refused, as a rule; what may not happen is any other exception.
    with contextlib.suppress(ValueError):
        Settings.model_validate(document.values)


@given(st.dictionaries(st.sampled_from(sorted(Settings.model_fields)), st.text(max_size=12), max_size=5))
def test_no_option_breaks_the_parser(options: dict[str, str]) -> None:
    said = ""
    try:
        load(None, options)
    except UsageError as error:
        said = str(error)
    assert all(line.startswith("--") for line in said.splitlines())


def test_the_reference_has_every_default(tmp_path: Path) -> None:
    text = "\n".join(
        line.removeprefix("#") if line.startswith("#") and line[1:2].isalpha() else line
        for line in REFERENCE.read_text().splitlines()
    )
    path = tmp_path / "reference.yaml"
    path.write_text(text)
    assert load(path, {}) == load(None, {"mount": "/mnt/ml"})
    assert load(REFERENCE, {"mount": "/mnt/ml"}) == load(None, {"mount": "/mnt/ml"})
