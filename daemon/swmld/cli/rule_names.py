"""Names of rules that are given on the command line, held against those that the daemon has."""

from __future__ import annotations

import difflib
from typing import cast

from swmld.api.client import Client
from swmld.api.messages import RulesResult
from swmld.errors import UsageError


def check(client: Client, name: str) -> None:
    """Raises UsageError, with the nearest name, if no rule of the daemon has this id or title."""
    known: dict[str, None] = {}
    read, left = 0, 1
    while left:
        page = cast(RulesResult, client.call("rules", {"offset": read}))
        for one in page["rules"]:
            known |= {one["id"]: None, one["title"]: None}
        for off in page["inactive"]:
            if name in (off["title"], off["title"].split(" (")[0]):
                raise UsageError(f"rule {name} is not in use: {off['why']}")
        read += len(page["rules"])
        left = page["left_out"] if page["rules"] else 0
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    more = f"; did you mean {near[0]}?" if near else "; swmld rules ls lists them"
    raise UsageError(f"no active rule {name}{more if known else ': the daemon has none'}")
