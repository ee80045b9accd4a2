"""Rules act: what they say about a file changes what the cache holds and what is fetched, in each mode."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.index import data_file
from support.mount import Daemon
from support.pages import forget, resident
from support.slowfs import SlowFs
from support.tree import Tree
from support.waiting import until
from swmld.api.client import Client
from swmld.mount.below import DIRECTORIES

CHUNK = 65_536
LIMIT = 30.0
"""Seconds for what is fetched in the background."""


class Ruled:
    """A daemon with rules, and what its cache holds."""

    def __init__(self, daemon: Daemon, rules: Path) -> None:
        self.daemon, self.rules = daemon, rules
        self.mount, self.source = daemon.mount, daemon.source

    def make(self, *names: str, size: int = 1000) -> None:
        for name in names:
            (self.source / name).parent.mkdir(parents=True, exist_ok=True)
            (self.source / name).write_bytes(content(name, size))
        Tree(self.mount, self.source, self.daemon.mode, self.daemon).settle()

    def read(self, *names: str) -> None:
        for name in names:
            assert (self.mount / name).read_bytes() == (self.source / name).read_bytes()

    def entries(self) -> list[dict[str, Any]]:
        """What ``swmld cache ls`` lists."""
        found: list[dict[str, Any]] = []
        (socket,) = self.daemon.run_dir.glob("*.sock")
        with Client(socket, timeout=LIMIT) as client:
            client.call("cache.ls", {"path": ""}, lambda message: found.extend(message["entries"]))
        return found

    def cached(self) -> dict[str, int]:
        """Bytes by path."""
        return {entry["path"]: entry["cached_bytes"] for entry in self.entries()}

    def pinned(self) -> set[str]:
        return {entry["path"] for entry in self.entries() if entry["pinned"]}

    def pages(self, name: str) -> int:
        """Of its cache file, in memory."""
        return resident(self.cache_file(name))

    def cache_file(self, name: str) -> Path:
        self.until(lambda: name in self.cached(), f"{name} in the index")
        return data_file(self.daemon.cache, name)

    def until(self, done: Callable[[], bool], what: str) -> None:
        until(done, lambda: f"{what}: {self.cached()}\n{self.daemon.tail()}")

    def history(self, **filters: Any) -> list[dict[str, Any]]:
        decisions: list[dict[str, Any]] = self.daemon.call("history", **filters)["decisions"]
        return decisions


def content(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)


@pytest.fixture
def ruled(daemon_mode: str, base: Path) -> Iterator[Callable[..., Ruled]]:
    """A daemon with these rules, written as YAML; further arguments are options."""
    with ExitStack() as stack:

        def start(rules: str, *options: str, source: Path | bool = True) -> Ruled:
            path = base / "rules.yaml"
            path.write_text(rules)
            options = ("--rules", str(path), "--chunk-size", "64KiB", "--neighbours", "off", *options)
            return Ruled(stack.enter_context(Daemon(base, daemon_mode, options=options, source=source)), path)

        yield start


EXCLUDE = """
rules:
  - id: no-scratch
    conditions: [{type: file_pattern, property: name, value: "*.tmp"}]
    actions: [{type: exclude}]
"""


def test_excluded_files_are_never_cached(ruled: Callable[..., Ruled]) -> None:
    here = ruled(EXCLUDE)
    here.make("a.tmp", "b.bin", "c.tmp", "large.tmp", size=3 * CHUNK)
    for _ in range(2):
        here.read("a.tmp", "b.bin", "large.tmp")
    here.daemon.ask("warmup", here.mount)
    assert set(here.cached()) == {"b.bin"}
    (decision,) = here.history(path="a.tmp")[:1]
    assert decision["rules"] == ["no-scratch"]


def test_what_was_cached_before_the_rule_goes(ruled: Callable[..., Ruled]) -> None:
    here = ruled("rules: []")
    here.make("a.tmp", "b.bin")
    here.read("a.tmp", "b.bin")
    assert set(here.cached()) == {"a.tmp", "b.bin"}
    here.rules.write_text(EXCLUDE)  # taken over while it runs
    here.until(lambda: set(here.cached()) == {"b.bin"}, "a.tmp is still cached")
    here.read("a.tmp", "b.bin")
    assert set(here.cached()) == {"b.bin"}
    here.rules.write_text("rules: []")
    here.until(lambda: not here.daemon.call("rules")["rules"], "the rule is still there")
    here.read("a.tmp")
    assert set(here.cached()) == {"a.tmp", "b.bin"}


AHEAD = """
rules:
  - id: ahead
    conditions: [{{type: file_context, property: extension, value: .jpg}}]
    actions: [{{type: prefetch, parameters: {{{parameters}}}}}]
