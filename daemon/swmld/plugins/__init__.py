"""Plugins: what frameworks' files and processes look like, and what of a file is read next.

    interface    what a plugin is
    registry     finds them, and loads those that are sound
    bounded      calls of what may never come back
    guard        asks one with a time limit; one that misbehaves is not asked again
    answers      what they answered, held to the interface
    known        all of a daemon: the surest is asked
    conformance  what every plugin must do, as checks

The modules with the names of frameworks are those that come with swmld.
"""
