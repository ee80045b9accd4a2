"""Jobs: phases, waiting, tiers, and processes that come and go."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest
from support.programs import Run, shuffled
from swmld.patterns.feed import Shape, Tiers, Touch, TouchFlag, TouchKind, Wait
from swmld.patterns.limits import Limits
from swmld.patterns.views import as_json, quantile

MIB = 1 << 20


def training(run: Run, epochs: int = 2, count: int = 600) -> tuple[int, list[int]]:
    job = run.program()
    files = run.tree.images("set/train", count)
    for epoch in range(epochs):
        run.loader(run.workers(job, 4), shuffled(files, epoch), 8)
    return job, files


def model(run: Run, path: str = "models/llama", count: int = 4) -> list[int]:
    names = [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(count)]
    return run.tree.add(path, names, 64 * MIB)


def test_training_shuffled_within_the_first_epoch() -> None:
    run = Run()
    job = run.program()
    files = run.tree.images("train", 2000)
    run.loader(run.workers(job, 4), shuffled(files, 1)[:100], 8)
    phase = run.job(job).phase
    assert phase.kind == "training"
    assert "shuffled" in phase.evidence
    assert phase.confidence >= 0.8


def test_training_by_epochs_in_order() -> None:
    run = Run()
    job = run.program()
    files = run.tree.images("train", 200)
    run.read(job, files)
    assert run.phase(job) != "training"
    run.read(job, files[:80])
    phase = run.job(job).phase
    assert phase.kind == "training"
    assert phase.evidence == "epoch 2 of 200 files, 40% of it read"


@pytest.mark.parametrize(
    ("comm", "epoch"), [("git", None), ("grep", None), ("python3", 3), ("cargo", 3)]
)
def test_what_knows_no_epochs_reads_in_passes(comm: str, epoch: int | None) -> None:
    """``git status`` three times in a shell's loop: rules that ask for an epoch mean those who train."""
    run = Run()
    job = run.program(comm, comm)
    files = run.tree.images("tree", 200)
    for _ in range(3):
        run.read(job, files)
    (view,) = run.job(job).datasets
    assert (view.epoch, view.passes) == (epoch, 3)
    assert run.patterns.dataset_of(files[0], job) == view


def test_validation_between_epochs() -> None:
    run = Run()
    job = run.program()
    train = run.tree.images("set/train", 600)
    val = run.tree.images("set/val", 100)
    for epoch in range(3):
        run.loader(run.workers(job, 4), shuffled(train, epoch), 8)
        assert run.phase(job) == "training"
        run.now += 1.0
        run.loader(run.workers(job, 2), val, 8)
        phase = run.job(job).phase
        assert phase.kind == "validation"
        assert "set/val" in phase.evidence
        run.now += 1.0


def test_validation_without_names_that_say_so() -> None:
    run = Run()
    job = run.program()
    big, small = run.tree.images("a", 600), run.tree.images("b", 100)
    run.loader(run.workers(job, 4), shuffled(big, 1), 8)
    run.now += 3.0
    run.loader(run.workers(job, 4), small, 8)
    assert run.phase(job) == "validation"


def test_model_load() -> None:
    run = Run()
    job = run.program(command="python3 serve.py")
    for file in model(run):
        run.front_to_back(job, file)
    phase = run.job(job).phase
    assert phase.kind == "model load"
    assert "read once" in phase.evidence
    assert "names of models" in phase.evidence
    (view,) = run.job(job).datasets
    assert view.role.kind == "model"


def test_a_model_among_small_files() -> None:
    run = Run()
    job = run.program(command="python3 serve.py")
    small = [f"{name}.json" for name in ("config", "tokenizer", "merges", "vocab", "generation", "special")]
    *texts, file = run.tree.add("hub/gpt", [*small, "model.safetensors"])
    run.tree.places[file] = run.tree.places[file]._replace(size=500 * MIB)
    run.read(job, texts)
    run.front_to_back(job, file)
    assert run.phase(job) == "model load"


def test_a_model_that_each_rank_loads() -> None:
    run = Run()
    job = run.program("torchrun", "torchrun serve.py")
    files = model(run)
    for _ in range(4):
        rank = run.program("python3", "python3 serve.py", job)
        for file in files:
            run.front_to_back(rank, file)
    assert run.phase(job) == "model load"