"""


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [("next_files: 3", {5, 6, 7, 8}), ("siblings: true", set(range(12))), ("enabled: false", {5})],
    ids=["next files", "siblings", "off"],
)
def test_files_are_fetched_before_they_are_opened(
    ruled: Callable[..., Ruled], parameters: str, wanted: set[int]
) -> None:
    here = ruled(AHEAD.format(parameters=parameters))
    names = [f"{number:02}.jpg" for number in range(12)]
    here.make(*names, size=3 * CHUNK // 2)
    here.make(names[5], size=1000)
    here.read(names[5])
    paths = {names[number]: 3 * CHUNK // 2 for number in wanted} | {names[5]: 1000}
    here.until(lambda: here.cached() == paths, f"expected {paths}")
    if len(wanted) < 2:
        return
    (decision,) = here.history(path=names[5])
    assert (
        decision["brought"]["asked"] == decision["brought"]["fetched"] == (len(wanted) - 1) * 3 * CHUNK // 2
    )
    here.read(names[6])
    here.until(
        lambda: here.history(path=names[5])[0]["brought"]["used"] == 3 * CHUNK // 2, "its use is not told"
    )
    here.daemon.call("cache.drop", path="")
    here.until(
        lambda: here.history(path=names[5])[0]["brought"]["wasted"] == (len(wanted) - 2) * 3 * CHUNK // 2,
        "what is gone is not told",
    )


def test_behind_cached_files_what_is_not_is_fetched_before_it_is_opened(ruled: Callable[..., Ruled]) -> None:
    here = ruled(AHEAD.format(parameters="next_files: 4"), "--check", "immutable")
    names = [f"{number:02}.jpg" for number in range(50)]
    here.make(*names)
    here.read(*names)
    here.until(lambda: set(here.cached()) == set(names), "all cached")
    for name in [*names[:20], *names[40:]]:
        here.daemon.call("cache.drop", path=name)
    here.until(lambda: set(here.cached()) == set(names[20:40]), "some dropped")
    here.read(*names[:20])  # the next epoch

    def ahead() -> bool:
        here.read(*names[20:40])  # one of them is told of, and asks for more
        return names[40] in here.cached()

    here.until(ahead, f"{names[40]} before it is opened")
    here.read(*names)


def test_a_cached_directory_is_read_without_a_decision(ruled: Callable[..., Ruled]) -> None:
    here = ruled(AHEAD.format(parameters="next_files: 16"), "--check", "immutable")
    if here.daemon.mode == "python":
        pytest.skip("Python answers each open there")
    names = [f"{number:02}.jpg" for number in range(50)]
    here.make(*names)
    here.read(*names)
    here.until(lambda: set(here.cached()) == set(names), "all cached")
    decided = []
    for _ in range(16):  # one file makes readers known, and that they began anew
        here.daemon.call("cache.drop", path=names[0])
        here.until(lambda: names[0] not in here.cached(), "dropped")
        last = here.history()[0]["id"]
        here.read(*names)
        here.until(lambda: names[0] in here.cached(), "fetched")
        decided.append({each["path"] for each in here.history() if each["id"] > last})
    # Some were on their way when their first reader came, and are told of once more.
    assert decided[4:] == [{names[0]}] * 12


MODEL = [f"model-{number:05}-of-00004.safetensors" for number in range(1, 5)]


def test_the_next_shards_are_fetched(ruled: Callable[..., Ruled]) -> None:
    """By their names, over a gap, the first bytes of each; and by an index, all that it lists."""
    here = ruled(
        """
