"""What a recording tells of each file, as facts for rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from swmld.head import facts as produced
from swmld.head.recognition import of_program
from swmld.observe.recording import Reader
from swmld.patterns.engine import Patterns
from swmld.patterns.feed import TouchKind
from swmld.patterns.present import path_of
from swmld.rules.kinds import Value

READS = frozenset({TouchKind.FIRST, TouchKind.PASS, TouchKind.KIND, TouchKind.BREAK, TouchKind.WINDOW})
MOST = 100_000
"""Files of which what was known is kept, some 3 kB each; of those that were read last."""


@dataclass(slots=True)
class Recorded:
    """``facts``: by path below the mount, as they were when the file was last read; ``readers``: by whom, as
    process ids; ``mount``: that of the recording; ``cut``: why it ended early, None if it did not."""

    mount: str = ""
    facts: dict[str, dict[str, Value]] = field(default_factory=dict)
    readers: dict[str, int] = field(default_factory=dict)
    cut: str | None = None


def recorded(path: Path) -> Recorded:
    """Play a recording; blocks for as long as its patterns take. Raises UsageError if it is none."""
    with Reader(path) as reader:
        found = Recorded(str(reader.header.get("mount") or ""))
        patterns = Patterns(reader, reader)
        for raw in reader:
            patterns.touch(raw.touches)
            patterns.cursors(raw.cursors)
            patterns.tiers(raw.tiers)
            patterns.waits(raw.waits)
            read = {(touch.pid, touch.file) for touch in raw.touches if touch.kind in READS}
            read |= {(pid, file) for pid, file, _ in raw.cursors}
            for pid, file in read:
                _note(found, reader, patterns, pid, file)
        for name, pid in found.readers.items():  # what a process runs is known later than what it reads
            if (program := reader.program(pid)) is not None:
                found.facts[name] |= of_program(program)
        found.cut = reader.cut
    return found


def _note(found: Recorded, reader: Reader, patterns: Patterns, pid: int, file: int) -> None:
    name = path_of(reader.place(file), reader)
    if not name:
        return
    process = reader.of(pid)
    job = process.job if process is not None else 0
    found.facts.pop(name, None)
    found.facts[name] = produced.of_views(
        patterns.stream(pid, file), patterns.dataset_of(file, job), patterns.job(job), process
    )
    found.readers[name] = pid
    if len(found.facts) > MOST:
        oldest = next(iter(found.facts))
        del found.facts[oldest], found.readers[oldest]