def test_checkpoint_load_after_training_began() -> None:
    run = Run()
    job, _ = training(run)
    run.now += 3.0
    (file,) = run.tree.add("out", ["weights.pt"], 64 * MIB)
    run.front_to_back(job, file)
    assert run.phase(job) == "checkpoint load"


def test_checkpoint_load_by_name() -> None:
    run = Run()
    job = run.program()
    (file,) = run.tree.add("run1/checkpoint-500", ["model.safetensors"], 64 * MIB)
    run.front_to_back(job, file)
    phase = run.job(job).phase
    assert phase.kind == "checkpoint load"
    assert phase.confidence < 0.9


def test_a_file_with_a_models_name_that_is_read_at_random_is_no_model() -> None:
    """A tokenised corpus, train.bin, through numpy.memmap."""
    run = Run()
    job = run.program()
    (file,) = run.tree.add("openwebtext", ["train.bin"], 1024 * MIB)
    source = random.Random(1)
    starts = [source.randrange(262_000) for _ in range(3000)]
    run.large(job, file, [(at, at + 1) for at in starts], fault=True)
    view = run.job(job)
    assert view.datasets[0].role.kind == "shards"
    assert view.datasets[0].order.kind == "shuffled"
    assert view.phase.kind == "training"


@pytest.mark.parametrize(("comm", "name"), [("fio", "train.bin"), ("python3", "index.sqlite")])
def test_what_measures_or_looks_rows_up_does_not_train(comm: str, name: str) -> None:
    run = Run()
    job = run.program(comm)
    (file,) = run.tree.add("d", [name], 1024 * MIB)
    source = random.Random(1)
    starts = [source.randrange(262_000) for _ in range(3000)]
    run.large(job, file, [(at, at + 1) for at in starts])
    assert run.patterns.stream(job, file).pattern.kind == "random"  # type: ignore[union-attr]
    assert run.job(job).phase.kind == "unknown"


def test_a_shuffled_directory_of_objects_is_no_training() -> None:
    """Of git, which goes by hashes."""
    run = Run()
    job = run.program("git", "git log -p")
    run.read(job, shuffled(run.tree.images("repo/.git/objects/00", 400), 1))
    assert run.job(job).datasets[0].order.kind == "shuffled"
    assert run.job(job).phase.kind == "unknown"


def test_what_measures_writes_no_checkpoint() -> None:
    run = Run()
    job = run.program("fio")
    (file,) = run.tree.add("d", ["test.bin"], 64 * MIB)
    run.wrote(job, file, 64 * MIB)
    phase = run.job(job).phase
    assert phase.kind == "unknown"
    assert phase.evidence.startswith("what fio reads and writes")


def test_checkpoint_save() -> None:
    run = Run()
    job, _ = training(run)
    run.writes(job, 10)
    run.now += 1.0
    run.writes(job, 500)
    phase = run.job(job).phase
    assert phase.kind == "checkpoint save"
    assert "500 writes" in phase.evidence
    run.now += 10.0
    run.read(run.workers(job, 1)[0], run.tree.images("set/train2", 5))
    assert run.phase(job) != "checkpoint save"


def test_checkpoint_save_of_a_job_that_reads_nothing() -> None:
    run = Run()
    job = run.program(command="python3 save.py")
    run.writes(job, 100)
    assert run.phase(job) == "checkpoint save"


def test_checkpoint_save_that_is_passed_through() -> None:
    """The process that trains reads nothing by itself, its workers do."""
    run = Run()
    job, files = training(run)
    (file,) = run.tree.add("out", ["epoch1.pt"], 64 * MIB)
    assert run.phase(job) == "training"
    run.wrote(job, file, 24 * MIB)
    run.now += 1.0
    run.wrote(job, file, 48 * MIB)
    view = run.job(job)
    assert view.phase.kind == "checkpoint save"
    assert view.phase.evidence == "48MiB written to epoch1.pt within 3 s after it began to train"
    assert (view.written_bytes, view.write_bursts, view.writes) == (48 * MIB, 1, 0)
    assert job in view.pids
    run.now += 2.5
    run.loader(run.workers(job, 4), shuffled(files, 2)[:100], 8)
    assert run.phase(job) == "training"


