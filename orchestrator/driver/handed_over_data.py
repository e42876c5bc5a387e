"""Data that is handed over from Python: stored in the results folder, so that the study resumes without handing it over again.

Sources read it from the cache of this machine, under its digest; what the cache has lost is restored from the results folder.
"""

import re
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.spec.load import Spec
from pruneyard.orchestrator.spec.yaml_document import read_document
from pruneyard.reports.durable import write_durably
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.workloads.data.array_file import ArrayFile
from pruneyard.workloads.data.dataset import Source
from pruneyard.workloads.data.folders import FileSource
from pruneyard.workloads.data.sources.arrays import Arrays

FOLDER = "arrays"  # in the folder of data in the cache

_STORED = re.compile(rf"{FOLDER}/([0-9a-f]{{16}}\.safetensors)")


def data_overrides(data: Any, spec: str | PathLike[str] | Location | Mapping[str, Any] | Spec) -> dict[str, Any]:
    """Returns the overrides for the argument `data` of `run`, after writing arrays to the cache.

    A name, or a table with a name, replaces every table of data. So do arrays, but for a table `{name: arrays, ...}` without a
    path, of the spec or of a stage: its options apply to them. Raises `UsageError` for arrays that are not valid data.
    """
    if isinstance(data, str) or (isinstance(data, Mapping) and "name" in data):
        return {"data": data}
    tables = {} if isinstance(spec, Spec) else read_document(spec).tables  # a loaded spec names files
    stages = tables.get("stages")
    of_stages = stages if isinstance(stages, Mapping) else {}
    found = {f"{name}.data": _options(table) for name, table in of_stages.items() if isinstance(table, Mapping)}
    options = {"data": _options(tables) or {}} | {key: table for key, table in found.items() if table is not None}
    stored = {"name": "arrays", "path": _stored(data, options.values())}
    return {key: {**table, **stored} for key, table in options.items()}


def _options(tables: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the options for arrays that are handed over; None if the tables have other data."""
    table = tables.get("data")
    if not isinstance(table, Mapping) or "path" in table or table.get("name", "arrays") != "arrays":
        return None
    return dict(table)


def _stored(data: Any, options: Iterable[dict[str, Any]]) -> str:
    """Returns the path of the arrays, after writing them to the cache with the axes and classes that the options say.

    These options are taken out of the tables, since the file has them already; what is wrong stays, and the spec refuses it.
    """
    given: dict[str, Any] = {}
    for table in options:
        if table.get("channels") == "last":
            given["channels"] = table.pop("channels")
        if isinstance(table.get("classes"), list):
            given["classes"] = tuple(str(name) for name in table.pop("classes"))
    try:
        content = ArrayFile.of(data, **given)
    except (TypeError, ValueError) as error:
        raise UsageError(f"data: {error}") from error
    name = f"{content.digest}.safetensors"
    if not _cached(name).exists():
        write_durably(_cached(name), content.to_bytes())
    return f"{FOLDER}/{name}"


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
