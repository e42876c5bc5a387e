"""Runs a function in a thread that takes turns with its caller: at any time, one of the two waits for the other.

A training function calls `report` in the middle of its loop, but a job yields its progress. The thread hands each report over
and waits for the answer. Whatever the function raises is raised in the caller.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from pruneyard.workloads.workload import StillRunningError

STOP_TIMEOUT_S = 60.0  # how long a function may take to end after it was stopped


class FunctionStopped(BaseException):
    """Raised inside a function, where it waits, to end it. No `except Exception` catches it; `finally` blocks run."""


@dataclass(frozen=True)
class Returned:
    """The event that the function has returned `value`."""

    value: Any


@dataclass(frozen=True)
class Raised:
    """The event that the function has raised `error`."""

    error: BaseException


@dataclass(frozen=True)
class Stopped:
    """The event that the function has ended because it was stopped."""


_STOP = object()


class Handover:
    """One call of a function in a thread of its own. The function calls `hand_over`, its caller the rest.

    The thread is a daemon, so that a function that hangs does not keep its process from ending.
    """

    def __init__(self, function: Callable[[], Any], *, name: str) -> None:
        self._function = function
        self._events: SimpleQueue[Any] = SimpleQueue()
        self._answers: SimpleQueue[Any] = SimpleQueue()
        self._is_stopped = False
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the function."""
        self.thread.start()

    def receive(self, *, timeout: float | None = None) -> Any:
        """Waits for the next event and returns it; None after `timeout` seconds without one."""
        try:
            return self._events.get(timeout=timeout)
        except Empty:
            return None

    def answer(self, value: Any) -> None:
        """Answers the event received last, after which the function continues."""
        self._answers.put(value)

    def close(self) -> None:
        """Ends the function as `abandon` does, and waits for its end.

        Raises `StillRunningError` if the function has not ended after `STOP_TIMEOUT_S`.
        """
        self.abandon()
        self.thread.join(STOP_TIMEOUT_S)
        if self.thread.is_alive():
            raise StillRunningError(
                f"{self.thread.name} was stopped and has not ended after {STOP_TIMEOUT_S:g} s; it still runs"
            )

    def abandon(self) -> None:
        """Asks the function to end, where it waits for an answer, or else at its next event. Does not wait for its end."""
        self._is_stopped = True
        self._answers.put(_STOP)

    def hand_over(self, event: Any) -> Any:
        """Hands an event to the caller and returns the answer. Called by the function; raises `FunctionStopped` to end it."""
        if not self._is_stopped:
            self._events.put(event)
            answer = self._answers.get()
            if answer is not _STOP:
                return answer
        self._is_stopped = True
        raise FunctionStopped

    def _run(self) -> None:
        try:
            event: Any = Returned(self._function())
        except FunctionStopped:
            event = Stopped()
        # Also SystemExit and KeyboardInterrupt, which the caller must not take for its own.
        except BaseException as error:
            event = Raised(error)
        self._events.put(event)
