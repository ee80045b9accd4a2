"""What rules are told about a file that is opened: a real node table, patterns that have seen reads."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import trio
import trio.testing
from support.programs import Run, Table, shuffled
from swmld import documents
from swmld.cache.reclaim import Usage
from swmld.fetch.stats import FetchStats
from swmld.head import facts as head_facts
from swmld.head.facts import FROM_OPENING, NOT_PRODUCED, Facts, Opening
from swmld.head.filetype import HEAD, SAFETENSORS_HEADER, format_of, type_of
from swmld.head.host import Host
from swmld.head.meters import Openings, Source
from swmld.head.recognition import ALL, ASKED, OF_FILES, OF_PROCESSES, Recognition, wanted
from swmld.mount import native as nat
from swmld.mount.native import Config, Mode, Native, Want
from swmld.observe.libraries import Program
from swmld.observe.processes import ProcessTable
from swmld.patterns.feed import Process
from swmld.plugins.known import Match
from swmld.rules import catalogue
from swmld.rules.kinds import Kind, Value, parse
from swmld.rules.loading import load
from swmld.rules.reading import LIMITS
from swmld.types import FetchClass

MIB = 1 << 20
HOST: dict[str, Value] = {
    "free_memory": 64 * MIB,
    "memory_pressure": 1.5,
    "cpu": 12.5,
    "cpu_count": 2,
    "disk_fill": 40.0,
    "disk_free": 1024 * MIB,
    "gpu_count": 1,
    "gpu_memory": 80.0,
    "gpu_memory_free": 8 * MIB,
    "gpu_memory_total": 40 * MIB,
    "gpu_utilization": 99,
    "gpu_temperature": 61,
    "time_of_day": 3600,
}


class KnownHost(Host):
    """One whose facts are all known, users too."""

    def facts(self) -> Mapping[str, Value]:
        return HOST

    def user(self, uid: int) -> str | None:
        return {0: "root"}.get(uid)

    runs = False

    async def run(self) -> None:
        self.runs = True
        await trio.sleep_forever()


class People(Table):
    """With threads."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: dict[int, int] = {}

    def reader(self, tid: int) -> Process | None:
        return self.of(self.threads.get(tid, tid))


