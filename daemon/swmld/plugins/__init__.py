"""Plugins: what frameworks' files and processes look like, and what of a file is read next.

    interface    what a plugin is
    registry     finds them, and loads those that are sound
    bounded      calls of what may never come back
    guard        asks one with a time limit; one that misbehaves is not asked again
    answers      what they answered, held to the interface
    known        all of a daemon: the surest is asked
    conformance  what every plugin must do, as checks

The modules with the names of frameworks are those that come with swmld. What a plugin needs of its own can be
imported from here.
"""

from swmld.plugins.interface import API, HEAD, NONE, READ_BYTES, READ_CALLS, Context, Hints, Plugin, Range

__all__ = ["API", "HEAD", "NONE", "READ_BYTES", "READ_CALLS", "Context", "Hints", "Plugin", "Range"]
