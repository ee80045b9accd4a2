"""swmld: slow storage served at the speed of the local disk."""

__version__ = "0.1.0"
