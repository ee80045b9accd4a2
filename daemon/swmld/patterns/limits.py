"""What bounds the memory of the pattern engine. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Counts of things remembered; beyond each, what was used least recently is forgotten.

    ``streams``: files read in more than one read, about 1.5 KiB each. ``small``: files read in one read,
    about 0.4 KiB each, 0.7 where FUSE answered it; at 30,000 a second the last half second. ``jobs`` and
    ``processes``: process trees and reading processes, ended ones go first. ``folders``: directories of all
    jobs, about 0.8 KiB each; a job that reads from more counts the rest together. ``written``: files written,
    by process, about 0.3 KiB each.
    ``datasets``: of one job, before they are merged. ``seen_bytes``: bitmaps of files seen, all together; 10
    million files take 1.3 MB where the folder is listed, 19 MB where it is not. ``ordered``: files of all
    datasets whose order is kept for the next epoch, about 0.1 KiB each. ``shown_jobs``: in one snapshot, the
    most recently active; ``shown_streams``, ``shown_datasets``: in a view of one job.
    """

    streams: int = 16384
    small: int = 16384
    written: int = 4096
    jobs: int = 256
    processes: int = 4096
    folders: int = 65536
    datasets: int = 64
    seen_bytes: int = 128 << 20
    ordered: int = 1 << 18
    shown_jobs: int = 64
    shown_streams: int = 16
    shown_datasets: int = 16
