"""What every plugin must do: the shipped ones do it, and the checks find what does not."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from swmld.plugins import conformance, registry
from swmld.plugins.interface import API, Context, Hints, Range
from swmld.plugins.registry import Found, Loaded
from swmld.plugins.shipped import SHIPPED
from swmld.rules import loading, plugged

EXAMPLE = Path(__file__).parents[2] / "configs" / "plugins" / "example.py"


@pytest.fixture(autouse=True)
def _nothing_provided() -> Iterator[None]:
    yield
    loading.provide(())


def named(name: str) -> Loaded:
    return registry.loaded(registry._named(name), "shipped")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_plugins(name: str) -> None:
    loaded = named(name)
    results = list(conformance.run(loaded))
    assert [result.problem for result in results if result.problem] == []
    assert sum(result.cases for result in results) > 500


def test_all_are_found_and_their_rules_are_sound() -> None:
    found = plugged.vetted(registry.find((), packages=False))
    assert found.problems == []
    assert len(found.plugins) == len(SHIPPED)
    assert all(each.origin == registry.SHIPPED_ORIGIN for each in found.plugins)


def test_the_readme_has_each() -> None:
    readme = (EXAMPLE.parents[2] / "README.md").read_text()
    table = readme[readme.index("| plugin | knows |") : readme.index("**Your own.**")]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [named(name).name for name in SHIPPED]


def test_the_example() -> None:
    (kind,) = registry.classes(EXAMPLE)
    loaded = registry.loaded(kind, str(EXAMPLE))
    records = [bytes([number]) * 100 for number in range(3)]
    header = b"RECORDS1" + (3).to_bytes(8, "little") + (324).to_bytes(8, "little")
    index = b"".join((24 + 100 * number).to_bytes(8, "little") for number in range(3))
    sample = conformance.Content("a.records", header + b"".join(records) + index)
    assert [result.problem for result in conformance.run(loaded, [sample]) if result.problem] == []
    subject = conformance.Subject(loaded)
    assert subject.hints(sample, "a.records").ranges == (
        Range(324, 24), Range(24, 100), Range(124, 100), Range(224, 100),
    )  # fmt: skip
    assert plugged.vetted(Found([loaded])) == Found([loaded])


class Sound:
    """Passes every check; those below do one thing wrong."""

    api = API
    libraries: tuple[str, ...] = ("/libsound[.]so",)
    extensions: tuple[str, ...] = (".snd",)

    def __init__(self) -> None:
        self.asked = 0

    def framework_name(self) -> str:
        return "sound"

    def detect(self, path: str, head: bytes) -> float:
        return 0.5

    def hints(self, context: Context) -> Hints:
        return Hints(ranges=(Range(0, min(100, context.size)),), files=("next.snd",))

    def default_rules(self) -> str:
        return ""

    def default_templates(self) -> str:
        return ""


def changing(self: Any, *_: object) -> Any:
    self.asked += 1
    return self.asked % 2 / 2


def raising(self: Any, *_: object) -> Any:
    raise KeyError("no such thing")


def leaving(self: Any, *_: object) -> Any:
    raise SystemExit


def hanging(self: Any, *_: object) -> Any:
    while True:
        time.sleep(0.01)


def greedy(self: Any, context: Context) -> Hints:
    """Reads all of a file, whatever its size."""
    try:
        return Hints(ranges=(Range(0, len(context.read(0, context.size))),))
    except OSError as error:
        raise RuntimeError(str(error)) from None


def answers(value: object) -> Callable[..., Any]:
    return lambda self, *_: value


WRONG: list[tuple[str, object, str, str]] = [
    ("detect", answers(float("nan")), "detect", "expected a number from 0 to 1, got nan"),
    ("detect", answers(1.5), "detect", "got 1.5"),
    ("detect", answers(True), "detect", "got True"),
    ("detect", answers(None), "detect", "got None"),
    ("detect", changing, "detect", "two answers to one question"),
    ("detect", raising, "detect", "raised KeyError"),
    ("detect", leaving, "detect", "raised SystemExit"),
    ("detect", hanging, "detect", "took longer than"),
    ("hints", answers(None), "hints", "expected Hints, got None"),
    ("hints", answers(Hints(ranges=(Range(-1, 2),))), "hints", "nothing below 0"),
    ("hints", answers(Hints(ranges=(Range(0, 1),))), "hints", "ends behind the file's 0 bytes"),
    ("hints", answers(Hints(files=("../x",))), "hints", "directory or below"),
    ("hints", answers(Hints(files=("/etc/passwd",))), "hints", "directory or below"),
    ("hints", answers(Hints(files=("a\0b",))), "hints", "expected names"),
    ("hints", answers(Hints(whole=1)), "hints", "expected True or False"),  # type: ignore[arg-type]
    ("hints", answers(Hints(compressed=0)), "hints", "expected True, False or None"),  # type: ignore[arg-type]
    ("hints", answers(Hints(why=b"x")), "hints", "expected a text"),  # type: ignore[arg-type]
    ("hints", greedy, "hints", "raised RuntimeError"),
    ("default_rules", changing, "what it says of itself", "another answer than before"),
    ("libraries", ("[.]so",), "libraries", "which any process may map"),
]


def test_what_is_sound_passes() -> None:
    assert {result.problem for result in conformance.run(registry.loaded(Sound, "here"))} == {""}


@pytest.mark.parametrize(("attribute", "value", "check", "said"), WRONG, ids=lambda value: str(value)[:20])
def test_the_checks_find_what_is_wrong(attribute: str, value: object, check: str, said: str) -> None:
    plugin = type("Wrong", (Sound,), {attribute: value})
    loaded = registry.loaded(Sound, "here")
    kind = plugin()
    loaded = Loaded(loaded.name, kind, loaded.origin, kind.libraries, kind.extensions)
    results = conformance.run(loaded, limit=0.05 if value is hanging else 5.0)
    first = next(result for result in results if result.problem)
    assert first.name == check
    assert said in first.problem


def test_samples_must_be_known() -> None:
    loaded = registry.loaded(Sound, "here")
    for name, unsure, said in (
        ("a.snd", Sound, ""),
        ("a.other", Sound, "it is not asked about such a name"),
        ("a.snd", type("Unsure", (Sound,), {"detect": answers(0.4)}), "detect gives 0.4"),
    ):
        loaded = Loaded("sound", unsure(), "here", Sound.libraries, Sound.extensions)
        *_, last = conformance.run(loaded, [conformance.Content(name, b"123")])
        assert last.name == "samples"
        assert said in last.problem
        assert bool(said) == bool(last.problem)