@pytest.mark.parametrize("every", [1.0, 4.0])
def test_saves_every_few_seconds_are_moments_of_the_training(every: float) -> None:
    """It goes on between them; the first ones are told each."""
    run = Run()
    job, files = training(run)
    workers = run.workers(job, 2)
    saved = run.tree.add("out", [f"step{number}.pt" for number in range(20)], 64 * MIB)
    phases = []
    for number, file in enumerate(saved):
        run.wrote(job, file, 8 * MIB)
        found = run.job(job).phase
        phases.append(found.kind)
        run.loader(workers, shuffled(files, number + 2)[:16], 8)
        run.now += every
    assert phases[0] == "checkpoint save"
    assert set(phases[5:]) == {"training"}, phases
    assert "short saves between its reads" in found.evidence
    # One that takes long is told, as nothing is read meanwhile.
    (last,) = run.tree.add("final", ["model.pt"], 512 * MIB)
    for second in range(1, 6):
        run.now += 1.0
        run.wrote(job, last, second * 64 * MIB)
    assert run.phase(job) == "checkpoint save"


def test_saves_at_each_end_of_an_epoch_are_told() -> None:
    """Also beside a log that grows all the time."""
    run = Run()
    job, files = training(run)
    workers = run.workers(job, 2)
    (log,) = run.tree.add("log", ["events.log"], 64 * MIB)
    for number, file in enumerate(run.tree.add("out", [f"epoch{n}.pt" for n in range(6)], 64 * MIB)):
        for second in range(20):
            run.loader(workers, shuffled(files, number + 2)[30 * second : 30 * second + 30], 8)
            run.now += 1.0
            run.wrote(job, log, (20 * number + second + 1) * 50 * 1024)
            assert number == 0 or second < 4 or run.phase(job) == "training"
        run.wrote(job, file, 48 * MIB)
        assert run.phase(job) == "checkpoint save"


def test_a_checkpoint_in_many_parts_without_names() -> None:
    run = Run()
    job, _ = training(run)
    for file in run.tree.add("out", [f"rank{n}.tmp" for n in range(8)], 64 * MIB):
        run.wrote(job, file, 8 * MIB)
    phase = run.job(job).phase
    assert phase.kind == "checkpoint save"
    assert phase.evidence.startswith("64MiB written to 8 files")


def test_a_log_is_no_checkpoint() -> None:
    run = Run()
    job, files = training(run)
    (log,) = run.tree.add("ckpt", ["events.log"], 64 * MIB)
    for second in range(1, 60):
        run.now += 1.0
        run.wrote(job, log, second * 200 * 1024)
        run.read(job, files[second : second + 1])
        assert run.phase(job) == "training"
    assert run.job(job).written_bytes == 59 * 200 * 1024


def test_a_small_checkpoint_is_known_by_name() -> None:
    run = Run()
    job, _ = training(run)
    (file,) = run.tree.add("out", ["probe.safetensors"], 20_000)
    run.wrote(job, file, 20_480)
    assert run.phase(job) == "checkpoint save"


def test_rows_that_come_for_reads_write_nothing_again() -> None:
    run = Run()
    job, _ = training(run)
    (file,) = run.tree.add("out", ["base.db"], 64 * MIB)
    run.wrote(job, file, 8 * MIB)
    run.now += 30.0
    model = run.front_to_back(job, file)
    row = model.cursor._replace(first_at=900.0, written=8 * MIB, written_at=run.now - 30.0, bursts=1)
    run.patterns.cursors([(job, file, row)])
    view = run.job(job)
    assert view.written_bytes == 8 * MIB
    assert view.phase.kind != "checkpoint save"


def test_a_file_that_is_followed_anew_is_counted_on() -> None:
    run = Run()
    job = run.program()
    (file,) = run.tree.add("out", ["a.pt"], 64 * MIB)
    run.wrote(job, file, 8 * MIB, 2)
    run.wrote(job, file, 3 * MIB, 1, since=950.0)
    run.wrote(job, file, 5 * MIB, 2, since=950.0)
    view = run.job(job)
    assert (view.written_bytes, view.write_bursts) == (13 * MIB, 4)


