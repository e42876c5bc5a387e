"""Control files: empty files by which a driver signals something to trials in other processes."""

import logging
import time

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.reports.objects import ObjectPath
from pruneyard.reports.storage import StorageError

logger = logging.getLogger(__name__)

LIST_EVERY_S = 3.0  # in an object store, where each listing is a request


class ControlFiles:
    """The control files in one folder.

    In an object store an answer may be `LIST_EVERY_S` old, and older while the store cannot be reached.
    """

    def __init__(self, folder: Location) -> None:
        self._folder = folder
        self._names: frozenset[str] = frozenset()
        # Not 0: a monotonic clock may start there.
        self._listed_at = float("-inf")

    def has(self, name: str) -> bool:
        """Returns whether the control file of this name exists."""
        if not isinstance(self._folder, ObjectPath):
            return (self._folder / name).exists()
        if time.monotonic() - self._listed_at >= LIST_EVERY_S:
            try:
                self._names = frozenset(path.name for path in self._folder.iterdir())
            except StorageError as error:  # the next write decides whether the storage has failed for good
                logger.warning("stop requests cannot be read for now: %s", error)
            # Also after an error, so that a store that cannot be reached is not asked at every step.
            self._listed_at = time.monotonic()
        return name in self._names


def pruned_file(folder: RunFolder, run_key: str) -> Location:
    """Returns the control file that tells the trial of this run key, in another process, to stop early."""
    return folder.path / ".pruned" / run_key
