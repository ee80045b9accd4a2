"""What README.md says of rules and plugins, done as it says: its own files, on a mount."""

from __future__ import annotations

import http.server
import json
import os
import queue
import re
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.mount import Daemon
from test_fuse_rules import CHUNK, Ruled

README = (Path(__file__).parents[2] / "README.md").read_text()
RULES = README[README.index("## Rules\n") : README.index("## Options\n")]
PLUGINS = README[README.index("## Plugins\n") : README.index("## Rules\n")]
MIB = 1 << 20


def block(text: str, start: str) -> str:
    """An indented block, as it would be written into a file; ``start``: how it begins."""
    found = re.findall(r"(?:^(?:    .*)?\n)+", text, re.MULTILINE)
    plain = ("\n".join(line[4:] for line in one.splitlines()).strip("\n") + "\n" for one in found)
    (one,) = [each for each in plain if each.startswith(start)]
    return one


@pytest.fixture
def ruled(daemon_mode: str, base: Path) -> Iterator[Callable[..., Ruled]]:
    """A daemon with these rules and the chunks that it has by default."""
    with ExitStack() as stack:

        def start(rules: str, *options: str) -> Ruled:
            path = base / "mine.yaml"
            path.write_text(rules)
            options = ("--rules", str(path), "--neighbours", "off", *options)
            return Ruled(stack.enter_context(Daemon(base, daemon_mode, options=options)), path)

        yield start


def test_the_rules_of_the_readme_act_and_are_explained(ruled: Callable[..., Ruled]) -> None:
    here = ruled(block(RULES, "rules:\n"), "--chunk-size", "64KiB")
    images = [f"cat/{number:04}.png" for number in range(40)]
    here.make(*images, "run.tmp")
    here.make("llama.gguf", size=4 * MIB)
    with (here.mount / "llama.gguf").open("rb", buffering=0):
        here.until(lambda: here.cached().get("llama.gguf") == 2 * MIB, "its first and its last MiB")
    assert here.pinned() == {"llama.gguf"}
    here.read(images[0])
    here.until(lambda: set(images[:33]) <= set(here.cached()), "the next 32")
    here.read("run.tmp")
    assert set(here.cached()) == {"llama.gguf", *images[:33]}

    told = here.daemon.ask("explain", here.mount / images[0])
    for line in RULES.splitlines():
        if line.startswith("    images: matched"):
            assert line.strip().replace("/etc/swmld/rules/mine.yaml", str(here.rules)) in told
    for line in ("next_files = 32, by images", "1 of 3 rules match; --all shows why the others do not."):
        assert f"    {line}" in RULES
        assert line in told
    assert re.search(r"fetched ahead: .* of .*, 0B used so far", told)
    every = here.daemon.ask("explain", here.mount / images[0], "--all")
    assert "models: " in every
    assert "scratch: " in every
    history = here.daemon.command("history", "--limit", "1")
    assert "cache file: tier none (scratch)" in history.stdout
    assert "the latest 1; --limit N shows more" in history.stderr
    header = re.search(r"^    (RULE +PRIORITY .*)$", RULES, re.MULTILINE)
    jobs = re.search(r"^    +(JOB +DECISIONS .*)$", RULES, re.MULTILINE)
    assert header is not None
    assert jobs is not None
    assert here.daemon.ask("rules", "ls").split("\n")[0].split() == header[1].split()
    assert here.daemon.ask("history", "--by", "job").split("\n")[0].split() == jobs[1].split()

    # sed -i s/next_files/next_fils/
    here.daemon.expect_log(
        "rules were changed and cannot be used, the old ones stay: .*did you mean next_files"
    )
    here.rules.write_text(here.rules.read_text().replace("next_files", "next_fils"))
    here.until(lambda: bool(here.daemon.call("rules")["error"]), "the error")
    listed = here.daemon.ask("rules", "ls")
    (error,) = [line.strip() for line in RULES.splitlines() if "next_fils:" in line]
    assert error.replace("/etc/swmld/rules/mine.yaml", str(here.rules)) in listed
    assert re.search(r"^changed at [0-9:]+ and not in use:$", listed, re.MULTILINE)
    assert len(here.daemon.call("rules")["rules"]) == 3
    assert "the files changed and cannot be used" in here.daemon.ask("status")
    assert here.daemon.metric("swmld_rules_reload_errors_total") == 1
    here.read(images[39])
    assert here.history(path=images[39])[0]["rules"] == ["images"], "the old ones decide"


def test_which_rule_wins(ruled: Callable[..., Ruled]) -> None:
    """A rule that pins models and one that lets scans go first make a scanned model a pinned one; of two
    that give the same the priority counts, then what says more, then the order."""
    here = ruled(
        """
rules:
  - {id: pin, conditions: [type == model], actions: [{type: cache, parameters: {pin: true}}]}
  - {id: scans, conditions: [comm != nobody], actions: [{type: cache, parameters: {strategy: lazy}}]}
"""
        + "".join(
            f"  - {{id: {name}, priority: {priority}, conditions: [{conditions}],"
            f" actions: [{{type: prefetch, parameters: {{next_files: {count}}}}}]}}\n"
            for name, priority, conditions, count in (
                ("first", 0, "name == a.jpg", 1),
                ("more", 0, "name == a.jpg, size > 1", 2),
                ("even", 0, "name == b.jpg", 1),
                ("later", 0, "name == b.jpg", 2),
                ("low", 0, "name == c.jpg, size > 1", 2),
                ("high", 1, "name == c.jpg", 1),
            )
        )
    )
    here.make("m.pth", "a.jpg", "b.jpg", "c.jpg")
    here.read("m.pth", "a.jpg", "b.jpg", "c.jpg")

    def given(name: str, parameter: str) -> tuple[object, str]:
        (decided,) = here.history(path=name)
        settled = [one for each in decided["decisions"] for one in each["settled"]]
        (found,) = [(one["value"], one["rule"]) for one in settled if one["parameter"] == parameter]
        return found

    assert given("m.pth", "pin") == (True, "pin")
    assert given("m.pth", "strategy") == ("lazy", "scans")
    assert "m.pth" in here.pinned()
    assert given("a.jpg", "next_files") == (2, "more")
    assert given("b.jpg", "next_files") == (1, "even")
    assert given("c.jpg", "next_files") == (1, "high")


