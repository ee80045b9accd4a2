"""What is left of an end before: of a daemon that was killed, or a machine that lost its power.

What was closed is uploaded if the kernel still has its bytes, what was synced in any case. What nobody had
closed, or what the machine may have lost, is put aside: it is not known to be whole.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress

from swmld.staging.files import shown, staged
from swmld.staging.journal import FILLING, Journal, Row, boot_id
from swmld.staging.table import Table
from swmld.staging.uploads import Uploads

log = logging.getLogger(__name__)

UNFINISHED = "it was being written when swmld ended"
LOST = "the machine went down before it was on the disk"


def recover(table: Table, journal: Journal, uploads: Uploads) -> None:
    """Takes over what the journal has, before anybody else uses the table."""
    rows = journal.rows()
    _sweep(table, {row.number for row in rows})
    for row in rows:
        try:
            fd = os.open(table.place(row.number), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            if row.aside or row.synced:
                log.error("the staged bytes of %s are gone", shown(row.path))
            journal.remove(row.number)
            continue
        if row.aside:
            os.close(fd)
            table.aside[row.number] = row
        else:
            _take(table, uploads, row, fd)
    if table.files:
        log.info("%d files are staged from before, and uploaded now", len(table.files))


def _take(table: Table, uploads: Uploads, row: Row, fd: int) -> None:
    file = staged(table.directory, row.number, fd, row.path, row.base)
    file.token, file.tried, file.sent, file.made = row.token, bool(row.token), row.sent, row.made
    file.mapped = True  # perhaps: whoever had it mapped may still be there
    file.filled.set()
    if row.stamp == FILLING or (row.stamp and row.stamp == file.now().text):  # nothing of it was changed
        file.gone = True
    elif not row.turn and not row.synced:
        table.put_aside(file, UNFINISHED)
    elif not row.synced and row.boot != boot_id():
        table.put_aside(file, LOST)
    else:
        table.enter(file)
        uploads.queue(file)
    table.settle(file)


def _sweep(table: Table, numbers: set[int]) -> None:
    """A power cut may leave files whose rows never came to the disk: nobody has synced them, and what their
    names were is not known."""
    for entry in table.directory.iterdir():
        if entry.name.isdecimal() and int(entry.name) not in numbers:
            with suppress(FileNotFoundError):
                entry.unlink()
