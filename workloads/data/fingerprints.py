"""Finds the fingerprints of data sets as they are now.

They are cached on this machine under the states of the files, so that data is read again only if one of its files has changed.
"""

import logging
import os
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

from pruneyard.workloads.data.array_cache import file_states
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.data.file_states import files_below
from pruneyard.workloads.data.folders import cache_folder

logger = logging.getLogger(__name__)


class Fingerprints:
    """The fingerprints of data sets as they are now, each found once.

    data: data sets that are loaded already.
    """

    def __init__(self, data: Mapping[Source, Dataset]) -> None:
        self._data = data
        self._known: dict[Source, str] = {}

    def of(self, source: Source) -> str:
        """Returns the fingerprint of the data that `source` rests on; loads it if files have changed or are not known.

        Raises `DataNotFoundError`, or `ValueError` for data that cannot be loaded.
        """
        root = source.rests_on()
        if root not in self._known:
            self._known[root] = self._find(root)
        return self._known[root]

    def as_loaded(self, source: Source) -> str:
        """Returns the fingerprint of the rows that `source`, one of the loaded data sets, selects or replaces."""
        return self._data[source].fingerprint

    def _find(self, root: Source) -> str:
        if root in self._data:
            return self._data[root].fingerprint
        cached = _cache_file(root)
        if cached is not None and cached.is_file() and re.fullmatch("[0-9a-f]{16}", text := cached.read_text(encoding="utf-8")):
            return text
        return load(root).fingerprint


def load(source: Source) -> Dataset:
    """Returns the data of `source` with its fingerprint computed, which is cached under the states of the files."""
    # The states before loading: files that change meanwhile have others the next time.
    cached = _cache_file(source)
    data = source.load()
    if cached is not None:
        _write(cached, data.fingerprint)
    return data


def place_of(source: Source) -> str:
    """Returns the file or folder that the data of `source` is read from; the source itself if it reads none."""
    root = source.rests_on()
    found = list(dict.fromkeys(path for path in root.inputs() or () if path.exists()))
    if not found:
        return str(root)
    # Folders are searched in order, and the first that has the data is read.
    return str(found[0] if len([path for path in found if path.parent == found[0].parent]) == 1 else found[0].parent)


def _cache_file(source: Source) -> Path | None:
    """Returns the file with the fingerprint of `source` if none of the files that it reads has changed; None if not known."""
    found = dict.fromkeys(path for path in source.inputs() or () if path.exists())
    files = [file for path in found for file in files_below(path)]
    if not files:
        return None
    # 2: before, integer labels of Parquet files had no names.
    key = file_states(files, f"fingerprint 2 {version('pruneyard')} {type(source).__module__} {source!r}")
    return cache_folder() / "fingerprints" / key


def _write(path: Path, text: str) -> None:
    """Writes beside the file and moves it, so that no reader sees half of it. A cache that cannot be written is done without."""
    temporary = path.with_name(f".{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        logger.warning("The cache %s cannot be written, so the data is read again the next time: %s", path.parent, error)