rules:
  - id: shards
    conditions: [{type: file_context, property: extension, value: .tar}]
    actions: [{type: prefetch, parameters: {shards: true, window: 100000}}]
  - id: model
    conditions: [{type: file_pattern, property: name, value: "*.index.json"}]
    actions: [{type: prefetch, parameters: {shards: true}}]
"""
    )
    shards = [f"set/s-{number}.tar" for number in (7, 9, 10, 11)]
    here.make(*shards, "set/s-10.json", "set/t-10.tar", size=3 * CHUNK)
    here.make(shards[0])
    here.read(shards[0])
    parts = 2 * CHUNK
    here.until(
        lambda: here.cached() == {shards[0]: 1000, shards[1]: parts, shards[2]: parts}, "the next shards"
    )
    (decision,) = here.history(path=shards[0])
    assert decision["brought"]["asked"] == decision["brought"]["fetched"] == 2 * parts

    here.make(*(f"m/{name}" for name in [*MODEL, "other.safetensors"]), size=2 * CHUNK)
    index = {"metadata": {"total_size": 1}, "weight_map": {f"layer.{i}": MODEL[i % 3] for i in range(3000)}}
    for name, text in (("m", json.dumps(index)), ("broken", json.dumps(index)[:-3])):
        (here.source / name).mkdir(exist_ok=True)
        (here.source / name / "model.safetensors.index.json").write_text(text)
    here.make("broken/" + MODEL[0])
    here.read("broken/model.safetensors.index.json", "m/model.safetensors.index.json")
    model = {f"m/{name}": 2 * CHUNK for name in MODEL[:3]}
    here.until(lambda: model.items() <= here.cached().items(), "the shards that the index lists")
    assert not {"broken/" + MODEL[0], "m/" + MODEL[3], "m/other.safetensors"} & set(here.cached())


def test_directories_below_are_fetched_from(ruled: Callable[..., Ruled]) -> None:
    rule = """
  - id: depth-{0}
    conditions: [{{type: file_pattern, property: path, value: "{0}/*.jpg"}}]
    actions: [{{type: prefetch, parameters: {{siblings: true, depth: {1}}}}}]"""
    here = ruled("rules:" + "".join(rule.format(*each) for each in ((1, 1), (2, 2), (3, 3), ("wide", 3))))
    levels = [["0.jpg", "1"], ["a/2", "b/0"], ["a/c/4"], ["a/c/e/5"]]
    trees = {depth: [[f"{depth}/{name}" for name in names] for names in levels] for depth in (1, 2, 3)}
    here.make("elsewhere/6", *(name for tree in trees.values() for names in tree for name in names))
    for depth in trees:
        (here.source / str(depth) / "link").symlink_to(here.source / "elsewhere")
        here.read(f"{depth}/0.jpg")
    wanted = {name for depth, tree in trees.items() for names in tree[:depth] for name in names}
    here.until(lambda: set(here.cached()) >= wanted, f"expected {wanted}")
    assert set(here.cached()) == wanted
    near = [f"wide/{number:03}/f" for number in range(DIRECTORIES - 28)]
    here.make("wide/0.jpg", *near, *(f"wide/{number:03}/below/f" for number in range(DIRECTORIES - 28)))
    here.read("wide/0.jpg")
    wanted |= {"wide/0.jpg", *near}
    here.until(lambda: len(here.cached()) >= len(wanted) + 28, "the directories that one decision may take")
    assert set(here.cached()) >= wanted, "the nearest first"
    assert len(here.cached()) == len(wanted) + 28


def test_what_waits_past_its_deadline_is_dropped(ruled: Callable[..., Ruled], base: Path) -> None:
    """Files that wait to be opened (the directory takes longer to list), and chunks that wait to be read."""
    rule = """
  - id: {0}
    conditions: [{{type: file_context, property: extension, value: .{0}}}]
    actions: [{{type: prefetch, parameters: {{siblings: true, deadline: {1}}}}}]"""
    rules = "rules:" + "".join(rule.format(*each) for each in (("a", "1ms"), ("b", "400ms"), ("c", "60s")))
    rules += rule.format("d", "1ms").replace("siblings", "whole_file")
    (base / "backing").mkdir()
    with SlowFs(base, base / "backing", meta_ms=5, read_ms=50) as slow:
        here = ruled(rules, "--prefetch-parallel", "1", source=slow.path)
        here.source = slow.backing
        opened, soon = ["a/0.a", "a/1", "a/2.c"], ["c/0.c", "c/1"]
        read, again = [f"b/{number}.b" for number in range(40)], "b/again.c"
        here.make(*opened, *read, again, *soon)
        here.make(large := "d/large.d", size=20 * CHUNK)
        here.read(opened[0])
        here.read(read[0])
        with (here.mount / large).open("rb", buffering=0) as file:
            assert file.read(10) == content(large, 20 * CHUNK)[:10]
            here.read(soon[0])  # its deadline is the last: it waits behind the others
            here.until(lambda: here.cached().get(soon[1]) == 1000, "nothing has come")
            waiting = "swmld_fetch_queue_length"
            here.until(lambda: not here.daemon.metric(waiting, **{"class": "prefetch"}), "something waits")
            assert here.cached()[large] < 10 * CHUNK
        here.read(large)
        found = {name for name, size in here.cached().items() if size}
        assert not {*opened[1:]} & found
        # One after the other, 50 ms each: the eight of the first 400 ms, one more under way.
        assert len(found - {opened[0], read[0], large, *soon}) <= 9
        slow.set("delay-read", 0)
        here.read(opened[2], again)  # another rule asks for what was late
        late = {(name, 1000) for name in [*opened, *read]}
        here.until(lambda: late <= here.cached().items(), "dropped for good")


@pytest.mark.parametrize(
    ("parameters", "chunks"),
    [
        ("header: 100, footer: 70000", {0, 18, 19}),
        ("whole_file: true", set(range(20))),
        ("enabled: false", {0}),
    ],
    ids=["header and footer", "whole file", "off"],
)
def test_parts_of_a_large_file_are_fetched_when_it_is_opened(
    ruled: Callable[..., Ruled], parameters: str, chunks: set[int]
) -> None:
    here = ruled(AHEAD.format(parameters=parameters))
    here.make("large.jpg", size=20 * CHUNK)
    with (here.mount / "large.jpg").open("rb", buffering=0) as file:
        assert file.read(10) == content("large.jpg", 20 * CHUNK)[:10]
        here.until(lambda: here.cached() == {"large.jpg": len(chunks) * CHUNK}, "its parts")
        asked = len(chunks) * CHUNK if len(chunks) > 1 else 0
        here.until(
            lambda: brought(here)["fetched"] + brought(here)["late"] == asked, "what landed is not told"
        )
        assert brought(here)["asked"] == asked
        assert brought(here)["used"] + brought(here)["late"] == min(asked, CHUNK)
    here.until(lambda: brought(here)["wasted"] == max(0, asked - CHUNK), "what nobody read is not told")
    here.read("large.jpg")


def brought(here: Ruled) -> dict[str, int]:
    """By the first open of the file."""
    found: dict[str, int] = here.history(path="large.jpg")[-1]["brought"]
    return found


def test_a_pinned_file_stays(ruled: Callable[..., Ruled]) -> None:
    here = ruled(
        """