class Recognizer:
    """Plugins and processes: all that ends in ``.jpg`` is of keras, each process runs pytorch."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.known: dict[str, Match | None] = {}
        self.looked: dict[int, Program] = {}
        self.hangs = False

    def concerns(self, path: str) -> bool:
        return path.endswith((".jpg", ".pt"))

    def recall(self, path: str) -> Match | None:
        return self.known.get(path)

    def remembers(self, path: str) -> bool:
        return path in self.known

    async def framework(self, path: str, head: bytes = b"") -> Match | None:
        self.asked.append(path)
        if self.hangs:
            await trio.sleep_forever()
        self.known[path] = found = Match("keras", 0.9) if path.endswith(".jpg") else None
        return found

    def of(self, process: Process) -> Program | None:
        return self.looked.get(process.pid)

    async def look(self, process: Process) -> Program | None:
        program = Program(frozenset({"libtorch_cpu", "torch"}), ("pytorch", "jax"))
        return self.looked.setdefault(process.pid, program)

    async def run(self) -> None:
        await trio.sleep_forever()


class World:
    """A source directory with its node table, and an engine of patterns; the wall clock stands still."""

    def __init__(self, base: Path) -> None:
        self.source, data = base / "source", base / "data"
        self.source.mkdir()
        data.mkdir()
        self._fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (self.source, data)]
        self.native = Native(
            Config(*self._fds, local=True, hot=True, passthrough=False, acl=False, threads=1)
        )
        self.run = Run()
        self.run.table = self.people = People()
        self.run.patterns._processes = self.people
        self.run.patterns._population._processes = self.people
        self.stats = FetchStats()
        self.usage = Usage(30, 1, 40, 5 * MIB)
        self.now = 2e9
        self.host = KnownHost(base)
        self.recognizer = Recognizer()
        self.wants = ALL
        self.facts = Facts(
            self.native,
            self.run.patterns,
            self.people,
            self.host,
            lambda: self.usage,
            self.stats,
            "production",
            recognition=Recognition(self.recognizer, self.recognizer, lambda: self.wants),
            clock=lambda: self.now,
            monotonic=lambda: self.run.now,
        )

    def file(self, path: str, size: int = 100) -> int:
        """A file of the source that was looked up; its nodeid."""
        place = self.source / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
        os.truncate(place, size)
        os.utime(place, (self.now - 500, self.now - 500))
        nodeid = nat.ROOT
        for part in path.split("/"):
            nodeid = self.native.lookup(nodeid, os.fsencode(part)).nodeid
        return nodeid

    def known_as(self, file: int, nodeid: int) -> int:
        """From now on a file of the tree has this nodeid."""
        self.run.tree.places[nodeid] = self.run.tree.places.pop(file)
        return nodeid

    def of(self, nodeid: int, pid: int = 0, uid: int = -1) -> dict[str, Value]:
        return self.facts.of(Opening(nodeid, pid, uid))

    def open(self, nodeid: int, name: str) -> None:
        """As OpenFiles does once the cache file or the source is open."""
        fd = os.open(self.source / name, os.O_RDONLY)
        fh = self.native.open_file(nodeid, Want.SOURCE, fd, False)
        self.native.handle_free(fh)
        os.close(fd)

    def close(self) -> None:
        self.native.stop()
        self.native.free()
        for fd in self._fds:
            os.close(fd)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def training(world: World) -> tuple[int, int, int]:
    """(nodeid, reader, job) of a loader's second epoch."""
    run = world.run
    job = run.program()
    world.people.processes[job] = world.people.processes[job]._replace(container="0123456789ab")
    files = run.tree.images("set/train", 600)
    files[7] = world.known_as(files[7], world.file("set/train/0000007.jpg", 100_000))
    workers = run.workers(job, 4)
    for epoch in range(2):
        run.loader(workers, shuffled(files, epoch), 8)
        run.now += 1.0
    reader = next(pid for pid in workers if run.patterns.stream(pid, files[7]))
    return files[7], reader, job


def fetched(stats: FetchStats, nbytes: int, seconds: float, kind: FetchClass = FetchClass.DEMAND) -> None:
    stats.bytes[kind] += nbytes
    stats.latency[kind].observe(seconds)


async def ticks(world: World) -> None:
    """Two looks at the counters, a second apart; a fetch between them."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.facts.run)
        await trio.sleep(0.5)
        fetched(world.stats, 8 * MIB, 0.004)
        await trio.sleep(1.0)
        nursery.cancel_scope.cancel()


def prepare(world: World, *openings: tuple[int, int]) -> None:
    """As the mount does before each of these, with the tasks of facts running."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.facts.run)
            for nodeid, pid in openings:
                await world.facts.prepare(Opening(nodeid, pid))
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def everything(world: World) -> dict[str, Value]:
    nodeid, reader, _ = training(world)
    trio.run(ticks, world, clock=trio.testing.MockClock(autojump_threshold=0))
    prepare(world, (nodeid, reader))
    world.facts.opened(nodeid)
    return world.facts.of(
        Opening(nodeid, reader, 0, xattrs={"user.stage": "train"}, cached=0.29, head=b"\xff\xd8\xff\xe0")
    )


def test_every_property_is_known_or_said_not_to_be(world: World) -> None:
    names = {what.name for what in catalogue.PROPERTIES}
    found = set(everything(world))
    assert world.host.runs
    assert "xattr.user.stage" in found
    assert found - {"xattr.user.stage"} == names - set(NOT_PRODUCED)
    assert set(NOT_PRODUCED) | set(FROM_OPENING) <= names


