"""Books into views. Pure."""

from __future__ import annotations

from swmld.patterns import phases, shapes
from swmld.patterns.dataset import UNKNOWN_PLACE, Dataset
from swmld.patterns.feed import PAGE, Names, Place
from swmld.patterns.job import Job
from swmld.patterns.readers import Tally
from swmld.patterns.roles import role
from swmld.patterns.stream import Stream
from swmld.patterns.views import DatasetView, Finding, JobView, StreamView, quantile

CLEAR = 0.5
"""Share that the commonest length needs to count as the batch size."""

TIMES = 3
"""Times that it must have been seen."""


def path_of(place: Place | None, names: Names) -> str:
    """Path of a file relative to the mount; "" if it is not known."""
    folder = names.folder(place.directory) if place is not None else None
    if place is None or folder is None:
        return ""
    name = place.name.decode(errors="surrogateescape")
    return f"{folder.path}/{name}" if folder.path else name


def stream_view(stream: Stream, names: Names, now: float) -> StreamView:
    place = names.place(stream.file)
    counts = stream.counts
    size = place.size if place is not None else stream.size * PAGE
    return StreamView(
        pid=stream.pid,
        file=stream.file,
        path=path_of(place, names),
        pattern=shapes.pattern(stream, place.name if place is not None else b""),
        shape=shapes.SHAPES.get(stream.shape, "new"),
        stride=round(stream.paced * PAGE) or stream.stride * PAGE,
        size=size,
        reads=counts.reads,
        estimated=stream.estimated,
        bytes=counts.pages * PAGE,
        hits=max(0, counts.reads - counts.cold - counts.partial),
        cold=counts.cold,
        partial=counts.partial,
        faults=counts.faults,
        direct=counts.direct,
        wait=counts.wait,
        disk_bytes=stream.tiers.disk_bytes,
        source_bytes=stream.tiers.source_bytes,
        rate=stream.meter.rates(now)[1] if stream.meter is not None else 0.0,
        passes=stream.passes,
        position=(stream.last + 1) * PAGE,
        first_at=stream.first_at,
        last_at=stream.last_at,
    )


def workers(dataset: Dataset) -> tuple[int, Finding]:
    """Processes made to read this dataset, as many as there were at once in this epoch."""
    most = dataset.most
    expected, _ = dataset.expected()
    young = expected is not None and dataset.seen < max(UNKNOWN_PLACE * expected, 2 * dataset.most_last)
    if young:
        most = max(most, dataset.most_last)
    if dataset.active or most > 1:
        count = max(most, len(dataset.active))
        value = 0.6 if dataset.seen < 2 * count else 0.95
        who, verb = ("1 process", "reads") if count == 1 else (f"{count} processes", "read")
        return count, Finding(str(count), value, f"{who} below the job's root {verb} files of it")
    who = "the job's own process reads" if dataset.leaders else "no process reads"
    return 0, Finding("0", 0.9 if dataset.leaders else 0.0, f"{who}, no worker")


def batch(dataset: Dataset) -> tuple[int | None, Finding]:
    """Samples a batch, by how far readers go before they jump or pause."""
    unknown = Finding("unknown", 0.0, "readers neither jump nor pause regularly")
    runs, bursts = Tally(), Tally()
    runs.absorb(dataset.runs)
    bursts.absorb(dataset.bursts)
    for reader in dataset.readers.values():
        reader.tell(runs, bursts)
    kind = dataset.order.kind
    if kind in ("sorted", "listed", "groups"):
        length, share, total = runs.mode()
        if length > 1 and share >= CLEAR and total >= TIMES:
            words = f"{share:.0%} of {total} runs of neighbouring files have length {length}"
            return length, Finding(str(length), round(min(0.95, share), 3), words)
        bases = [reader.base for reader in dataset.readers.values() if reader.worker and reader.count > 3]
        if (
            kind != "groups"
            and len(bases) >= 2
            and all(base == len(bases) for base in bases)
            and total <= len(bases)
        ):
            words = f"each of {len(bases)} workers reads every {len(bases)}th file"
            return 1, Finding("1", 0.8, words)
    length, share = bursts.measure(TIMES)
    if share >= CLEAR:
        words = f"{share:.0%} of the files come in bursts of {length}, or several of these, between pauses"
        return length, Finding(str(length), round(0.8 * share, 3), words)
    return None, unknown


def dataset_view(dataset: Dataset, job: Job, now: float) -> DatasetView:
    order = dataset.review()
    what = role(dataset)
    size, batch_found = (
        batch(dataset) if what.kind == "samples" else (None, Finding("unknown", 0.0, "samples lie in shards"))
    )
    count, workers_found = workers(dataset)
    files, rate = dataset.meter.rates(now)
    total, _ = dataset.expected()
    mean = dataset.sizes // dataset.files if dataset.files and what.kind == "samples" else 0
    return DatasetView(
        job=dataset.job,
        path=dataset.path,
        order=order,
        role=what,
        epoch=dataset.epoch if phases.knows_epochs(job) else None,
        passes=dataset.epoch,
        epoch_at=dataset.epoch_at,
        fraction=dataset.fraction,
        files_seen=dataset.seen,
        files_total=None if total is None else max(total, dataset.seen),
        files_per_second=files,
        sample_size=mean,
        batch=size,
        batch_found=batch_found,
        workers=count,
        workers_found=workers_found,
        folders=len(dataset.leaves),
        bytes=dataset.bytes,
        rate=rate,
        last_at=dataset.last_at,
    )


def job_view(job: Job, streams: list[Stream], most: int, names: Names, now: float) -> JobView:
    """``streams`` the most active ones, ``most`` the number of datasets shown."""
    phase = phases.review(job, now)
    shown = sorted(job.datasets, key=lambda dataset: -dataset.last_at)[:most]
    views = tuple(dataset_view(dataset, job, now) for dataset in shown)
    main = max(views, key=lambda view: (view.rate, view.last_at), default=None)
    process = job.process
    return JobView(
        job=job.number,
        comm=process.comm if process else "",
        command=process.command if process else "",
        container=process.container if process else "",
        pids=tuple(sorted(job.members)),
        ended=job.ended,
        phase=phase,
        workers=main.workers if main else 0,
        batch=main.batch if main else None,
        reads=job.reads,
        estimated=job.estimated,
        bytes=job.bytes,
        rate=sum(dataset.meter.rates(now)[1] for dataset in job.datasets),
        hits=max(0, job.reads - job.cold - job.partial),
        cold=job.cold,
        partial=job.partial,
        disk_reads=job.tiers.disk_reads,
        disk_bytes=job.tiers.disk_bytes,
        source_reads=job.tiers.source_reads,
        source_bytes=job.tiers.source_bytes,
        writes=job.writes,
        written_bytes=job.output.nbytes,
        write_bursts=job.output.bursts,
        wait=job.wait,
        wait_share=job.wait_share(now),
        waits=job.waits,
        wait_p50=quantile(job.histogram, 0.5),
        wait_p99=quantile(job.histogram, 0.99),
        histogram=job.histogram,
        first_at=job.first_at,
        last_at=job.last_at,
        datasets=views,
        streams=tuple(stream_view(stream, names, now) for stream in streams),
    )
