"""What the rows of ``swmld trace`` say, at every width, and the plots."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.traces import Table, batch, cursor, dataset, finding, job, snapshot, stream, touch
from swmld.api.patterns import Wanted
from swmld.cli import trace_rows
from swmld.cli.trace_history import KEPT, History
from swmld.cli.trace_plot import Mark, framed, plot
from swmld.cli.trace_rows import (
    bar,
    count,
    details,
    header,
    layout,
    line,
    rows,
    shares,
    summary,
    tail,
    unbounded,
)
from swmld.cli.trace_source import Batch
from swmld.observe.encoding import Raw
from swmld.patterns.feed import NOT_EARLY, PAGE, Folder, TouchKind
from swmld.patterns.views import DatasetView, JobView, StreamView


def shown(found: dict[str, Any], width: int = 80, **options: Any) -> list[str]:
    shape = layout(width)
    return [line(row, shape).plain.rstrip() for row in rows(found, **options)]


def test_a_table_of_eighty_columns() -> None:
    assert header(layout(80)).plain.split() == (
        ["JOB,", "DATASET,", "FILE", "PATTERN", "PROGRESS", "RATE/s", "MEM%", "DISK", "SRC%", "WAIT"]
    )
    assert shown(snapshot()) == [
        "train.py 4242         training    4w batch 64      238.4MiB   90   10    0   12%",
        "  train/              shuffled    e2  ███░░░  51%  238.4MiB",
        "  …ain/shard-0001.tar sequential      ███░░░  50%  190.7MiB   98    2    1  1.2s",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 119, 120, 130, 150, 200, 300])
def test_lines_fit(width: int) -> None:
    long = "x" * 300
    views = [
        job(comm=long, phase=finding("data preparation", 0.4, long), bytes=1 << 60, rate=1e18, reads=10**15,
            datasets=[dataset(path=long, epoch=12345, fraction=1.0)],
            streams=[stream(path="漢字" * 80, wait=1e7, pattern=finding("header-then-tail"))]),
    ]  # fmt: skip
    shape = layout(width)
    for row in rows(snapshot(*views), files="all"):
        assert line(row, shape).cell_len <= width
    assert header(shape).cell_len <= width
    assert [name for name, _ in shape.columns][:2] == ["name", "pattern"]


@pytest.mark.parametrize("width", [80, 100, 120, 150, 200, 300])
def test_columns_fill_the_width(width: int) -> None:
    shape = layout(width)
    assert sum(cells + 1 for _, cells in shape.columns) - 1 == width
    assert ("evidence" in dict(shape.columns)) == (width >= 150)


def test_nothing_is_cut_where_nothing_wraps() -> None:
    long = snapshot(
        job(phase=finding("training", 0.9, "y" * 200), datasets=[], streams=[stream(path="x" * 200)])
    )
    found = rows(long)
    texts = [line(row, unbounded(found)).plain for row in found]
    assert "x" * 200 in texts[1]
    assert "y" * 200 in texts[0]


def test_control_characters_of_names_do_not_reach_the_terminal() -> None:
    odd = "a\x1b[31m\n\udcff"
    found = snapshot(job(comm=odd, command=odd, datasets=[dataset(path=odd)], streams=[stream(path=odd)]))
    for row in rows(found, files="all"):
        texts = [line(row, layout(200)).plain, *(value for _, value in details(row))]
        assert all(text.isprintable() for text in texts)
        assert "a\\x1b[31m\\n\\udcff" in "".join(texts)


def test_what_is_not_known_has_no_percentage() -> None:
    known = {"kind": "training", "confidence": 0.85, "evidence": "shuffled"}
    unknown = {"kind": "unknown", "confidence": 0.0, "evidence": "too little"}
    said = [rows(snapshot(job(phase=phase)))[0].said for phase in (known, unknown)]
    assert said == ["training, 85 % sure: shuffled", "unknown: too little"]


def test_what_is_not_sure_has_a_question_mark() -> None:
    views = [stream(pattern=finding(kind, sure)) for kind, sure in
             (("random", 0.9), ("random", 0.4), ("header-then-tail", 0.9), ("header-then-tail", 0.1),
              ("unknown", 0.0))]  # fmt: skip
    found = snapshot(job(datasets=[], streams=[{**view, "path": str(n)} for n, view in enumerate(views)]))
    assert [text.split()[1] for text in shown(found, sort="name")[1:]] == [
        "random", "random?", "head+tail", "head+tail?", "unknown"
    ]  # fmt: skip
    assert "header-then-tail" in shown(found, width=120, sort="name")[3]


def test_progress() -> None:
    views = [
        dataset(path="a", fraction=None, files_seen=812), dataset(path="b", fraction=1.0),
        dataset(path="c", fraction=0.999), dataset(path="d", fraction=0.0),
    ]  # fmt: skip
    texts = shown(snapshot(job(datasets=views, streams=[])), sort="name")[1:]
    assert [text[34:50].strip() for text in texts] == [
        "e2 812 files", "e2  ██████ 100%", "e2  █████░ 100%", "e2  ░░░░░░   0%"
    ]  # fmt: skip


@given(st.floats(-1, 2), st.integers(1, 50))
def test_bars(fraction: float, width: int) -> None:
    text = bar(fraction, width)
    assert len(text) == width
    assert (text.count(trace_rows.FULL) == width) == (fraction >= 1)


@given(st.integers(0, 10**17))
def test_counts_are_short(number: int) -> None:
    assert len(count(number)) <= 9
    assert float(count(number).replace(",", "").translate(str.maketrans("", "", "kMGT"))) >= 0


def test_tails_keep_the_end() -> None:
    assert tail("abcdef", 4, "stream") == "…def"
    assert tail("abcdef", 6, "stream") == "abcdef"
    assert tail("abcdef", 4, "job") == "abcdef"


# --- where reads were answered


READS = {"reads": 100, "cold": 0, "partial": 0, "bytes": 1000, "disk_bytes": 0, "source_bytes": 0}


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ({}, (1, 0, 0)),
        ({"cold": 10}, (0.9, 0.1, 0)),  # passthrough: FUSE sees none of it
        ({"cold": 10, "partial": 5, "disk_bytes": 1000}, (0.85, 0.15, 0)),
        ({"cold": 3, "source_bytes": 1000}, (0.97, 0, 0.03)),  # read ahead by the kernel
        ({"cold": 4, "source_bytes": 500, "disk_bytes": 500}, (0.96, 0.02, 0.02)),
        ({"cold": 100, "source_bytes": 500}, (0, 0.5, 0.5)),  # one half passed through
        ({"cold": 100, "source_bytes": 3000, "disk_bytes": 0}, (0, 0, 1)),  # more than was asked for
        ({"cold": 200}, (0, 1, 0)),
    ],
)
def test_shares(counts: dict[str, int], found: tuple[float, float, float]) -> None:
    assert shares({**READS, **counts}) == pytest.approx(found)
    assert shares({**READS, "reads": 0}) is None


@given(st.fixed_dictionaries({name: st.integers(0, 10**6) for name in READS}))
def test_shares_are_of_one_whole(counts: dict[str, int]) -> None:
    found = shares(counts)
    if found is not None:
        assert sum(found) == pytest.approx(1)
        assert all(-1e-9 <= share <= 1 for share in found)


# --- which rows, in which order


def keys(found: list[trace_rows.Row]) -> list[tuple[str, str]]:
    return [(row.kind, row.name) for row in found]


@pytest.mark.parametrize(
    ("sort", "order"),
    [("rate", "cab"), ("wait", "bac"), ("bytes", "bca"), ("recent", "acb"), ("name", "abc")],
)
def test_sorting(sort: str, order: str) -> None:
    def views(make: Any, name: str, **names: str) -> list[dict[str, Any]]:
        return [
            make(**{name: key}, rate=float("bac".index(key)), bytes="acb".index(key),
                 last_at=float("bca".index(key)), **{names["wait"]: float("cab".index(key))})
            for key in "abc"
        ]  # fmt: skip

    streams = views(stream, "path", wait="wait")
    found = rows(snapshot(job(datasets=[], streams=streams)), sort=sort)
    assert "".join(row.name for row in found[1:]) == order
    jobs = views(job, "comm", wait="wait_share")
    found = rows(snapshot(*jobs), sort=sort, files="none")
    assert "".join(row.name[0] for row in found if row.kind == "job") == order


def test_datasets_come_before_files() -> None:
    found = rows(snapshot(job(streams=[stream(rate=1e12)])))
    assert [row.kind for row in found] == ["job", "dataset", "stream"]


def test_some_files_are_those_of_shards_and_outside_of_datasets() -> None:
    sets = [dataset(path="shards"), dataset(path="shards/in", role=finding("samples")),
            dataset(path="imgs", role=finding("samples"))]  # fmt: skip
    paths = [f"shards/{number}" for number in range(6)] + [
        "shards/in/x",
        "imgs/1",
        "imgs/2",
        "other",
        "imgsx",
    ]
    one = job(datasets=sets, streams=[stream(path=path, file=number) for number, path in enumerate(paths)])

    def files(how: str) -> list[str]:
        return [row.name for row in rows(snapshot(one), files=how, sort="name") if row.kind == "stream"]

    assert files("some") == ["imgsx", "other", *(f"shards/{number}" for number in range(4))]
    assert files("all") == sorted(paths)
    assert files("none") == []


def test_a_dataset_of_one_file_says_nothing_more() -> None:
    sets = [dataset(path="", files_seen=1, order=finding("unknown", 0.0)), dataset(path="a", files_seen=1)]
    one = snapshot(job(datasets=sets, streams=[]))
    assert [name for _, name in keys(rows(one))] == ["train.py 4242", "a/"]
    assert [name for _, name in keys(rows(one, files="all", sort="name"))] == ["train.py 4242", "/", "a/"]


@pytest.mark.parametrize(
    ("comm", "command", "name"),
    [
        ("python", "/usr/bin/python3 -u -W ignore src/train.py --lr 1", "train.py"),
        ("python3.11", "python3.11 -m torch.distributed.run train.py", "torch.distributed.run"),
        ("pt_main_thread", "python train.py", "train.py"),
        ("python", "python -c import os", "python"),
        ("python", "python", "python"),
        ("python", "", "python"),
        ("bash", "bash -e", "bash"),
        ("fio", "fio --name=x", "fio"),
    ],
)
def test_a_job_of_an_interpreter_is_called_by_its_script(comm: str, command: str, name: str) -> None:
    (row,) = rows(snapshot(job(comm=comm, command=command, datasets=[], streams=[])))
    assert row.name == f"{name} 4242"
    assert row.matches(command)


def test_one_of_many_small_files_is_shown_if_all_are_asked_for() -> None:
    one = stream(path="train/a.jpg", reads=3, passes=2)
    found = snapshot(job(datasets=[dataset(path="train", role=finding("shards"))], streams=[one]))
    assert [name for _, name in keys(rows(found))] == ["train.py 4242", "train/"]
    assert [name for _, name in keys(rows(found, files="all"))] == ["train.py 4242", "train/", "train/a.jpg"]


def test_where_a_random_reader_is_is_no_progress() -> None:
    views = [stream(path=kind, pattern=finding(kind)) for kind in ("random", "sequential")]
    found = {row.name: row.fraction for row in rows(snapshot(job(datasets=[], streams=views)))[1:]}
    assert found == {"random": None, "sequential": 0.5}


def test_a_process_that_was_gone_before_it_could_be_named() -> None:
    assert rows(snapshot(job(comm="")))[0].name == "process 4242"


def test_finding() -> None:
    found = snapshot(
        job(comm="train", datasets=[], streams=[stream(path="a.npy"), stream(path="b.npy")]),
        job(job=7, comm="cp", phase=finding("unknown"), datasets=[], streams=[stream(path="A.txt")]),
        job(job=8, comm="idle", datasets=[], streams=[]),
    )
    assert [name for _, name in keys(rows(found, find="A.NPY"))] == ["train 4242", "a.npy"]
    assert [name for _, name in keys(rows(found, find="cp 7"))] == ["cp 7", "A.txt"]
    assert rows(found, find="nowhere") == []


# --- around the rows


def test_the_summary() -> None:
    text = "  ".join(part.plain for part in summary(snapshot(job(), job(job=2))))
    assert text == "2 jobs  476.8MiB/s  lost 0  prefetch 1GiB, wasted 3MiB  probe btf"
    probe = {"how": "fuse", "why": "no BTF", "lost": {"events": 5, "cursors": 2, "processes": 0}}
    lost = snapshot(probe=probe, left_out={"jobs": 3, "datasets": 0, "streams": 0})
    text = "  ".join(part.plain for part in summary(lost))
    assert text.startswith("4 jobs (3 not shown)")
    assert "lost 7" in text
    part = snapshot(probe={"how": "btf", "why": "", "share": 0.083, "lost": {"events": 0}})
    assert [text.plain for text in summary(part)][-1] == "probe btf, sampled 8%"
    # A recording that was cut off before it said anything of the kind.
    assert [part.plain for part in summary(snapshot(probe={}, prefetch={}))] == ["1 job", "238.4MiB/s"]


def test_why_there_is_nothing() -> None:
    off = {"how": "off", "why": "switched off", "lost": {"events": 0, "cursors": 0, "processes": 0}}
    assert (
        trace_rows.explained({**snapshot(), "jobs": [], "probe": off}) == "The probes are off: switched off"
    )
    assert trace_rows.explained({**snapshot(), "jobs": []}) == "Nothing has been read here yet."
    assert trace_rows.explained(snapshot()) == ""


@pytest.mark.parametrize("estimated", [False, True])
def test_estimated_counts_are_marked(estimated: bool) -> None:
    found = rows(snapshot(job(streams=[stream(estimated=estimated)])), files="all")
    (row,) = [row for row in found if row.kind == "stream"]
    assert ("~512MiB" in line(row, layout(200)).plain) == estimated
    assert ("~4,096" in line(row, layout(200)).plain) == estimated
    assert dict(details(row))["reads"].startswith("about 4,096" if estimated else "4,096")


@pytest.mark.parametrize(
    ("batch", "size", "workers", "said"),
    [
        (None, None, 0, None),
        (32, None, 0, "batch 32"),
        (None, 2048, 4, "of 2KiB; 4 workers"),
        (32, 2048, 4, "of 2KiB; batch 32; 4 workers"),
    ],
)
def test_details_say_nothing_of_what_is_not_known(
    batch: int | None, size: int | None, workers: int, said: str | None
) -> None:
    view = dataset(batch=batch, sample_size=size, workers=workers)
    (row,) = [row for row in rows(snapshot(job(datasets=[view], streams=[]))) if row.kind == "dataset"]
    assert dict(details(row)).get("samples") == said


def test_details_say_what_the_line_has_no_room_for() -> None:
    found = rows(snapshot(job(container="docker 12ab", streams=[stream(faults=7, direct=2)])), files="all")
    texts = [" ".join(f"{name}: {value}" for name, value in details(row)) for row in found]
    for text, wanted in zip(
        texts,
        (
            (
                "python train.py --epochs 90",
                "docker 12ab",
                "4243, 4244",
                "half within 128us, 99 % within 33ms",
            ),
            ("2: 510 of 1,000 files, 85 a second", "of 117.2KiB; batch 64; 4 workers"),
            (
                "4243, in job 4242",
                "4,000 in memory, 90 waited, 6 in part",
                "7 faults, 2 direct",
                "512MiB of 1GiB",
            ),
        ),
        strict=True,
    ):
        assert all(words in text for words in wanted), text


# --- plots


def test_a_line_rises_from_left_to_right() -> None:
    marks = [Mark(at, at * 10, at * 10) for at in range(101)]
    lines = plot(marks, 10, 5, began=0, ended=100, bottom=0, top=1000)
    assert [len(text) for text in lines] == [10] * 5
    assert lines[4][0] != " "
    assert lines[0][9] != " "
    assert lines[0][0] == lines[4][9] == " "


def test_dots_are_where_they_belong() -> None:
    marks = [Mark(0, 0, 0), *[Mark(1, 7, 7)] * 100]
    assert plot(marks, 1, 2, began=0, ended=1, bottom=0, top=7) == ["⠈", "⡀"]
    assert plot([Mark(0, 0, 7)] * 9, 1, 2, began=0, ended=1, bottom=0, top=7) == ["⡇", "⡇"]
    assert plot([Mark(0, 0, 0)], 1, 1, began=0, ended=1, bottom=0, top=3) == ["⡀"]
    assert plot([Mark(0, 0, 0)], 4, 4, began=0, ended=1, bottom=0, top=15)[3][0] == "⣤"


@settings(max_examples=60)
@given(
    st.lists(st.builds(Mark, st.floats(-10, 200), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), max_size=50),
    st.integers(1, 40), st.integers(1, 20),
)  # fmt: skip
def test_any_marks_fit(marks: list[Mark], width: int, height: int) -> None:
    lines = plot(marks, width, height, began=0, ended=100, bottom=0, top=1e6)
    assert [len(text) for text in lines] == [width] * height


def test_a_frame_says_what_the_ends_mean() -> None:
    assert framed(["ab", "cd", "ef"], "9MiB", "0", "9s", "now") == [
        "9MiB │ab", "     │cd", "   0 │ef", "     └──", "      9s now"
    ]  # fmt: skip


def batches(table: Table, *raws: Raw) -> History:
    history = History()
    for raw in raws:
        history.add(Batch(raw, table, table))
    return history


def test_offsets_come_from_events_and_counters() -> None:
    table = Table()
    early = (9, 4, *(NOT_EARLY,) * 6)
    one = cursor(3.0, first_at=2.5, start=30, next=40, early=early)
    history = batches(table, Raw(3.0, [
        touch(2.0, 5, 10, kind=TouchKind.WINDOW, first=20, last=21), touch(2.0, 6, 10), touch(2.0, 5, 11),
        touch(2.0, 0, 10, kind=TouchKind.CLOSE),
    ], [(5, 10, one)]))  # fmt: skip
    assert history.offsets(5, 10) == [
        Mark(2.0, 20 * PAGE, 21 * PAGE), Mark(2.5, 9 * PAGE, 9 * PAGE), Mark(2.5, 4 * PAGE, 4 * PAGE),
        Mark(3.0, 30 * PAGE, 39 * PAGE),
    ]  # fmt: skip


def test_where_a_stream_began_is_news_only_of_new_ones() -> None:
    early = (9, *(NOT_EARLY,) * 7)
    rows_of = [
        (5, 10, cursor(100.0, first_at=1.0, early=early)),
        (5, 11, cursor(100.0, first_at=99.5, early=early)),
    ]
    history = batches(Table(), Raw(100.0, [], rows_of))
    assert [mark.at for mark in history.offsets(5, 10)] == [100.0]
    assert [mark.at for mark in history.offsets(5, 11)] == [99.5, 100.0]


def test_counters_of_long_ago_do_not_stretch_the_plot() -> None:
    """What FUSE saw before the probes were there is told again with each answer of FUSE's."""
    rows_of = [(5, 10, cursor(at, early=(NOT_EARLY,) * 8)) for at in (1.0, 99.9)]
    history = batches(Table(), Raw(100.0, [], rows_of))
    assert [mark.at for mark in history.offsets(5, 10)] == [99.9]