def test_values_are_canonical(world: World) -> None:
    for name, value in everything(world).items():
        what = catalogue.find(name)
        if what.kind is Kind.STRING:
            assert isinstance(value, str), name
            assert not what.words or value in what.words, name
        elif what.kind is Kind.SET:
            assert isinstance(value, frozenset), name
        else:
            assert isinstance(value, int | float), name
            assert not isinstance(value, bool), name
            assert parse(what.kind, value) == value, name


def test_what_a_reader_of_a_dataset_is_told(world: World) -> None:
    found = everything(world)
    job = int(found["job"])  # type: ignore[arg-type]
    view = world.run.dataset(job, "set/train")
    expected = {
        "path": "set/train/0000007.jpg", "extension": ".jpg", "type": "dataset", "format": "jpeg",
        "size": 100_000, "age": 500.0, "cached": 29.0, "xattrs": frozenset({"user.stage"}),
        "xattr.user.stage": "train", "pattern": "repeated", "passes": 1, "reads": 2, "bytes_read": 204_800,
        "order": "shuffled", "order_confidence": 100 * view.order.confidence, "role": "samples",
        "dataset": "set/train", "dataset_files": 600, "epoch": 2, "epoch_fraction": 100.0, "workers": 4,
        "batch_size": view.batch, "phase": "training", "job_comm": "python3", "comm": "pt_data_worker",
        "cgroup": "/", "container": "0123456789ab", "user": "root", "processes": 4, "cache_fill": 75.0,
        "environment": "production", "source_bandwidth": 8 * MIB, "source_latency": 0.005, **HOST,
    }  # fmt: skip
    assert {name: found.get(name) for name in expected} == expected
    assert found["processes"] == len(world.run.job(job).pids)


def test_a_file_of_which_nothing_else_is_known(world: World) -> None:
    nodeid = world.file("data/a.parquet", 7)
    found = world.of(nodeid)
    assert {name: found[name] for name in set(found) - set(HOST)} == {
        "path": "data/a.parquet", "name": "a.parquet", "directory": "data", "extension": ".parquet",
        "depth": 1, "type": "dataset", "format": "parquet", "size": 7, "age": 500.0, "access_frequency": 0,
        "environment": "production",
    }  # fmt: skip
    assert set(world.of(999_999_999)) - set(HOST) == {"environment"}


def test_how_full_a_cache_without_a_limit_is(world: World) -> None:
    world.usage = Usage(0, 0, 0, 0)
    trio.run(ticks, world, clock=trio.testing.MockClock(autojump_threshold=0))
    assert world.of(world.file("a"))["cache_fill"] == 100.0


def test_what_the_kernel_reads_by_itself_is_cached_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodeid = world.file("a")
    assert "cached" not in world.of(nodeid)
    monkeypatch.setattr(Native, "mode", lambda self, nodeid: Mode.PASS_CACHE)
    assert world.of(nodeid)["cached"] == 100.0


def test_a_name_that_is_no_text_and_one_that_is_gone(world: World) -> None:
    nodeid = world.file(os.fsdecode(b"a\xff.pt"))
    assert world.of(nodeid)["name"] == "a\udcff.pt"
    (world.source / os.fsdecode(b"a\xff.pt")).unlink()
    world.native.unlinked(nat.ROOT, b"a\xff.pt")
    assert "path" not in world.of(nodeid)


def test_a_time_stamp_of_tomorrow_is_no_negative_age(world: World) -> None:
    nodeid = world.file("a")
    world.now -= 86400
    assert world.of(nodeid)["age"] == 0.0


def test_threads_are_their_process(world: World) -> None:
    nodeid = world.file("a")
    job = world.people.add(70, comm="serve")
    worker = world.people.add(71, job)
    world.people.threads[99] = worker
    assert world.of(nodeid, 99)["comm"] == "python3"
    assert world.of(nodeid, 99)["job"] == job
    assert "comm" not in world.of(nodeid, 12345)
    world.people.processes[71] = world.people.processes[71]._replace(command="", cgroup="")
    assert not {"command", "cgroup"} & set(world.of(nodeid, 71))
    assert "user" not in world.of(nodeid, 99, 4242)


