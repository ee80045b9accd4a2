"""Structured logs on standard error: ``text`` for people, ``json`` for collectors, one line a message.

Code logs with the standard ``logging`` and gives facts as ``extra``, not inside the text::

    log.info("evicted", extra={"files": 3, "bytes": 12582912})

    2026-11-22T02:55:01.123Z info swmld.cache.reclaim: evicted files=3 bytes=12582912
    {"time": "2026-11-22T02:55:01.123Z", "level": "info", "logger": "swmld.cache.reclaim", ...}

Lines are written by a thread of their own, since a pipe that nobody reads would block the event loop.
"""

from __future__ import annotations

import atexit
import json
import logging
import logging.handlers
import os
import queue
import sys
import time
from typing import Any, Protocol

# About 2 MB of messages; more than that waiting means that the reader of the log has stopped.
QUEUE_LINES = 10_000

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LogSettings(Protocol):
    """What ``setup`` needs to be told; ``swmld.config.Settings`` has it."""

    @property
    def log_level(self) -> str: ...
    @property
    def log_format(self) -> str: ...


def setup(settings: LogSettings) -> None:
    """Send every logger's messages of ``log_level`` and above to standard error. May be called again."""
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _QueueHandler)]:
        root.removeHandler(old)
        old.stop()
    handler = _QueueHandler(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    root.addHandler(handler)
    set_level(settings.log_level)
    logging.captureWarnings(True)
    atexit.register(handler.stop)


def set_level(level: str) -> None:
    """The least severe messages that are written from now on."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    # Below warning, libraries describe their own insides.
    logging.getLogger("swmld").setLevel(level.upper())
    root.setLevel(max(root.level, logging.WARNING))


def facts(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave as ``extra``."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _time(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.created * 1000) % 1000:03d}Z"


class TextFormatter(logging.Formatter):
    """``TIME level logger: message key=value``. Control characters are escaped: a file name adds no line."""

    def format(self, record: logging.LogRecord) -> str:
        pairs = "".join(f" {key}={_quoted(value)}" for key, value in facts(record).items())
        message = _escaped(record.getMessage())
        line = f"{_time(record)} {record.levelname.lower()} {record.name}: {message}{pairs}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, the facts, and ``exception`` with the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        found: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        found |= {key: value for key, value in facts(record).items() if key not in found}
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found, default=_text, ensure_ascii=True)


def _text(value: object) -> str:
    return os.fsdecode(value) if isinstance(value, bytes | os.PathLike) else str(value)


def _escaped(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _quoted(value: object) -> str:
    text = _escaped(_text(value))
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or '"' in text else text


class _QueueHandler(logging.handlers.QueueHandler):
    """Hands formatted lines to the writing thread; when it cannot keep up, lines are dropped and counted."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self._lines: queue.Queue[Any] = queue.Queue(QUEUE_LINES)
        super().__init__(self._lines)
        self.setFormatter(formatter)
        self._dropped = 0
        self._listener = logging.handlers.QueueListener(self._lines, _Writer())
        self._listener.start()

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Format here: the values may change before the thread writes the line."""
        return logging.makeLogRecord({"msg": self.format(record)})

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            if self._dropped:
                note = logging.LogRecord(__name__, logging.WARNING, "", 0, "log lines dropped", None, None)
                note.lines = self._dropped
                self._lines.put_nowait(self.prepare(note))
                self._dropped = 0
            self._lines.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def stop(self) -> None:
        """Write what is queued and end the thread."""
        if self._listener._thread is not None:
            self._listener.stop()


class _Writer(logging.Handler):
    """Writes ready lines to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        data = (str(record.msg) + "\n").encode("utf-8", "backslashreplace")
        try:
            sys.stderr.flush()
            while data:
                data = data[os.write(2, data) :]
        except OSError:
            pass  # a closed standard error: there is nobody left to tell