@pytest.mark.parametrize(
    ("names", "size", "kind"),
    [
        (["part-0.parquet"], 64 * MIB, "data preparation"),
        ([f"{n}.jpg" for n in range(200)], 100_000, "data preparation"),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            64 * MIB,
            "checkpoint save",
        ),
    ],
)
def test_what_a_job_writes_that_reads_nothing(names: list[str], size: int, kind: str) -> None:
    run = Run()
    job = run.program(command="python3 make.py")
    for file in run.tree.add("out", names, size):
        run.wrote(job, file, size)
    assert run.phase(job) == kind


def test_a_tool_that_writes_prepares_data() -> None:
    run = Run()
    job = run.program("cp", "cp /elsewhere/model.safetensors models")
    (file,) = run.tree.add("models", ["model.safetensors"], 64 * MIB)
    run.wrote(job, file, 64 * MIB)
    phase = run.job(job).phase
    assert phase.kind == "data preparation"
    assert phase.evidence.startswith("cp: 64MiB written to model.safetensors")


def test_files_written_are_bounded() -> None:
    run = Run(Limits(written=16))
    job = run.program()
    files = run.tree.add("out", [f"{n}.pt" for n in range(100)], MIB)
    for file in files:
        run.wrote(job, file, MIB)
    assert len(run.patterns._written) == 16
    assert run.job(job).written_bytes == 100 * MIB


@pytest.mark.parametrize("tool", ["cp", "grep", "tar", "md5sum"])
def test_tools_prepare_data(tool: str) -> None:
    run = Run()
    job = run.program(tool, f"{tool} -r data")
    run.read(job, run.tree.images("data", 300))
    phase = run.job(job).phase
    assert phase.kind == "data preparation"
    assert tool in phase.evidence


def test_a_file_that_is_opened_often_is_one_file() -> None:
    """A loop of dd's, each of which reads a part of it."""
    run = Run()
    job = run.program("sh", "sh loop.sh")
    (file,) = run.tree.add("d", ["x.dat"], 64 * MIB)
    for number in range(5):
        dd = run.program("dd", "dd if=x.dat", job)
        run.large(dd, file, [(number * 300, number * 300 + 31), (number * 300 + 32, number * 300 + 63)])
        run.exit(dd)
    assert run.job(job).phase.evidence == "dd reads 1 file, opened 5 times"


def test_processes_that_have_ended_are_counted() -> None:
    run = Run()
    job = run.program()
    files = run.tree.images("data", 300)
    workers = run.workers(job, 3)
    for number, pid in enumerate(workers):
        run.read(pid, files[number * 20 : number * 20 + 10])
    run.exit(*workers)
    assert run.job(job).phase.evidence == "3 processes read 30 files once, in sorted order"


@pytest.mark.parametrize("name", ["train.bin", "x.dat", "x.npy"])
def test_a_large_file_read_again_and_again_is_not_read_once(name: str) -> None:
    run = Run()
    job = run.program()
    (file, *_) = run.tree.add("d", [name, "other"], 64 * MIB)
    pages = 64 * MIB // 4096
    run.large(job, file, [(at, at + 63) for _ in range(4) for at in range(0, pages, 64)])
    view = run.job(job)
    assert view.streams[0].pattern.kind == "repeated"
    assert view.datasets[0].role.kind == "shards"
    assert view.phase == ("training", 0.55, "1 large file read 4 times by 1 process")


def test_a_model_that_is_read_once_is_a_model() -> None:
    run = Run()
    job = run.program()
    (file, *_) = run.tree.add("d", ["model.bin", "other"], 64 * MIB)
    run.front_to_back(job, file)
    assert run.job(job).phase.kind == "model load"


def test_one_file_is_not_called_several() -> None:
    run = Run()
    job = run.program("cat")
    (file,) = run.tree.add("d", ["x.bin"], 64 * MIB)
    run.front_to_back(job, file)
    assert run.job(job).phase.evidence == "cat reads 1 file"


def test_one_pass_in_order_by_one_process_prepares_data() -> None:
    run = Run()
    job = run.program("python3", "python3 resize.py")
    run.read(job, run.tree.images("data", 300))
    phase = run.job(job).phase
    assert phase.kind == "data preparation"
    assert phase.evidence == "1 process reads 300 files once, in sorted order"


