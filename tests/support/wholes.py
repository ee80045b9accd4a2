"""What a source gives as one plain GET, asked for as it says."""

from __future__ import annotations

import http.client
import socket
from typing import Any

from swmld.sources.whole import is_plain, whole_of


def got(reader: Any) -> bytes | None:
    """The body; None where the reader is not plain, or does not say how."""
    get = whole_of(reader) if is_plain(reader) else None
    if get is None:
        return None
    with socket.create_connection((get.ip, get.port), 20) as connection:
        connection.sendall(get.request)
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert (response.status, response.length) == (200, get.length)
        return response.read()
