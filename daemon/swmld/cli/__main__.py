"""``python -m swmld.cli`` is ``swmld``."""

from swmld.cli.main import main

main()