@pytest.mark.parametrize(
    ("seen", "total", "said"), [(1, None, "1 file,"), (1, 1, "1 of 1 file,"), (1, 2, "1 of 2 files,")]
)
def test_one_file_is_not_called_several(seen: int, total: int | None, said: str) -> None:
    view = dataset(files_seen=seen, files_total=total)
    found = rows(snapshot(job(datasets=[view], streams=[])), files="all")
    (row,) = [row for row in found if row.kind == "dataset"]
    assert said in dict(details(row))["epoch"]


def test_files_in_order_of_the_listing_make_a_line() -> None:
    table = Table()
    table.folders[3] = Folder(1, "a", 5)
    for number in range(5):
        table.add(100 + number, f"{number}", 1, index=4 - number)
        table.add(200 + number, f"{number}", 1, directory=3, index=number)
    for pid, its in ((5, 5), (6, 5), (7, 7)):
        table.start(pid, its)
    order = [200, 201, 202, 203, 204, 104, 103, 102, 101, 100]
    history = batches(table, *[batch(float(at), [(5 + at % 2, file)]) for at, file in enumerate(order)],
                      batch(50.0, [(7, 999)]))  # fmt: skip
    marks, number = history.files(Wanted(job=5))
    assert ([mark.low for mark in marks], number) == (list(range(10)), 10)
    assert [mark.low for mark in history.files(Wanted(job=5, path="a"))[0]] == [0, 1, 2, 3, 4]
    assert len(history.files(Wanted(pid=6))[0]) == 5
    assert history.files(Wanted(job=9)) == ([], 0)


