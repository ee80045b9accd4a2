"""Connections of a listening socket, a bounded number of them at once."""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable

import trio

log = logging.getLogger(__name__)

_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ECONNABORTED)
"""Errors of accept(2) after which the next connection may do."""


async def accept(
    listener: trio.socket.SocketType,
    handle: Callable[[trio.socket.SocketType], Awaitable[None]],
    *,
    most: int,
    what: str,
) -> None:
    """Until cancelled, a task with ``handle`` for each connection, closed afterwards; more than ``most`` wait
    in the backlog. ``what`` they are, for the log. Raises OSError if the listener fails.
    """
    slots = trio.CapacityLimiter(most)

    async def serve(connection: trio.socket.SocketType, slot: object) -> None:
        try:
            with connection:
                await handle(connection)
        finally:
            slots.release_on_behalf_of(slot)

    async with trio.open_nursery() as nursery:
        while True:
            await slots.acquire_on_behalf_of(slot := object())
            try:
                connection, _ = await listener.accept()
            except OSError as error:
                slots.release_on_behalf_of(slot)
                if error.errno not in _PASSING:
                    raise
                log.warning("%s connection refused: %s", what, error.strerror)
                # Descriptors come back when other work ends, and nothing tells when: look again in a second.
                await trio.sleep(1)
            except BaseException:
                slots.release_on_behalf_of(slot)
                raise
            else:
                nursery.start_soon(serve, connection, slot)