rules:
  - id: models
    conditions: [{type: file_pattern, property: name, value: "*.pth"}]
    actions: [{type: cache, parameters: {pin: true}}]
  - id: scans
    conditions: [{type: file_pattern, property: path, value: "scan/*"}]
    actions: [{type: cache, parameters: {strategy: lazy}}]
""",
        "--cache-size",
        "1MiB",
    )
    data, scan = [f"data/{number}" for number in range(6)], [f"scan/{number}" for number in range(40)]
    here.make("model.pth", *data, *scan, size=CHUNK)
    here.read("model.pth", *data)
    here.read(*scan)
    # What is evicted first makes room for itself: data that was read before a scan stays.
    assert {"model.pth", *data} <= set(here.cached())
    more = [f"more/{number}" for number in range(40)]
    here.make(*more, size=CHUNK)
    here.read(*more)
    assert "model.pth" in here.cached()
    assert not set(data) & set(here.cached())
    here.read("model.pth", *data)


def test_a_file_of_the_memory_tier_is_loaded_at_each_open(ruled: Callable[..., Ruled]) -> None:
    """Also of a file that C opened without asking before there was the rule, and after a new start."""
    here = ruled("rules: []")
    here.make("a.pth", "a.bin", size=12 * CHUNK)
    for _ in range(3):
        here.read("a.pth", "a.bin")
    here.rules.write_text(
        """