def test_inference_after_a_model() -> None:
    run = Run()
    job = run.program("python3", "python3 infer.py")
    for file in model(run):
        run.front_to_back(job, file)
    assert run.phase(job) == "model load"
    run.now += 5.0
    run.read(job, run.tree.images("questions", 200)[:100])
    phase = run.job(job).phase
    assert phase.kind == "inference"
    assert "after a model" in phase.evidence


def test_a_server_that_goes_on_reading_its_model() -> None:
    run = Run()
    job = run.program("python3", "python3 serve.py")
    files = model(run)
    for file in files:
        run.front_to_back(job, file)
    assert run.phase(job) == "model load"
    run.now += 60.0
    source = random.Random(1)
    for _ in range(20):
        run.now += 2.0
        start = source.randrange(16_000)
        run.large(job, source.choice(files), [(start, start + 3)], fault=True)
    assert run.phase(job) == "inference"


def test_a_phase_stays_while_nothing_is_read() -> None:
    run = Run()
    job, _ = training(run)
    assert run.phase(job) == "training"
    run.now += 300.0
    assert run.phase(job) == "training"


# ---- counters


def wait(seconds: float, waits: int) -> Wait:
    return Wait(seconds, waits, 0.0, 0, 0.0, 0, 0.0, 0, (*(0,) * 9, waits, *(0,) * 14))


def test_share_of_waiting() -> None:
    run = Run()
    job = run.program()
    one, other = run.workers(job, 2)
    files = run.tree.images("train", 100)
    run.interleave([(one, files[:50]), (other, files[50:])])
    for second in range(1, 9):
        run.now = 1000.0 + second
        run.patterns.waits([(one, wait(0.5 * second, second)), (other, wait(0.1 * second, second))], run.now)
    view = run.job(job)
    assert view.wait == pytest.approx(4.8)
    assert view.wait_share == pytest.approx(0.3, rel=0.02)
    assert view.waits == 16
    assert view.wait_p50 == view.wait_p99 == pytest.approx(0.001024)
    run.now += 100.0
    assert run.job(job).wait_share == 0.0


def test_quantile_of_a_histogram() -> None:
    histogram = (90, 0, 0, 10)
    assert quantile(histogram, 0.5) == 2e-6
    assert quantile(histogram, 0.99) == 16e-6
    assert quantile((), 0.5) == 0.0
    assert quantile((0,) * 24, 0.5) == 0.0


def test_hits_by_tier() -> None:
    run = Run()
    job = run.program()
    files = run.tree.images("train", 10)
    for file in files[:4]:
        run.touch(job, file, flags=int(TouchFlag.WHOLE | TouchFlag.COLD))
    run.read(job, files[4:])
    run.patterns.tiers([(job, files[0], Tiers(1, 50_000, 1, 50_000))])
    run.patterns.tiers([(job, files[0], Tiers(1, 50_000, 3, 90_000))])
    view = run.job(job)
    assert (view.reads, view.hits, view.cold) == (10, 6, 4)
    assert (view.disk_reads, view.source_reads, view.source_bytes) == (1, 3, 90_000)
    assert view.bytes == 1_000_000


def test_a_job_by_itself_is_told_without_its_parts() -> None:
    run = Run()
    job, files = training(run)
    whole = run.job(job)
    own = run.patterns.job(job)
    assert own == dataclasses.replace(whole, datasets=(), streams=(), workers=0, batch=None)
    assert own.phase.kind == "training"
    assert run.patterns.job(files[0]) is None


# ---- processes


def test_processes_of_a_tree_are_one_job() -> None:
    run = Run()
    job = run.program("torchrun", "torchrun train.py")
    ranks = [run.program("python3", "python3 train.py", job) for _ in range(2)]
    workers = [pid for rank in ranks for pid in run.workers(rank, 3)]
    files = run.tree.images("train", 600)
    run.loader(workers, shuffled(files, 1)[:300], 8)
    view = run.job(job)
    assert view.workers == 6
    assert set(view.pids) == set(workers)
    assert view.command == "torchrun train.py"
    run.exit(*workers)
    view = run.job(job)
    assert not view.ended, "between two epochs: its root lives, which reads nothing itself"
    assert (run.patterns.pids(), run.patterns.roots()) == ([], [job])
    run.exit(job)
    view = run.job(job)
    assert view.ended
    assert view.pids == ()
    assert run.patterns.roots() == []
    assert view.workers == 6


