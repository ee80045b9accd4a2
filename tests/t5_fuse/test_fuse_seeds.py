"""The examples of ``data/rules`` act as they stand: each on a mount, with files that its rules are about.

What ``explain`` says of a file is the decision; what cache, log and other processes see is the effect.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.mount import Daemon, swmld
from support.pages import forget
from test_fuse_actions import Opener
from test_fuse_rules import CHUNK, Ruled

EXAMPLES = Path(__file__).parents[1] / "data" / "rules"
Seeded = Callable[..., Ruled]


@pytest.fixture
def seeded(base: Path) -> Iterator[Seeded]:
    """A daemon with the example of this number, unchanged; further arguments are options."""
    with ExitStack() as stack:

        def start(number: int, *options: str) -> Ruled:
            (path,) = EXAMPLES.glob(f"{number:02}-*.yaml")
            options = ("--rules", str(path), "--chunk-size", "64KiB", "--neighbours", "off", *options)
            return Ruled(stack.enter_context(Daemon(base, "passthrough", options=options)), path)

        yield start


def explained(here: Ruled, name: str) -> str:
    """What ``swmld explain`` says."""
    return here.daemon.ask("explain", here.mount / name)


def read_a_byte(here: Ruled, name: str) -> None:
    """So that the kernel asks for no more than its first pages."""
    fd = os.open(here.mount / name, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    assert os.pread(fd, 1, 0) == (here.source / name).read_bytes()[:1]
    os.close(fd)


def assumed(number: int, facts: str) -> str:
    """What ``swmld rules match`` makes of facts."""
    (path,) = EXAMPLES.glob(f"{number:02}-*.yaml")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(facts)
        file.flush()
        return swmld("rules", "match", path, "--facts", file.name).stdout


def whole(here: Ruled, name: str, size: int) -> None:
    here.until(lambda: here.cached().get(name) == size, f"{name} is cached whole")


def test_01_models_are_cached_by_use(seeded: Seeded) -> None:
    here = seeded(1)
    here.make("m/a.pth", "m/notes.txt")
    here.read("m/a.pth", "m/notes.txt")
    assert "strategy = adaptive, by smart_model_caching" in explained(here, "m/a.pth")
    assert "no rule matched" in explained(here, "m/notes.txt")
    (decision,) = here.history(path="m/a.pth")[:1]
    assert decision["rules"] == ["smart_model_caching"]
    whole(here, "m/a.pth", 1000)


def test_02_large_models_come_in_four_streams(seeded: Seeded) -> None:
    here = seeded(2)
    here.make("small.pth")
    (here.source / "large.pth").touch()
    os.truncate(here.source / "large.pth", (1 << 30) + 1)
    here.make("later")
    read_a_byte(here, "large.pth")
    said = explained(here, "large.pth")
    assert "chunk_size = 64MiB, by large_model_streaming" in said
    assert "parallel_streams = 4, by large_model_streaming" in said
    assert "no rule matched" in explained(here, "small.pth")


def test_03_a_template_for_training(seeded: Seeded) -> None:
    here = seeded(3)
    shards = [f"d/part-{n:05}-of-00004.tfrecord" for n in range(4)]
    here.make(*shards, "run/model.ckpt")
    read_a_byte(here, shards[0])
    for name in shards:
        whole(here, name, 1000)
    said = explained(here, shards[0])
    assert "parallel_streams = 8, by dataset_parallel_loading (template distributed_training)" in said
    with Opener("r+b") as first, Opener("r+b") as second:
        first.open(here.mount / "run/model.ckpt")
        second.say(here.mount / "run/model.ckpt")
        assert second.silent()
        first.close()
        assert second.hear() == "open"
        second.close()
    assert "mode = single_writer, by checkpoint_coordination" in explained(here, "run/model.ckpt")


def test_04_a_template_for_research(seeded: Seeded) -> None:
    here = seeded(4)
    here.make("run/epoch_1.ckpt", "notes.txt")
    here.read("run/epoch_1.ckpt", "notes.txt")
    here.until(lambda: "experiment_checkpoint" in here.daemon.log_text(), "the event in the log")
    assert "strategy = adaptive, by adaptive_caching" in explained(here, "notes.txt")
    assert here.daemon.log_text().count("experiment_checkpoint") == 1


def test_05_a_template_for_production(seeded: Seeded) -> None:
    here = seeded(5)
    names = [f"d/{n:03}.jpg" for n in range(20)]
    here.make(*names, "run/last.ckpt")
    read_a_byte(here, names[0])
    for name in names:
        whole(here, name, 1000)
    assert "strategy = aggressive, by high_performance_caching" in explained(here, names[0])
    here.read("run/last.ckpt")
    said = explained(here, "run/last.ckpt")
    assert "strategy = no_evict, by fault_tolerant_checkpointing" in said
    assert "priority = 100, by fault_tolerant_checkpointing" in said
    # Its third rule asks how many processes of the job read, which the probes tell: as a fact.
    assert "mode = single_fetch, by distributed_coordination" in assumed(5, "processes: 2")


def test_06_a_template_for_inference(seeded: Seeded) -> None:
    here = seeded(6)
    shards = [f"m/model-{n:05}-of-00003.bin" for n in (1, 2, 3)]
    here.make(*shards, size=6 * CHUNK)
    read_a_byte(here, shards[0])
    for name in shards:
        whole(here, name, 6 * CHUNK)
    said = explained(here, shards[0])
    assert "whole_file = true, by model_preloading (template low_latency_inference)" in said
    assert "strategy = aggressive, by model_preloading" in said
    # Its second rule asks for the job's phase, which is known once the job has read for a while: as a fact.
    said = assumed(6, "{type: model, phase: inference, memory_pressure: 1%}")
    assert "tier = memory, by memory_pool_optimization" in said


def test_07_describes_the_form_and_is_refused() -> None:
    (path,) = EXAMPLES.glob("07-*.yaml")
    done = swmld("validate", path)
    assert done.returncode == 2
    assert [line.rpartition("/")[2].split(":")[1] for line in done.stderr.splitlines()] == ["7", "11", "13"]


def test_08_rules_of_frameworks(seeded: Seeded) -> None:
    here = seeded(8, "--readahead-max", "0")
    size = 64 * CHUNK
    here.make("t/a.pth", size=size)
    here.make(
        "tf/saved_model.pb", "tf/variables/variables.index", "tf/variables/variables.data-00000-of-00001"
    )
    header = b'{"w":{"dtype":"U8","shape":[100],"data_offsets":[0,100]}}'
    for n in (1, 2):
        (here.source / f"hf-model-{n:05}-of-00002.safetensors").write_bytes(
            len(header).to_bytes(8, "little") + header + bytes(100)
        )
    here.make("later")
    import_torch = "import torch, sys; file = open(sys.argv[1], 'rb', 0); file.read(1); sys.stdin.read()"
    argv = [sys.executable, "-c", import_torch, here.mount / "t/a.pth"]
    # Nothing is fetched for a file that is closed again before it is known whose it is.
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as reader:
        try:
            here.until(lambda: here.cached().get("t/a.pth", 0) >= 2 << 20, "both ends are cached")
        finally:
            reader.communicate(timeout=100)
    assert reader.returncode == 0
    assert here.cached()["t/a.pth"] < size
    (decision,) = here.history(path="t/a.pth")[:1]
    assert decision["rules"] == ["pytorch_model_optimization (framework pytorch)"]
    here.read("tf/saved_model.pb")
    whole(here, "tf/variables/variables.index", 1000)
    (decision,) = here.history(path="tf/saved_model.pb")[:1]
    assert "tensorflow_savedmodel_optimization (framework tensorflow)" in decision["rules"]


OWN = """
templates:
  - {id: mine, rules: [kept]}
