"""Tell the service manager how the daemon is doing, by the protocol of sd_notify(3)."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """Send ``state`` (``READY=1``, ``STOPPING=1``, ``STATUS=…``; one assignment a line).

    False if no service manager asked for it (``NOTIFY_SOCKET`` unset) or it could not be told: a daemon
    does not fail because nobody watches it. Never blocks.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    # "@" stands for the NUL byte that starts an abstract address.
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.setblocking(False)
        try:
            channel.sendto(state.encode(), target)
        except OSError:
            return False
    return True
