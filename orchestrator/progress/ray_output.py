"""What Ray prints of its own accord while a study runs, kept out of what its user reads."""

import io
import logging
import re
import sys

logger = logging.getLogger(__name__)



_OF_RAY = re.compile(r"(\x1b\[\d+m)?\(raylet\b")


class RayOutputFilter(io.TextIOBase):
    """Takes the place of stdout: what a trial prints in this process goes to stderr, what Ray prints to the debug log.

    Ray tells of dead processes and nodes, with pages of its internal state; a study tells of them in its own words.
    """

    def __init__(self) -> None:
        self._ends_line = False

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """One piece of a `print`."""
        if _OF_RAY.match(text):
            logger.debug("%s", text)
            self._ends_line = True
        elif self._ends_line and text == "\n":  # which `print` writes by itself
            self._ends_line = False
        else:
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()
