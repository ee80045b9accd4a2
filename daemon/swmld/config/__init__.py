"""Settings: what the daemon is told to do. ``models`` has the keys, ``layers`` where they are given, ``load``
makes one of all, ``settled`` is what a running daemon keeps of them, ``recipes`` has what comes with the
package."""
