"""Replaces the program of a driver whose Ray cluster is lost by `commands/lost.py`.

Ray's client library ends the process that it runs in, without a word and with its own exit code, as soon as it notices that its
raylet is gone. The driver is faster: the new program has nothing of Ray in its memory.
"""

import os
import sys
from contextlib import suppress

from pruneyard.reports.location import Location

_PROGRAM = "from pruneyard.orchestrator.commands.lost import main; main()"


def replace_program(folder: Location, message: str, *, with_page: bool, as_json: bool) -> None:
    """Replaces the program of this process by one that prints the message and the results, and exits with code 4.

    Works from any thread and whatever the main thread does; the process keeps its id, its terminal and its exit code.
    """
    # A terminal that was closed must not keep this process.
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    words = [sys.executable, "-c", _PROGRAM, str(folder), str(int(with_page)), str(int(as_json)), message]
    os.execve(sys.executable, words, {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