rules:
  - id: kept
    conditions: [type == model]
    actions: [{type: cache, parameters: {strategy: "${optimization_level}"}}]
    parameters: {optimization_level: adaptive}
"""
LOGGED = "decided: cache strategy "


def test_09_settings_of_environments(seeded: Seeded, base: Path) -> None:
    own = base / "own.yaml"
    own.write_text(OWN)
    here = seeded(9, "--environment", "development", "--rules", str(own))
    here.make("a.pth")
    here.read("a.pth")
    here.until(lambda: LOGGED in here.daemon.log_text(), "the decision is logged: debug of the environment")
    assert "strategy = lazy, by kept" in explained(here, "a.pth"), "optimization_level basic"


def test_10_a_host_without_gpus(seeded: Seeded) -> None:
    here = seeded(10)
    if any(Path(driver).exists() for driver in ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/kfd")):
        pytest.skip("this host has GPUs")
    here.make("small.txt")
    here.until(lambda: "gpu_count equals 0 (it is 0)" in explained(here, "small.txt"), "the host is known")
    here.read("small.txt")
    assert "tier = memory, by cpu_cache_optimization (hardware profile cpu_only)" in explained(
        here, "small.txt"
    )
    forget(here.cache_file("small.txt"))
    with Opener() as reader:
        reader.open(here.mount / "small.txt")
        here.until(lambda: here.pages("small.txt") > 0, "loaded into memory by the open alone")
        reader.close()


@pytest.mark.parametrize("number", [11, 13])
def test_11_and_13_settings(seeded: Seeded, base: Path, number: int) -> None:
    own = base / "own.yaml"
    own.write_text(OWN)
    here = seeded(number, "--rules", str(own))
    here.make("a.pth", "a.txt")
    here.read("a.pth", "a.txt")
    here.until(lambda: LOGGED in here.daemon.log_text(), "the decision is logged")
    (line,) = [line for line in here.daemon.log_text().splitlines() if LOGGED in line]
    assert "path=a.pth" in line
    assert 'rules="kept (template mine)"' in line
    assert " swmld.head.head: decided: cache strategy adaptive " in line


def test_12_a_rule_for_pth(seeded: Seeded) -> None:
    here = seeded(12, "--readahead-max", "16MiB")
    here.make("a.pth", "a.txt", size=8 * CHUNK)
    read_a_byte(here, "a.pth")
    said = explained(here, "a.pth")
    assert "strategy = adaptive, by pytorch_model_optimization" in said
    assert "size = 64KiB, by pytorch_model_optimization" in said
    assert "no rule matched" in explained(here, "a.txt")
