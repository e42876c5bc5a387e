"""The console for results on stdout; imports nothing that is slow to load."""

import sys

from rich.console import Console


def stdout_console() -> Console:
    """Returns a console as wide as the terminal, or 160 columns wide if stdout is no terminal."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)
