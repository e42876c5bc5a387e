"""Where results are printed; imports nothing that is slow to load."""

import sys

from rich.console import Console


def stdout_console() -> Console:
    """As wide as the terminal, and wide enough for tables where there is none."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)
