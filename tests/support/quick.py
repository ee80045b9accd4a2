"""Run swmld so that it reads the probes' counters every TENTH of a second instead of each second.

    python -P quick.py SWMLD ARGUMENTS...
"""

from __future__ import annotations

import sys

from swmld.cli.main import main
from swmld.observe import observer

TENTH = 0.1

if __name__ == "__main__":
    observer.TICK = TENTH
    sys.argv = sys.argv[1:]
    main()