rules:
  - id: memory
    conditions: [name GLOB '*.pth']
    actions: [{type: cache, parameters: {tier: memory}}]
"""
    )
    here.until(lambda: bool(here.daemon.call("rules")["rules"]), "the rule is not there")
    whole = 12 * CHUNK // 4096
    for restart in (False, False, True):
        if restart:
            here.daemon.restart()
        for name in ("a.pth", "a.bin"):
            forget(here.mount / name)
            forget(here.cache_file(name))
            assert here.pages(name) == 0
            with (here.mount / name).open("rb", buffering=0):
                pass
        here.until(lambda: here.pages("a.pth") == whole, "it is not in memory")
        assert here.pages("a.bin") == 0


SHUFFLED = """
rules:
  - id: shuffled
    conditions: [{type: file_pattern, property: path, value: "train/*"}]
    actions: [{type: cache, parameters: {strategy: no_evict}}]
"""


def whole(here: Ruled) -> set[str]:
    return {name for name, size in here.cached().items() if size == CHUNK}


def test_a_shuffled_epoch_larger_than_the_cache(ruled: Callable[..., Ruled]) -> None:
    """CoorDL's MinIO cache (Mohan et al., VLDB 2021): what is never evicted is hit in every epoch."""
    here = ruled(SHUFFLED, "--cache-size", f"{41 * (CHUNK + 4096)}")
    names = [f"train/{number:03}" for number in range(80)]
    here.make(*names, size=CHUNK)
    here.read(*random.Random(1).sample(names, len(names)))
    kept = whole(here)
    assert len(kept) / len(names) >= 0.49
    for epoch in (2, 3):
        here.read(*random.Random(epoch).sample(names, len(names)))
        assert whole(here) == kept


UNOPENED = """
rules:
  - id: models
    conditions: [{type: file_pattern, property: name, value: "*.pth"}]
    actions: [{type: cache, parameters: {pin: true}}]
  - id: together
    conditions: [{type: file_pattern, property: name, value: "a.pth"}]
    actions: [{type: prefetch, parameters: {siblings: true}}]
  - id: scans
    conditions: ["comm == 'cat'"]
    actions: [{type: cache, parameters: {strategy: lazy}}]
"""


def test_what_came_unopened_is_kept_by_its_name_and_then_by_its_reader(ruled: Callable[..., Ruled]) -> None:
    here = ruled(UNOPENED)
    here.make("m/a.pth", "m/b.pth", "m/c.txt", "w/d.pth")
    here.daemon.ask("warmup", here.mount / "w")
    here.until(lambda: here.pinned() == {"w/d.pth"}, "warmup brought it")
    here.read("m/a.pth")
    here.until(lambda: here.pinned() == {"w/d.pth", "m/a.pth", "m/b.pth"}, "b.pth was fetched ahead")
    here.until(lambda: here.cached().get("m/c.txt") == 1000, "c.txt was fetched ahead")
    assert not here.history(path="m/c.txt")
    with subprocess.Popen(["cat", here.mount / "m/c.txt"], stdout=subprocess.DEVNULL) as reader:
        here.until(lambda: bool(here.history(path="m/c.txt")), "its first open is decided about")
    (decision,) = here.history(path="m/c.txt")
    assert (decision["rules"], decision["pid"]) == (["scans"], reader.pid)


