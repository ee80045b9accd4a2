"""The jobs and their processes, found where they first read, forgotten when they are too many. Pure."""

from __future__ import annotations

from swmld.patterns.feed import Names, Processes
from swmld.patterns.grouping import Room
from swmld.patterns.job import Job, Member, is_worker
from swmld.patterns.limits import Limits


class Population:
    """``jobs`` by the pid of their root, ``members`` by their own."""

    def __init__(self, names: Names, processes: Processes, room: Room, limits: Limits) -> None:
        self._names = names
        self._processes = processes
        self._room = room
        self._limits = limits
        self.jobs: dict[int, Job] = {}
        self.members: dict[int, Member] = {}

    def member(self, pid: int, at: float) -> Member:
        """The process, known from now on; ``at`` in seconds."""
        process = self._processes.of(pid)
        number = process.job if process is not None else pid
        job = self.jobs.get(number)
        if job is None:
            job = self._new_job(number, at)
        elif job.process is None:
            job.process = self._processes.of(number)
        parent = self._processes.of(process.parent) if process is not None else None
        member = Member(pid, job, is_worker(process, parent))
        member.comm = process.comm if process is not None else ""
        if len(self.members) >= self._limits.processes:
            self.leave(next(iter(self.members)))
        self.members[pid] = member
        job.join(member)
        return member

    def _new_job(self, number: int, at: float) -> Job:
        if len(self.jobs) >= self._limits.jobs:
            oldest = min(self.jobs.values(), key=lambda job: (not job.ended, job.last_at))
            self._forget(oldest)
        process = self._processes.of(number)
        job = Job(number, process, self._names, self._room, self._limits.datasets, at)
        self.jobs[number] = job
        return job

    def leave(self, pid: int) -> None:
        """It runs another program, or is not remembered any more."""
        member = self.members.pop(pid, None)
        if member is not None:
            member.job.leave(pid)

    def exit(self, pid: int) -> None:
        """It has ended."""
        self.leave(pid)
        job = self.jobs.get(pid)
        if job is not None:
            job.rooted = False

    def roots(self) -> list[int]:
        """Of jobs that go on, where the root itself reads nothing."""
        return [job.number for job in self.jobs.values() if job.rooted and job.number not in self.members]

    def _forget(self, job: Job) -> None:
        for pid in list(job.members):
            self.members.pop(pid, None)
        job.grouping.forget_all()
        del self.jobs[job.number]
