"""What ``swmld plugin`` prints. Imported when asked for: the modules of rules take a tenth of a second."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.text import Text

from swmld.api.plugins import PluginsResult
from swmld.cli.text import plain, printable, table
from swmld.errors import UsageError
from swmld.plugins import conformance, registry
from swmld.rules import plugged

NONE = "the daemon uses no plugins (--no-plugins)"


def listing(found: PluginsResult) -> Iterator[Text]:
    """All plugins as a table, then what is wrong. Raises UsageError where none are used."""
    if not found["used"]:
        raise UsageError(NONE)
    rows = [
        (each["name"], str(each["api"]), str(each["calls"]), "disabled" if each["disabled"] else "in use",
         printable(each["origin"]), printable(" ".join(each["extensions"])) or "any")
        for each in found["plugins"]
    ]  # fmt: skip
    if rows:
        head, *lines = table(("PLUGIN", "API", "CALLS", "STATE", "ORIGIN", "FILES"), rows)
        yield Text(head, style="bold")
        yield from map(Text, lines)
    for each in found["plugins"]:
        if each["disabled"]:
            yield Text(plain(f"disabled: {each['name']}: {each['disabled']}").plain, style="red")
    for line in found["problems"]:
        yield Text(plain(f"not loaded: {line}").plain, style="red")


def checked(file: Path, samples: Sequence[Path]) -> Iterator[tuple[Text, bool]]:
    """The report, a line each, and whether that is in order. Raises UsageError for a plugin that cannot be
    loaded, or a sample that cannot be read."""
    shown = []
    for path in samples:
        try:
            shown.append(conformance.sample(path))
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
    try:
        plugins = registry.load_file(file)
    except registry.Refused as error:
        raise UsageError(f"{file}: {error}") from None
    for loaded in plugins:
        extensions = " ".join(loaded.extensions) or "any file"
        yield Text.assemble((loaded.name, "bold"), f" ({extensions})"), True
        for result in conformance.run(loaded, shown):
            cost = f"{result.cases} cases, slowest {1000 * result.slowest:.1f} ms"
            yield _line(result.name, result.problem, cost)
        others = registry.find((), packages=False)
        problem = "another plugin has this name" if _known(others, loaded) else _rules(others, loaded)
        yield _line("rules and templates", problem, "load" if loaded.rules or loaded.templates else "none")


def _known(others: registry.Found, loaded: registry.Loaded) -> bool:
    return any(other.name == loaded.name for other in others.plugins)


def _rules(others: registry.Found, loaded: registry.Loaded) -> str:
    """Why its rules would not be built in; "": they would."""
    brought = [plugged.Brought(each.name, each.rules, each.templates) for each in (*others.plugins, loaded)]
    return plugged.provide(brought).get(loaded.name, "")


def _line(name: str, problem: str, fine: str) -> tuple[Text, bool]:
    if problem:
        lines = "\n       ".join(printable(line) for line in problem.splitlines())
        return Text.assemble(("  FAIL ", "bold red"), f"{name}: {lines}"), False
    return Text.assemble(("  ok   ", "green"), f"{name}: {fine}"), True
