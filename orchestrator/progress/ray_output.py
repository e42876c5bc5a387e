"""Keeps what Ray prints while a study runs out of the user's output."""

import io
import logging
import re
import sys

logger = logging.getLogger(__name__)

_RAY_MESSAGE = re.compile(r"(\x1b\[\d+m)?\(raylet\b")


class RayOutputFilter(io.TextIOBase):
    """Replaces stdout: what a trial prints in this process goes to stderr, what Ray prints goes to the debug log.

    Ray prints pages of its internal state about crashed processes and nodes, which a study reports itself.
    """

    def __init__(self) -> None:
        self._drops_newline = False

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Writes one part of a `print` call, which writes its text and the newline separately."""
        if _RAY_MESSAGE.match(text):
            logger.debug("%s", text)
            self._drops_newline = True
        elif self._drops_newline and text == "\n":
            self._drops_newline = False
        else:
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()