@pytest.mark.parametrize("command", ["from multiprocessing.spawn import spawn_main", "python3 train.py"])
def test_workers_spawned_or_forked(command: str) -> None:
    run = Run()
    job = run.program()
    files = run.tree.images("train", 200)
    pids = [run.program("python3", command, job) for _ in range(3)]
    run.loader(pids, files, 8)
    view = run.dataset(job, "train")
    assert view.workers == 3
    assert "3 processes below" in view.workers_found.evidence


def test_a_program_that_the_job_runs_is_no_worker() -> None:
    run = Run()
    job = run.program("bash", "bash run.sh")
    run.read(run.program("python3", "python3 train.py", job), run.tree.images("train", 200))
    assert run.dataset(job, "train").workers == 0


def test_processes_one_after_the_other_are_no_workers_side_by_side() -> None:
    """find -exec grep."""
    run = Run()
    job = run.program("find", "find . -exec grep")
    for file in run.tree.images("data", 60):
        pid = run.program("grep", "grep x", job)
        run.touch(pid, file)
        run.exit(pid)
    assert run.dataset(job, "data").workers <= 1


def test_a_pid_that_comes_again_is_another_process() -> None:
    run = Run()
    first = run.program("cp", "cp a b")
    files = run.tree.images("data", 10)
    run.read(first, files[:5])
    run.exit(first)
    other = run.program("python3", "python3 x.py")
    run.table.processes[first] = run.table.processes[other]._replace(pid=first)
    fork = Touch(TouchKind.FORK, run.now, other, first, 0, 0, 0, 0, TouchFlag(0), Shape.NEW)
    run.patterns.touch([fork])
    run.read(first, files[5:])
    assert run.job(other).reads == 5
    assert run.job(first).reads == 5


def test_much_that_tells_no_phase_is_not_called_little() -> None:
    run = Run()
    job = run.program("python3", "python3 lookup.py")
    (file,) = run.tree.add("db", ["index.sqlite"], 1 << 30)
    run.large(job, file, [(page, page) for page in shuffled(range(0, 250_000, 50), 1)])
    phase = run.job(job).phase
    assert phase.kind == "unknown"
    assert phase.evidence == "19.5MiB of 1 file read in shuffled order: this alone tells no phase"


def test_unknown_processes_and_files() -> None:
    run = Run()
    files = run.tree.images("data", 3)
    run.touch(4242, files[0])
    nobody = Touch(TouchKind.FIRST, run.now, 4242, 5, 0, 24, 25, 0, TouchFlag.WHOLE, Shape.NEW)
    run.patterns.touch([nobody])
    view = run.job(4242)
    assert view.comm == ""
    assert view.reads == 2
    assert run.patterns.stream(4242, 5) is not None


def test_jobs_are_bounded_and_ended_ones_go_first() -> None:
    run = Run(Limits(jobs=4))
    files = run.tree.images("data", 3)
    old = run.program()
    run.read(old, files)
    for _ in range(20):
        pid = run.program("cat", "cat")
        run.read(pid, files)
        run.exit(pid)
    jobs = {view.job for view in run.patterns.snapshot(run.now).jobs}
    assert len(jobs) == 4
    assert old in jobs


def test_json_of_everything() -> None:
    run = Run()
    job, _ = training(run)
    (file,) = run.tree.add("odd", ["x"], 8 * MIB)
    run.tree.places[file] = run.tree.places[file]._replace(name=b"caf\xe9.bin")
    run.front_to_back(job, file)
    value = as_json(run.patterns.snapshot(run.now))
    back = json.loads(json.dumps(value))
    (found,) = back["jobs"]
    assert found["phase"]["kind"]
    assert {"kind", "confidence", "evidence"} == set(found["datasets"][0]["order"])
    paths = {stream["path"] for stream in found["streams"]}
    assert "odd/caf\udce9.bin" in paths
    assert found["job"] == job
