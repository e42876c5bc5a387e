"""Stopping in order: the first Ctrl-C or SIGTERM asks, the second one does not wait."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType


@dataclass
class StopRequest:
    """Whether a study is to end; `mark` is the file by which trials in other processes learn of it."""

    mark: Path
    requested: bool = False
    signal_number: int | None = None

    def ask(self, signal_number: int | None = None) -> None:
        """Trials write a checkpoint and end as INTERRUPTED."""
        if not self.requested:
            self.requested, self.signal_number = True, signal_number
            self.mark.touch()


@contextmanager
def stop_request(mark: Path) -> Iterator[StopRequest]:
    """Handles SIGINT and SIGTERM inside the block (only the main thread can); the mark is gone afterwards."""
    mark.unlink(missing_ok=True)
    request = StopRequest(mark)

    def handle(number: int, _frame: FrameType | None) -> None:
        if request.requested:
            raise KeyboardInterrupt
        request.ask(number)

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        mark.unlink(missing_ok=True)