FRAMEWORKS = """
rules:
  - id: torch
    conditions: ["framework == 'pytorch'"]
    actions: [{type: cache, parameters: {strategy: aggressive}}]
  - id: seen
    conditions: [{type: workload_context, property: libraries, operator: contains, value: libc}]
    actions: [{type: cache, parameters: {strategy: lazy}}]
  - id: mine
    conditions: ["file_framework == 'mine'"]
    actions: [{type: cache, parameters: {pin: true}}]
"""
PLUGIN = """
from swmld.plugins.interface import API, NONE
class Mine:
    api, libraries, extensions = API, (), (".mine", ".more")
    def framework_name(self): return "{name}"
    def detect(self, path, head): {detect}
    def hints(self, context): return NONE
    def default_rules(self): return ""
    def default_templates(self): return ""
"""
READER = """
import mmap, sys
if sys.argv[1:]:
    library = open(sys.argv[1], "rb")
    mapped = mmap.mmap(library.fileno(), 0, prot=mmap.PROT_READ)
for line in sys.stdin:
    with open(line.rstrip(), "rb") as file:
        file.read()
    print(flush=True)
"""


@pytest.mark.parametrize("daemon_mode", ["native"], indirect=True)
def test_frameworks_are_known_and_plugins_that_fail_are_disabled(
    ruled: Callable[..., Ruled], base: Path
) -> None:
    plugins = base / "plugins"
    plugins.mkdir(mode=0o755)
    for name, detect in (
        ("mine", "return float(path.endswith('.mine'))"),
        ("raising", "raise ValueError('no such file')"),
        ("hanging", "\n        while True: pass"),
    ):
        (plugins / f"{name}.py").write_text(PLUGIN.format(name=name, detect=detect))
        (plugins / f"{name}.py").chmod(0o644)
    (plugins / "refused.py").symlink_to("mine.py")
    here = ruled(FRAMEWORKS, "--plugins", str(plugins))
    here.daemon.expect_log("a plugin is not used: .*/refused.py: it is a symbolic link")
    here.daemon.expect_log("plugin (raising|hanging) is not used any more")

    def disabled() -> dict[str, str]:
        found = here.daemon.call("plugins")["plugins"]
        return {each["name"]: each["disabled"] for each in found if each["disabled"]}

    here.make("first.mine")
    here.read("first.mine")
    files = (f"{number}.bin" for number in range(1000))
    library = base / "libtorch_cpu.so"
    library.write_bytes(bytes(4096))

    def matched(reader: subprocess.Popen[str]) -> list[str]:
        """The rules about a new file that it reads, once its libraries are known."""
        assert reader.stdin is not None
        assert reader.stdout is not None
        rules: list[str] = []

        def known() -> bool:
            here.make(name := next(files))
            reader.stdin.write(f"{here.mount / name}\n")  # type: ignore[union-attr]
            reader.stdin.flush()  # type: ignore[union-attr]
            reader.stdout.readline()  # type: ignore[union-attr]
            found = here.history(path=name)
            rules[:] = found[0]["rules"] if found else []
            assert not found or found[0]["pid"] == reader.pid
            return "seen" in rules

        here.until(known, "its libraries are not known")
        return rules

    for mapped, wanted in (((str(library),), ["torch", "seen"]), ((), ["seen"])):
        command = [sys.executable, "-c", READER, *mapped]
        with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
            assert sorted(matched(reader)) == sorted(wanted)
            assert reader.stdin is not None
            reader.stdin.close()

    here.until(lambda: set(disabled()) == {"raising", "hanging"}, "they are not disabled")
    assert disabled()["raising"].startswith("detect raised ValueError: no such file")
    assert disabled()["hanging"].startswith("detect took longer than")
    more = [f"{number}.mine" for number in range(3)]
    here.make(*more, "other.more")
    here.read("other.more", *more)
    here.until(lambda: "mine" in rules_of(here, more[0]), "what is sound is asked still")


def rules_of(here: Ruled, name: str) -> list[str]:
    """The rules that matched the file when it was opened last, which is asked for again by a change."""
    here.make(name)
    here.read(name)
    found = here.history(path=name)
    return list(found[0]["rules"]) if found else []


