"""What decisions cost with many rules: microseconds each, and the share of a core at a thousand a second.

    python tests/bench/rules_speed.py [RULES] [DECISIONS]

Rules of the forms that people write: a subject (a directory, a run's files, a user, a dataset, a name) and
one to three conditions besides (type, extension, size, pattern, phase, host, groups, expressions), a fifth
of them with weights. One in a hundred is about no subject. The second line has rules without a subject
alone: about 1,500 of them match at once, and what the matching ones cost is no index's to save. The same
numbers are drawn each time.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from typing import Any

from swmld.documents import Document
from swmld.rules import catalogue, facts
from swmld.rules.decide import Engine
from swmld.rules.kinds import Value
from swmld.rules.loading import load

EXTENSIONS = (
    *("pt", "pth", "safetensors", "bin", "onnx", "h5", "npy", "npz"),
    *("tfrecord", "parquet", "tar", "jpg", "png", "json", "txt", "arrow"),
)
TYPES, PATTERNS, PHASES = catalogue.FILE_TYPES, catalogue.PATTERNS, catalogue.PHASES
SIZES = ("64KiB", "1MiB", "16MiB", "256MiB", "1GiB", "8GiB")
GOAL = 0.2


def subject(draw: random.Random) -> Any:
    """What a rule is about: there are ten thousand of them because there are as many things."""
    forms = (
        lambda: {"type": "file_pattern", "property": "path", "value": f"project{draw.randrange(2000)}/*"},
        lambda: {"type": "file_pattern", "property": "path",
                 "value": f"*/run-{draw.randrange(500)}/*.{draw.choice(EXTENSIONS)}"},
        lambda: {"type": "workload_context", "property": "user", "value": f"user{draw.randrange(300)}"},
        lambda: {"type": "access_pattern", "property": "dataset", "operator": "starts_with",
                 "value": f"project{draw.randrange(2000)}"},
        lambda: {"type": "file_context", "property": "name", "operator": "matches",
                 "value": rf"-0*{draw.randrange(1000)}-of-"},
    )  # fmt: skip
    return draw.choices(forms, (30, 20, 25, 24, 1))[0]()


def condition(draw: random.Random) -> Any:
    """What it asks besides."""
    size = draw.choice(SIZES)
    forms = (
        lambda: {"type": "file_context", "property": "type", "value": draw.choice(TYPES)},
        lambda: {"type": "file_pattern", "property": "extension", "value": "." + draw.choice(EXTENSIONS)},
        lambda: {"type": "file_context", "property": "size", "operator": "greater_than", "value": size},
        lambda: {"type": "file_context", "property": "size", "value": f"< {size}"},
        lambda: {"type": "access_pattern", "property": "pattern", "value": draw.choice(PATTERNS)},
        lambda: {"type": "workload_context", "property": "phase", "value": draw.sample(PHASES, 2)},
        lambda: {"type": "system_context", "property": "gpu_memory", "value": f"> {draw.randrange(100)}%"},
        lambda: {"any": [condition(draw), condition(draw)]},
        lambda: f"workers > {draw.randrange(32)} AND read_rate > {draw.randrange(1, 900)}MiB/s",
    )
    return draw.choice(forms)()


def rules(count: int, draw: random.Random, general: float) -> Document:
    """A document of that many rules, a share of them about nothing in particular."""
    actions = (
        {"type": "cache", "parameters": {"strategy": "lazy"}},
        {"type": "prefetch", "parameters": {"next_files": "16"}},
        {"type": "stream", "parameters": {"parallel_streams": "4"}},
    )
    raw = []
    for number in range(count):
        about = [] if draw.random() < general else [subject(draw)]
        rest = [condition(draw) for _ in range(draw.randrange(1, 4))]
        # Of some it is enough that the subject and two of three others fit.
        graded = bool(about) and draw.random() < 0.2
        if graded:
            about = [{"all": about, "weight": "1"}]
            rest = [{"all": [one], "weight": "0.3"} for one in rest]
        raw.append(
            {
                "id": f"rule-{number}",
                "priority": str(draw.randrange(100)),
                "threshold": "0.8" if graded else "1",
                "conditions": about + rest,
                "actions": [draw.choice(actions)],
            }
        )
    return Document("rules", {"rules": raw})


def known(draw: random.Random) -> dict[str, Value]:
    """The facts of one decision."""
    extension = draw.choice(EXTENSIONS)
    part = f"part-{draw.randrange(99999):05}-of-9.{extension}"
    path = f"project{draw.randrange(2000)}/run-{draw.randrange(500)}/{part}"
    return facts.of_path(path) | {
        "type": draw.choice(TYPES),
        "size": draw.randrange(1 << 33),
        "pattern": draw.choice(PATTERNS),
        "phase": draw.choice(PHASES),
        "user": f"user{draw.randrange(300)}",
        "dataset": path.split("/")[0],
        "gpu_memory": draw.randrange(100),
        "workers": draw.randrange(32),
        "read_rate": draw.randrange(1 << 30),
    }


def measure(count: int, decisions: int, general: float) -> float:
    """Share of a core at a thousand decisions a second; prints the row."""
    draw = random.Random(4)
    document = rules(count, draw, general)
    at = time.process_time()
    active = load([document]).rules
    loaded = time.process_time()
    engine = Engine(active)
    compiled = time.process_time()
    asked = [known(draw) for _ in range(decisions)]
    taken, matched = [], 0
    for values in asked:
        began = time.process_time_ns()
        outcome = engine.decide(values)
        taken.append((time.process_time_ns() - began) / 1000)
        matched += len(outcome.matched)
    mean, most = statistics.fmean(taken), sorted(taken)[int(0.99 * decisions)]
    share = mean * 1000 / 1e6
    print(
        f"{count} rules, {general:.0%} without a subject: {share:.1%} of a core at 1000 decisions a second; "
        f"{mean:.0f} µs each (median {statistics.median(taken):.0f}, p99 {most:.0f}), "
        f"{matched / decisions:.1f} rules match; "
        f"checked in {loaded - at:.1f} s, compiled in {compiled - loaded:.1f} s"
    )
    return share


def main(count: int = 10_000, decisions: int = 2_000) -> None:
    share = measure(count, decisions, 0.01)
    print(f"goal: at most {GOAL:.0%} of a core: {'ok' if share <= GOAL else 'short'}")
    measure(count, decisions // 10, 1.0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
