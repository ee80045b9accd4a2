"""``swmld``, and ``python -m swmld.cli``."""

import sys

from swmld import hiding
from swmld.cli import starting


def main() -> None:
    """Entry point of the program."""
    hiding.hide_own_arguments()  # before all that takes time
    if starting.is_daemon(sys.argv[1:]):
        sys.exit(starting.start(sys.argv[1:]))
    from swmld.cli import main as command_line

    command_line.main()


if __name__ == "__main__":
    main()
