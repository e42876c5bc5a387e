"""Empty files by which a driver tells something to trials in other processes."""

import logging
import time
from typing import TYPE_CHECKING

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.reports.objects import ObjectPath
from pruneyard.reports.storage import StorageError

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)



LIST_EVERY_S = 3.0  # into an object store, where each look is a request


class ControlFiles:
    """The names in one folder. In an object store an answer may be `LIST_EVERY_S` old, or older while it cannot be reached."""

    def __init__(self, folder: Location) -> None:
        self._folder = folder
        self._names: frozenset[str] = frozenset()
        self._looked_at = float("-inf")

    def has(self, name: str) -> bool:
        """Whether the mark of this name is there."""
        if not isinstance(self._folder, ObjectPath):
            return (self._folder / name).exists()
        if time.monotonic() - self._looked_at >= LIST_EVERY_S:
            try:
                self._names = frozenset(path.name for path in self._folder.iterdir())
            except StorageError as error:  # what is to be written next says whether this is the end
                logger.warning("marks are not seen for now: %s", error)
            self._looked_at = time.monotonic()
        return name in self._names


def pruned_file(folder: RunFolder, run_key: str) -> Location:
    """The file by which a trial in another process learns that it is to stop."""
    return folder.path / ".pruned" / run_key
