"""Kills a driver in the middle of its work, in the process of a test."""

from pruneyard.orchestrator.progress.monitor import Monitor


class KillingDisplay:
    """A display that ends the driver, as a kill would, when it has been shown a number of updates."""

    def __init__(self, number: int) -> None:
        self._left = number

    def show(self, monitor: Monitor) -> None:
        """Raises an exception that no job catches."""
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
