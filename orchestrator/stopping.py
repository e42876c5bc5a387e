"""Stopping in order: the first Ctrl-C or SIGTERM asks, the second one does not wait."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from reports.location import Location

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class StopRequest:
    """Whether a study is to end; `mark` is the file by which trials in other processes learn of it."""

    mark: Location
    requested: bool = False
    signal_number: int | None = None

    def ask(self, signal_number: int | None = None) -> None:
        """Trials write a checkpoint and end as INTERRUPTED."""
        if not self.requested:
            self.requested, self.signal_number = True, signal_number
            self.mark.touch()

    def listen(self) -> None:
        """Takes SIGINT and SIGTERM, or takes them back: Ray's start puts a handler of its own on SIGTERM."""
        if threading.current_thread() is threading.main_thread():  # no other thread can
            for number in SIGNALS:
                signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.ask(number)


@contextmanager
def stop_request(mark: Location) -> Iterator[StopRequest]:
    """Handles SIGINT and SIGTERM inside the block (in the main thread); the mark is gone afterwards."""
    mark.unlink(missing_ok=True)
    request = StopRequest(mark)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    request.listen()
    try:
        yield request
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
        mark.unlink(missing_ok=True)