def test_a_thread_of_this_very_process(world: World) -> None:
    nodeid = world.file("a")
    world.facts._processes = ProcessTable()
    found: list[dict[str, Value]] = []
    thread = threading.Thread(target=lambda: found.append(world.of(nodeid, threading.get_native_id())))
    thread.start()
    thread.join()
    assert found[0]["comm"] == Path("/proc/self/comm").read_text().strip()
    assert str(found[0]["command"]).split()[0]
    assert isinstance(found[0]["job"], int)


def test_a_job_before_its_first_read_is_its_root_process(world: World) -> None:
    nodeid = world.file("a")
    job = world.people.add(70, comm="torchrun", command="torchrun train.py")
    found = world.of(nodeid, world.people.add(71, job))
    assert (found["job"], found["job_comm"], found["job_command"]) == (70, "torchrun", "torchrun train.py")
    assert found["container"] == ""
    assert "phase" not in found
    del world.people.processes[job]
    world.run.now += 1.0
    found = world.of(nodeid, 71)
    assert (found["job"], "job_comm" in found) == (70, False)


def test_jobs_and_datasets_are_looked_at_now_and_then(world: World) -> None:
    nodeid, reader, job = training(world)
    before = world.of(nodeid, reader)
    world.run.read(job, world.run.tree.images("set/train2", 5))
    world.run.now += head_facts.RECENT / 2
    assert world.of(nodeid, reader)["job_reads"] == before["job_reads"]
    world.run.now += head_facts.RECENT
    assert world.of(nodeid, reader)["job_reads"] == before["job_reads"] + 5  # type: ignore[operator]


def test_a_dataset_of_many_directories_is_looked_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_facts, "HOMES", 5)
    run = world.run
    job = run.program()
    files = [file for label in range(8) for file in run.tree.images(f"set/{label}", 40)]
    for label in range(8):
        at = label * 40
        files[at] = world.known_as(files[at], world.file(f"set/{label}/0000000.jpg", 100_000))
    run.loader(run.workers(job, 4), shuffled(files, 1), 8)
    for nodeid in files[::40]:
        found = world.of(nodeid, job)
        assert (found["dataset"], found["dataset_folders"], found["dataset_files"]) == ("set", 8, 320)
    assert len(world.facts._datasets._found) == 1
    assert len(world.facts._homes) == 5


def test_what_is_remembered_of_jobs_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_facts, "REMEMBERED", 3)
    nodeid = world.file("a")
    for pid in range(100, 110):
        world.of(nodeid, world.people.add(pid))
    assert len(world.facts._jobs._found) == 3
    assert world.of(nodeid, 100)["job"] == 100


def test_a_large_file_read_at_random(world: World) -> None:
    run = world.run
    job = run.program()
    (file,) = run.tree.add("data", ["train.bin"], 64 * MIB)
    nodeid = world.known_as(file, world.file("data/train.bin", 64 * MIB))
    source = random.Random(1)
    run.large(job, nodeid, [(at, at + 1) for at in (source.randrange(16_000) for _ in range(300))])
    found = world.of(nodeid, job)
    assert (found["pattern"], found["shape"], found["reads"]) == ("random", "random", 300)
    assert found["pattern_confidence"] > 50  # type: ignore[operator]
    assert found["container"] == ""
    assert "sample_size" not in found
    assert "batch_size" not in found


# ---- frameworks

FRAMEWORKS = {"framework", "libraries", "file_framework"}


def frameworks(world: World, nodeid: int, pid: int = 0) -> dict[str, Value]:
    return {name: value for name, value in world.of(nodeid, pid).items() if name in FRAMEWORKS}