def test_changed_settings_are_taken_over_or_wait_for_the_next_start(
    ruled: Callable[..., Ruled], base: Path
) -> None:
    """--chunk-size is given on the command line, where files cannot change it."""
    here = ruled("log_level: warning\nrules: []\n", "--config", str(base / "rules.yaml"))
    here.make("a", "b", size=CHUNK)
    here.read("a", "b")
    here.daemon.expect_log("changed settings of the daemon count from its next start on: engine, read_only")

    def status() -> dict[str, Any]:
        found: dict[str, Any] = here.daemon.status()
        return found

    live = f"cache_size: {CHUNK}\nlog_level: info\n"
    here.rules.write_text(live + "read_only: true\nengine: threads\nchunk_size: 1MiB\nrules: []\n")
    here.until(lambda: status()["rules"]["pending"] == ["engine", "read_only"], "settings do not wait")
    assert status()["cache"]["limit"] == CHUNK
    assert "changed settings of the daemon are in use: log_level, cache_size" in here.daemon.log.read_text()
    here.make("c", size=CHUNK)
    here.read("c")  # evicts
    here.until(lambda: status()["cache"]["bytes"] <= 2 * CHUNK, "the cache is larger than it may be")
    shown = here.daemon.ask("status")
    assert "changed, from the next start on: engine, read_only" in " ".join(shown.split())
    here.rules.write_text("rules: []\n")
    here.until(lambda: not status()["rules"]["pending"], "settings still wait")
    assert status()["cache"]["limit"] == 100 << 30


@pytest.mark.parametrize("beside", [True, False], ids=["beside-rules", "alone"])
def test_a_file_of_settings_alone_is_read_again(daemon_mode: str, base: Path, beside: bool) -> None:
    """Without rules, and beside those that ``--rules`` names, which stay."""
    path, rules = base / "settings.yaml", base / "r.yaml"
    path.write_text("cache_size: 1GiB\n")
    rules.write_text(EXCLUDE)
    options = ["--config", str(path), "--chunk-size", "64KiB", *(["--rules", str(rules)] * beside)]
    with Daemon(base, daemon_mode, options=options) as daemon:
        here = Ruled(daemon, rules)
        daemon.expect_log("cannot be used, the old ones stay|count from its next start on")

        def limit() -> int:
            found: int = daemon.status()["cache"]["limit"]
            return found

        def errors() -> float:
            found: float = daemon.stats()["rules_reload_errors_total"]
            return found

        def health() -> str:
            found: str = daemon.call("health")["rules"]
            return found

        usual = "valid" if beside else "none"
        assert (limit(), errors(), health()) == (1 << 30, 0, usual)
        path.write_text("cache_size: 2GiB\n")
        here.until(lambda: limit() == 2 << 30, "the file is not read again")
        # One that says less than it may, one with what does not go together, one that is not YAML.
        for number, wrong in enumerate(("cache_size: huge\n", "cache_size: 1KiB\n", "cache_size: {{\n"), 1):
            path.write_text("log_level: debug\n" + wrong)
            here.until(lambda: errors() == number, "the error is not counted")  # noqa: B023
            assert (limit(), health()) == (2 << 30, "kept-old")
            assert str(path) in daemon.status()["rules"]["error"]
            shown = " ".join(daemon.ask("status").split())
            assert ("swmld rules ls" if beside else f"settings changed and cannot be used: {path}") in shown
        path.write_text("cache_size: 3GiB\nread_only: true\n")
        here.until(lambda: limit() == 3 << 30, "what is mended is not taken over")
        assert (health(), daemon.status()["rules"]["pending"]) == (usual, ["read_only"])
        path.write_text("rules:\n  - {id: new, conditions: [size > 0], actions: [{type: exclude}]}\n")
        here.until(lambda: limit() == 100 << 30, "the default does not count again")
        active = ["no-scratch", "new"] if beside else []
        assert [rule["title"] for rule in daemon.call("rules")["rules"]] == active
        assert daemon.status()["rules"]["pending"] == ([] if beside else ["rules"])
