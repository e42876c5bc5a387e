"""Data that is handed over from Python: stored in the results folder, so that the study resumes without handing it over again.

Sources read it from the cache of this machine, under its digest; what the cache has lost is restored from the results folder.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pruneyard.orchestrator.errors import UsageError
from pruneyard.reports.durable import write_durably
from pruneyard.reports.layout import RunFolder
from pruneyard.workloads.data.array_file import ArrayFile
from pruneyard.workloads.data.dataset import Source
from pruneyard.workloads.data.folders import FileSource
from pruneyard.workloads.data.sources.arrays import Arrays

FOLDER = "arrays"  # in the folder of data in the cache

_STORED = re.compile(rf"{FOLDER}/([0-9a-f]{{16}}\.safetensors)")


def data_table(data: Any) -> Any:
    """Returns the table of a spec for the argument `data` of `run`, after writing arrays to the cache.

    A name, or a table with a name, is returned as it is. Raises `UsageError` for arrays that are not valid data.
    """
    if isinstance(data, str) or (isinstance(data, Mapping) and "name" in data):
        return data
    try:
        content = ArrayFile.of(data)
    except (TypeError, ValueError) as error:
        raise UsageError(f"data: {error}") from error
    name = f"{content.digest}.safetensors"
    if not _cached(name).exists():
        write_durably(_cached(name), content.to_bytes())
    return {"name": "arrays", "path": f"{FOLDER}/{name}"}


def keep_in(folder: RunFolder, sources: Iterable[Source]) -> None:
    """Copies the files of those sources to the results folder that were handed over."""
    for source in {source.rests_on() for source in sources}:
        match = _STORED.fullmatch(source.path) if isinstance(source, Arrays) else None
        if match is not None and not (folder.handed_over_data / match[1]).exists() and _cached(match[1]).exists():
            write_durably(folder.handed_over_data / match[1], _cached(match[1]).read_bytes())


def restore_from(folder: RunFolder) -> None:
    """Copies those files of the results folder to the cache that it does not hold, as on another machine."""
    if not folder.handed_over_data.is_dir():
        return
    for file in folder.handed_over_data.iterdir():
        if _STORED.fullmatch(f"{FOLDER}/{file.name}") and not _cached(file.name).exists():
            write_durably(_cached(file.name), file.read_bytes())


def _cached(name: str) -> Path:
    return FileSource.download_folder() / FOLDER / name