def test_frameworks_are_known_to_the_opening_that_waited(world: World) -> None:
    nodeid, text = world.file("a.jpg"), world.file("a.txt")
    pid = world.people.add(70)
    assert frameworks(world, nodeid, pid) == {}
    prepare(world, (nodeid, pid), (text, pid), (nodeid, pid))
    libraries = frozenset({"libtorch_cpu", "torch"})
    process: dict[str, Value] = {"framework": "pytorch", "libraries": libraries}
    assert frameworks(world, nodeid, pid) == {**process, "file_framework": "keras"}
    assert frameworks(world, text, pid) == process
    assert frameworks(world, nodeid) == {"file_framework": "keras"}
    assert world.recognizer.asked == ["a.jpg"]


def test_a_framework_that_nobody_knows(world: World) -> None:
    nodeid, pid = world.file("a.pt"), world.people.add(70)
    world.recognizer.looked[pid] = Program(frozenset({"libc"}), ())
    prepare(world, (nodeid, pid))
    assert frameworks(world, nodeid, pid) == {"libraries": frozenset({"libc"})}


def test_what_was_not_known_is_asked_for_the_next_opening(world: World) -> None:
    nodeid = world.file("a.jpg")
    assert frameworks(world, nodeid) == {}
    trio.run(ticks, world, clock=trio.testing.MockClock(autojump_threshold=0))
    assert frameworks(world, nodeid) == {"file_framework": "keras"}


def test_nobody_is_asked_for_what_no_rule_asks(world: World) -> None:
    nodeid, pid = world.file("a.jpg"), world.people.add(70)
    for wants in (frozenset[str](), OF_PROCESSES, OF_FILES):
        world.recognizer.known.clear()
        world.recognizer.looked.clear()
        world.wants = wants
        prepare(world, (nodeid, pid))
        assert set(frameworks(world, nodeid, pid)) == wants
        assert bool(world.recognizer.known) == (wants is OF_FILES)
        assert bool(world.recognizer.looked) == (wants is OF_PROCESSES)


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("rules: [{id: a, conditions: [type == model], actions: [{type: exclude}]}]", set()),
        ("rules: [{id: a, conditions: [{not: {any: [framework == jax]}}], actions: [{type: exclude}]}]",
         {"framework"}),
        ("rules: [{id: a, enabled: false, conditions: [framework == jax], actions: [{type: exclude}]}]",
         set()),
        ("{frameworks: {jax: {rules: [a]}}, rules: [{id: a, conditions: [], actions: [{type: exclude}]}]}",
         {"framework", "file_framework"}),
    ],
)  # fmt: skip
def test_what_rules_ask_for(text: str, asked: set[str]) -> None:
    assert wanted(load([documents.parse("r.yaml", text.encode(), **LIMITS)])) == asked


def test_an_opening_does_not_wait_for_ever(world: World) -> None:
    nodeid = world.file("a.jpg")
    world.recognizer.hangs = True
    prepare(world, (nodeid, 0))
    assert frameworks(world, nodeid) == {}