def test_who_is_told(ruled: Callable[..., Ruled], base: Path) -> None:
    """An event in log and metrics, a command with it on its input, a webhook that gets it; not again while
    the rule rests."""
    bodies: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    script, told = base / "tell", base / "told"
    script.write_text(f"#!/bin/sh\ncat >> {told}\n")
    script.chmod(0o755)
    with http.server.HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            here = ruled(
                f"""
rules:
  - id: tell
    cool_down: 1h
    conditions: [name GLOB '*.ckpt']
    actions:
      - {{type: notify, parameters: {{event: seen, command: {script}, webhook: "http://127.0.0.1:{server.server_port}/x"}}}}
"""
            )
            here.make("a.ckpt", "b.ckpt", "c.bin")
            here.read("a.ckpt", "c.bin")
            here.until(lambda: told.exists() and bool(told.read_text()), "the command")
            by_hook = json.loads(bodies.get(timeout=60))
            by_command = json.loads(told.read_text())
            assert (by_hook["path"], by_command["path"]) == ("a.ckpt", "a.ckpt")
            assert (by_hook["event"], by_hook["rule"]) == ("seen", "tell")
            here.daemon.call("cache.drop", path="")
            here.read("a.ckpt", "b.ckpt")  # a.ckpt rests, b.ckpt is another file
            assert json.loads(bodies.get(timeout=60))["path"] == "b.ckpt"
            here.until(lambda: here.daemon.metric("swmld_events_total", event="seen") == 2, "two events")
            assert bodies.empty()
            assert "seen" in here.daemon.log_text()
            here.until(
                lambda: here.daemon.metric("swmld_notifications_total", result="done") == 4, "all is told"
            )
        finally:
            server.shutdown()
            thread.join()


def test_what_is_evicted_first_and_last(ruled: Callable[..., Ruled]) -> None:
    """That a ttl passes is in ``t2_cache_fetch/test_cache_keep.py``, which has a clock of its own."""
    rule = """
  - id: {0}
    conditions: [path GLOB '{0}/*']
    actions: [{{type: cache, parameters: {{{1}}}}}]"""
    kinds = {
        "lazy": "strategy: lazy", "adaptive": "strategy: adaptive",
        "aggressive": "strategy: aggressive", "ttl": "strategy: ttl, ttl: 1h",
    }  # fmt: skip
    here = ruled(
        "rules:" + "".join(rule.format(*each) for each in kinds.items()),
        "--chunk-size", "64KiB", "--cache-size", f"{10 * (CHUNK + 4096)}",
    )  # fmt: skip
    files = {kind: [f"{kind}/0", f"{kind}/1"] for kind in kinds}
    for names in files.values():
        here.make(*names, size=CHUNK)
    for kind in ("aggressive", "ttl", "adaptive", "lazy"):  # the first one was used longest ago
        here.read(*files[kind])
    news = iter(range(1000))
    order: list[str] = []

    def left() -> list[str]:
        held = set(here.cached())
        return [kind for kind, names in files.items() if set(names) & held]

    for _ in range(60):
        if len(left()) <= 2:
            break
        here.make(name := f"new/{next(news)}", size=CHUNK)
        here.read(name)
        order += [kind for kind in kinds if kind not in left() and kind not in order]
    assert order == ["lazy", "adaptive"]
    assert left() == ["aggressive", "ttl"]


def test_the_plugin_of_the_readme(ruled: Callable[..., Ruled], base: Path) -> None:
    plugins = base / "plugins"
    plugins.mkdir(mode=0o755)
    (plugins / "blobs.py").write_text(block(PLUGINS, "import struct\n"))
    (plugins / "blobs.py").chmod(0o644)
    rules = re.search(r"`(frameworks: \{blobs: .*?\}\})`", PLUGINS)
    assert rules is not None
    here = ruled(rules[1] + "\n", "--plugins", str(plugins), "--chunk-size", "64KiB")
    parts = [3 * MIB, MIB, 2 * MIB]
    head = b"BLOBS" + struct.pack(f"<I{len(parts)}Q", len(parts), *parts)
    for name in ("a.blob", "b.other"):
        (here.source / name).write_bytes(head + bytes(4 * MIB - len(head)))
    here.make("beside")  # waits until all are old enough to be cached
    for name in ("a.blob", "b.other"):
        fd = os.open(here.mount / name, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            assert os.pread(fd, 4, 0) == head[:4]
            if name == "a.blob":
                here.until(lambda: here.cached()["a.blob"] == 4 * CHUNK, "its head and its three parts")
        finally:
            os.close(fd)
    assert here.cached()["b.other"] < 4 * CHUNK
    assert here.pinned() == {"a.blob"}
    assert "keep_blobs" in here.daemon.ask("explain", here.mount / "a.blob")
    listed = here.daemon.ask("plugin", "ls")
    assert re.search(r"^blobs +1 +[1-9]\d* +in use", listed, re.MULTILINE)
    assert here.daemon.command("plugin", "ls").returncode == 0
