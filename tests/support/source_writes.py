"""Conformance of sources that can be changed. See ``support.source_conformance``."""

from __future__ import annotations

from support.source_changes import WrittenAttributes, WrittenNames
from support.source_written import WrittenFiles, attributes, write

__all__ = ["Writes", "WrittenAttributes", "WrittenFiles", "WrittenNames", "attributes", "write"]


class Writes(WrittenFiles, WrittenNames, WrittenAttributes):
    """All of it."""
