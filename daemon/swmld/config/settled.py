"""Settings as a running daemon keeps them: the values, without what reads and checks them (15 MB)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from swmld.config.models import Settings
    from swmld.documents import Document, Problem


class _Settled(SimpleNamespace):
    def model_copy(self, update: Mapping[str, Any]) -> _Settled:
        return _Settled(**{**vars(self), **update})


def settled(settings: Settings) -> Settings:
    """What looks the same to who reads it, and can be sent to another process."""
    values = {key: getattr(settings, key) for key in (*type(settings).model_fields, "name", "socket_path")}
    values["paths"] = tuple(SimpleNamespace(**dict(rule)) for rule in settings.paths)
    return cast("Settings", _Settled(**values))


def check(documents: Iterable[Document]) -> list[Problem]:
    """As ``load.check``, which is imported when it is first needed."""
    from swmld.config import load

    return load.check(documents)


def said(documents: Iterable[Document], environment: str | None) -> Mapping[str, Any]:
    """As ``load.said``, the same."""
    from swmld.config import load

    return load.said(documents, environment)
