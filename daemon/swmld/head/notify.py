"""What rules want told: a line in the log and a count for each event, a command to run, a webhook to call.

    tell ─► log, counters ─┬─► queue ─► four tasks, each runs one command at a time
                           └─► queue ─► four tasks, each calls one webhook at a time

Telling never waits: what does not fit into a queue is dropped and counted. A command is run without a shell
and gets the event as JSON on its standard input; a webhook gets it as the body of a POST.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import shlex
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import trio

from swmld.head.history import Decided
from swmld.rules.actions import Notify
from swmld.rules.decide import Decision
from swmld.urls import without_credentials

log = logging.getLogger(__name__)

AT_ONCE = 4
QUEUE = 256
"""Of each kind. A queue full of commands that take their whole time takes half an hour."""
COMMAND_TIME = 30.0
WEBHOOK_TIME = 10.0
"""Seconds that one may take."""
MERCY = 2.0
"""Seconds from SIGTERM to SIGKILL for a command that is out of time."""

LOG_EVERY = 1.0
"""Seconds between two lines about one event; those in between are counted."""
COMPLAIN_EVERY = 60.0
"""Seconds between two lines about what failed for one rule."""
NAMED = 1000
"""Events that are counted by name, and rules whose last line is remembered."""
OTHERS = "(others)"

How = Literal["command", "webhook"]


@dataclass(frozen=True, slots=True)
class _Task:
    """``what``: a command line or a URL; ``body``: the event as JSON."""

    how: How
    what: str
    body: bytes
    rule: str


class _Failed(Exception):
    """Why a command or a webhook came to nothing."""


class Notifier:
    """Loop-only. ``events``: how many were told, by name; ``notifications``: what came of commands and
    webhooks, by (how, result): done, failed or dropped.

    ``mount``: where the paths of events begin. ``clock``: monotonic seconds.
    """

    def __init__(self, mount: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._mount = str(mount)
        self._clock = clock
        self._lines: dict[str, _Line] = {}
        self._complaints: dict[str, _Line] = {}
        self._threads = trio.CapacityLimiter(AT_ONCE)
        self._queues = {how: trio.open_memory_channel[_Task](QUEUE) for how in ("command", "webhook")}
        self.events: dict[str, int] = {}
        self.notifications: dict[tuple[str, str], int] = {}

    def tell(self, decided: Decided) -> None:
        """Of each notification that was decided. Never waits."""
        for decision in decided.outcome.decisions:
            if isinstance(decision.effect, Notify):
                self._tell(decided, decision, decision.effect)

    def _tell(self, decided: Decided, decision: Decision, wanted: Notify) -> None:
        rule = decision.rules[0]
        event = wanted.event or rule.id
        counted = event if event in self.events or len(self.events) < NAMED else OTHERS
        self.events[counted] = self.events.get(counted, 0) + 1
        if (missed := self._due(self._lines, event, LOG_EVERY)) is not None:
            more = {"more": missed} if missed else {}
            facts = {
                "path": decided.path,
                "pid": decided.pid,
                "rule": rule.title,
                "decision": decided.id,
                **more,
            }
            log.info("event %s", event, extra=facts)
        if wanted.command is None and wanted.webhook is None:
            return
        body = self._body(decided, event, rule.title)
        if wanted.command is not None:
            self._put(_Task("command", wanted.command, body, rule.title))
        if wanted.webhook is not None:
            self._put(_Task("webhook", wanted.webhook, body, rule.title))

    def _body(self, decided: Decided, event: str, rule: str) -> bytes:
        told = {
            "event": event,
            "rule": rule,
            "mount": self._mount,
            "path": decided.path,
            "pid": decided.pid,
            "at": decided.at,
            "decision": decided.id,
            "rules": [matched.title for matched in decided.outcome.matched],
        }
        return json.dumps(told).encode("ascii") + b"\n"

    def _put(self, task: _Task) -> None:
        try:
            self._queues[task.how][0].send_nowait(task)
        except trio.WouldBlock:
            self._count(task, "dropped")
            self._complain(task, f"{QUEUE} of them wait already")

    # ---- what is under way

    async def run(self) -> None:
        """Run commands and call webhooks, until cancelled; a command that runs then is ended."""
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(self._work, "command", self._command)
                nursery.start_soon(self._work, "webhook", self._webhook)

    async def _work(self, how: How, do: Callable[[_Task], Awaitable[None]]) -> None:
        async for task in self._queues[how][1].clone():
            try:
                await do(task)
            except _Failed as error:
                self._count(task, "failed")
                self._complain(task, str(error))
            else:
                self._count(task, "done")

    async def _command(self, task: _Task) -> None:
        try:
            arguments = shlex.split(task.what)
        except ValueError as error:
            raise _Failed(str(error)) from None
        if not arguments:
            raise _Failed("no program is named")
        options: dict[str, Any] = {
            "stdin": task.body,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
            "cwd": "/",
            "env": without_credentials(os.environ),
            "umask": 0o022,  # ours is 0
            "start_new_session": True,
        }
        code: int | None = None
        with trio.move_on_after(COMMAND_TIME):
            try:
                done = await trio.run_process(arguments, check=False, deliver_cancel=_end, **options)
            except (OSError, ValueError) as error:
                raise _Failed(getattr(error, "strerror", None) or str(error)) from None
            code = done.returncode
        if code is None:
            raise _Failed(f"it ran for more than {COMMAND_TIME:g} seconds")
        if code:
            raise _Failed(f"exit code {code}" if code > 0 else f"ended by {signal.Signals(-code).name}")

    async def _webhook(self, task: _Task) -> None:
        with trio.move_on_after(WEBHOOK_TIME):
            # A thread that hangs in the resolver is left to itself, and holds its place until it ends.
            await trio.to_thread.run_sync(
                lambda: _post(task.what, task.body), abandon_on_cancel=True, limiter=self._threads
            )
            return
        raise _Failed(f"no answer within {WEBHOOK_TIME:g} seconds")

    # ---- counters and the log

    def _count(self, task: _Task, result: str) -> None:
        key = task.how, result
        self.notifications[key] = self.notifications.get(key, 0) + 1

    def _complain(self, task: _Task, why: str) -> None:
        missed = self._due(self._complaints, task.rule, COMPLAIN_EVERY)
        if missed is not None:
            more = {"more": missed} if missed else {}
            log.warning(
                "%s of a rule failed: %s", task.how, why, extra={"rule": task.rule, "what": task.what, **more}
            )

    def _due(self, lines: dict[str, _Line], name: str, every: float) -> int | None:
        """How many lines about ``name`` were not written since the last one; None: nor may this one be."""
        now = self._clock()
        line = lines.pop(name, None) or _Line(now - every)
        lines[name] = line
        if len(lines) > NAMED:
            del lines[next(iter(lines))]
        if now - line.at < every:
            line.missed += 1
            return None
        missed, line.missed, line.at = line.missed, 0, now
        return missed


@dataclass(slots=True)
class _Line:
    """When the last line was written, and how many were not since then."""

    at: float
    missed: int = 0


async def _end(process: trio.Process) -> None:
    """End the command and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        await trio.sleep(MERCY)


def _post(url: str, body: bytes) -> None:
    """Blocks. Raises _Failed."""
    try:
        fields = {"Content-Type": "application/json", "User-Agent": "swmld"}
        request = urllib.request.Request(url, body, fields, method="POST")
        with urllib.request.urlopen(request, timeout=WEBHOOK_TIME):
            pass
    except urllib.error.HTTPError as error:
        error.close()
        raise _Failed(f"answered {error.code}") from None
    except urllib.error.URLError as error:
        raise _Failed(str(error.reason)) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _Failed(f"{type(error).__name__}: {error}") from None