def test_as_many_files_wait_to_be_asked_about_and_no_more(world: World) -> None:
    recognition = world.facts._recognition
    assert recognition is not None
    for number in range(ASKED + 10):
        recognition.of(f"{number}.jpg", b"", None)
    assert len(recognition._wanted) == ASKED
    prepare(world)
    trio.run(ticks, world, clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(world.recognizer.asked) == ASKED
    assert frameworks(world, world.file("3.jpg")) == {"file_framework": "keras"}


# ---- openings


def test_openings_that_python_answers_and_those_of_c(world: World) -> None:
    nodeid = world.file("a")
    world.now = time.time() + 1.0
    assert world.of(nodeid)["access_frequency"] == 0
    assert "last_access" not in world.of(nodeid)
    world.facts.opened(nodeid)
    assert world.of(nodeid)["access_frequency"] == 1
    world.open(nodeid, "a")  # the one that was announced
    found = world.of(nodeid)
    assert found["access_frequency"] == 1
    assert 0 <= found["last_access"] < 60  # type: ignore[operator]
    before = world.native.usage(nodeid)
    while world.native.usage(nodeid) == before:  # C's clock goes on every few milliseconds
        world.open(nodeid, "a")
    assert world.of(nodeid)["access_frequency"] == 2


def test_an_opening_that_c_tells_of(world: World) -> None:
    nodeid = world.file("a")
    world.now = time.time() + 1.0
    world.open(nodeid, "a")
    world.facts.opened(nodeid, prefetched=True)
    assert world.of(nodeid)["access_frequency"] == 1


def test_reading_is_access_too(world: World) -> None:
    nodeid, reader, _ = training(world)
    world.now = time.time() + 3600.0
    world.open(nodeid, "set/train/0000007.jpg")
    read_at = world.run.patterns.stream(reader, nodeid).last_at  # type: ignore[union-attr]
    world.run.now = read_at + 20.0
    assert world.of(nodeid, reader)["last_access"] == pytest.approx(20.0)
    assert world.of(nodeid)["last_access"] == pytest.approx(3600.0, abs=60.0)
    world.now -= 3595.0
    assert world.of(nodeid, reader)["last_access"] == pytest.approx(5.0, abs=5.0)


def test_an_opening_that_c_answered_and_tells_of_counts_once() -> None:
    openings = Openings()
    openings.opened(7, 1000.0, 1000.0, answered=True)
    assert openings.frequency(7, 1000.0, 1000.0) == 1
    assert openings.frequency(7, 1000.5, 1001.0) == 2
    assert openings.frequency(7, 1000.5, 1002.0) == 2


def test_announced_openings_are_stamped_later() -> None:
    openings = Openings()
    openings.opened(7, 0.0, 1000.0, answered=False)
    openings.opened(7, 0.0, 1001.0, answered=False)
    assert openings.frequency(7, 1002.0, 1002.0) == 2
    assert openings.frequency(7, 1003.0, 1003.0) == 2
    assert openings.frequency(7, 1004.0, 1004.0) == 3
    # One that failed is never stamped; much later stamps are C's own.
    openings.opened(7, 1004.0, 1010.0, answered=False)
    assert openings.frequency(7, 1500.0, 1500.0) == 5


def test_openings_of_more_than_an_hour_ago_do_not_count() -> None:
    openings = Openings()
    for second in range(100):
        openings.opened(7, 0.0, 1200.0 + 60 * second, answered=False)
    now = 1200.0 + 60 * 99
    assert openings.frequency(7, 0.0, now) == 60
    assert len(openings._files[7].counts) <= 61
    assert openings.frequency(7, 0.0, now + 1800) == 30
    assert openings.frequency(7, 0.0, now + 3600) == 0
    assert openings.frequency(8, now - 4000, now) == 0
    assert openings.frequency(9, now - 4, now) == 1


def test_openings_are_remembered_of_the_latest_files() -> None:
    openings = Openings(limit=3)
    for nodeid in (1, 2, 3, 1, 4):
        openings.opened(nodeid, 0.0, 1000.0, answered=False)
    assert len(openings) == 3
    assert openings.frequency(1, 0.0, 1000.0) == 2
    assert openings.frequency(2, 0.0, 1000.0) == 0


# ---- the source


def test_the_source_is_as_fast_as_it_was_seen() -> None:
    stats = FetchStats()
    source = Source(stats)
    assert source.look(0.0) == {}
    fetched(stats, 10 * MIB, 0.04)
    fetched(stats, 10 * MIB, 0.2)
    fetched(stats, 10 * MIB, 0.04)
    found = {"source_bandwidth": 15 * MIB, "source_latency": 0.05}
    assert source.look(2.0) == found
    assert source.look(100.0) == found
    fetched(stats, MIB, 0.0001)
    assert source.look(101.0)["source_bandwidth"] == 15 * MIB
    for second in range(10):
        fetched(stats, MIB, 0.0001)
        found = source.look(102.0 + second)
    assert found == {"source_bandwidth": MIB, "source_latency": 0.0005}


def test_latency_is_that_of_demands_where_there_are_any() -> None:
    stats = FetchStats()
    source = Source(stats)
    source.look(0.0)
    fetched(stats, MIB, 9.0, FetchClass.PREFETCH)
    assert source.look(1.0)["source_latency"] == 10.0
    fetched(stats, MIB, 100.0)
    assert source.look(2.0)["source_latency"] == 30.0


# ---- types of files


@pytest.mark.parametrize(
    ("name", "kind", "form"),
    [
        ("model-00001-of-00002.safetensors", "model", "safetensors"),
        ("weights.PT", "model", ""),
        ("run/epoch_3.pt", "checkpoint", ""),
        ("checkpoint-500/model.safetensors", "checkpoint", "safetensors"),
        ("checkpoint-500/a/b/model.safetensors", "model", "safetensors"),
        ("step_100/train.csv", "dataset", "csv"),
        ("checkpoint", "checkpoint", ""),
        ("model.ckpt-1.data-00000-of-00001", "checkpoint", ""),
        ("train.csv.gz", "dataset", "gzip"),
        ("dump.gz", "dataset", "gzip"),
        ("shard.tar.zst", "dataset", "zstd"),
        ("a.npy", "tensor", "npy"),
        ("config.json", "config", "json"),
        ("x.tfrecord", "dataset", "tfrecord"),
        ("README", "other", ""),
        (".gz", "other", ""),
        ("", "other", ""),
    ],
)
def test_types_by_name(name: str, kind: str, form: str) -> None:
    assert type_of(name) == (kind, form)
    assert kind in catalogue.FILE_TYPES


def padded(start: bytes, at: int = 0) -> bytes:
    return (bytes(at) + start).ljust(HEAD, b"\0")


@pytest.mark.parametrize(
    ("head", "form"),
    [
        (padded(b"PK\x03\x04"), "zip"),
        (padded(b'\x10\x27\0\0\0\0\0\0{"a"'), "safetensors"),
        (padded(b"\x01\0\0\0\0\0\0\0{"), ""),
        (padded((SAFETENSORS_HEADER + 1).to_bytes(8, "little") + b"{"), ""),
        (padded(b"\x89HDF\r\n\x1a\n", 2048), "hdf5"),
        (padded(b"PAR1"), "parquet"),
        (padded(b"ustar  \0", 257), "tar"),
        (padded(b"\x1f\x8b\x08"), "gzip"),
        (padded(b"\x93NUMPY\x01\0"), "npy"),
        (padded(b"ARROW1\0\0"), "arrow"),
        (padded(b"\xff\xff\xff\xff\x10\x01\0\0"), "arrow"),
        (padded(b"\xff\xff\xff\xff\x11\x01\0\0"), ""),
        (b"\xff\xff\xff\xff", ""),
        (b"P", ""),
        (b"", ""),
    ],
)
def test_formats_by_content(head: bytes, form: str) -> None:
    assert format_of(head) == form


def test_content_counts_more_than_the_name() -> None:
    archive = padded(b"PK\x03\x04")
    assert type_of("a.pt", archive) == ("model", "zip")
    assert type_of("a.tar", archive) == ("dataset", "zip")
    assert type_of("a.safetensors", padded(b"nonsense")) == ("model", "")
    assert type_of("a.tfrecord", padded(b"nonsense")) == ("dataset", "tfrecord")
    assert type_of("blob", padded(b"GGUF")) == ("model", "gguf")
    assert type_of("blob", archive) == ("other", "zip")


def test_what_libraries_write_is_known(tmp_path: Path) -> None:
    """The numbers above, as the formats' own writers have them."""
    numpy = pytest.importorskip("numpy")
    numpy.save(tmp_path / "a", numpy.zeros(3))
    numpy.savez(tmp_path / "b", numpy.zeros(3))
    assert format_of((tmp_path / "a.npy").read_bytes()[:HEAD]) == "npy"
    assert format_of((tmp_path / "b.npz").read_bytes()[:HEAD]) == "zip"
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file({"w": numpy.zeros(3)}, tmp_path / "c")
    assert format_of((tmp_path / "c").read_bytes()[:HEAD]) == "safetensors"