def test_the_history_is_bounded() -> None:
    history = History()
    for at in range(8):
        files = [(5, number) for number in range(KEPT // 10)]
        history.add(Batch(batch(float(at), files), Table(), Table()))
    assert len(history._reads) == KEPT


# --- the document


@pytest.mark.parametrize("view", [JobView, DatasetView, StreamView])
def test_every_field_is_in_the_readme_and_the_reverse(view: type) -> None:
    name = view.__name__.removesuffix("View").lower()
    row = re.search(
        rf"^\| {name} \| (.*) \|$", (Path(__file__).parents[2] / "README.md").read_text(), re.MULTILINE
    )
    assert row is not None
    assert re.findall(r"`([a-z_0-9]+)`", row[1]) == [field.name for field in dataclasses.fields(view)]
    made = {"job": job, "dataset": dataset, "stream": stream}[name]()
    assert set(made) == {field.name for field in dataclasses.fields(view)}, "the tests' own views are old"


@pytest.mark.parametrize(("epoch", "count", "what"), [(None, "p3", "pass"), (3, "e3", "epoch")])
def test_what_tools_read_again_is_a_pass(epoch: int | None, count: str, what: str) -> None:
    view = dataset(epoch=epoch, passes=3)
    found = rows(snapshot(job(datasets=[view], streams=[])), files="all")
    (row,) = [row for row in found if row.kind == "dataset"]
    assert row.count == count
    assert dict(details(row))[what].startswith("3: ")
