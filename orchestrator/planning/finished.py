"""Remembers what a finished study printed, so that a call with nothing to do answers at once.

The answer holds while nothing has changed that could give another one: the request (spec and options), the code, the files that
the jobs read, and the results. A file counts as unchanged if path, size, inode and times are. This module imports nothing that
is slow to load.
"""

import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pruneyard.orchestrator.spec.yaml_document import read_text
from pruneyard.reports.durable import write_durably
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.workloads.data.file_states import files_below, state_of
from pruneyard.workloads.plugins import ENTRY_POINT_GROUP

logger = logging.getLogger(__name__)

VERSION = 2  # of the file
ENVIRONMENT = ("PRUNEYARD_DATA", "PRUNEYARD_CACHE", "HOME")  # where data is searched for
READERS = ("pruneyard", "scikit-learn", "torchvision")  # distributions that read data, or contain it
PACKAGES = ("pruneyard", "pruneyard.cluster", "pruneyard.orchestrator", "pruneyard.reports", "pruneyard.workloads")
CODE = (".py", ".yaml", ".j2", ".html", ".css")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the summary as text; all columns have the same number of cells."""

    name: str
    cells: Sequence[str]
    left: bool = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Text and numbers that a call of `run` prints at its end.

    columns, num_rows: the summary, and its rows including those that are not printed.
    notes: lines below the table. fronts: lines below these. answers: what the head of the page answers, a line a question.
    summary: the machine-readable form.
    """

    study: str
    num_jobs: int
    columns: Sequence[Column]
    num_rows: int
    notes: Sequence[str]
    fronts: Sequence[str]
    counts: Mapping[str, int]
    summary: Sequence[Mapping[str, Any]]
    answers: Sequence[str] = ()


def request_of(
    source: str | os.PathLike[str] | Location,
    *,
    sets: Sequence[str] = (),
    axes: Sequence[str] = (),
    plugins: Sequence[str] = (),
) -> str:
    """Returns a hash of what is asked for: the text of the spec, its changes, and where relative paths and data are searched."""
    places = {name: os.environ.get(name) for name in ENVIRONMENT}
    return _digest([read_text(source)[0], list(sets), list(axes), list(plugins), os.getcwd(), places])


def results_stamp(folder: RunFolder) -> str:
    """Returns a hash of the state of all results in a local folder."""
    assert isinstance(folder.path, Path)
    places = [folder.path / "results", folder.path / "plan.json"]
    return _digest(list(_states(places, folder.path)))


def page_stamp(folder: RunFolder) -> str:
    """Returns a hash of the state of the page of a local folder."""
    assert isinstance(folder.report, Path)
    return _digest(list(_states([folder.report])))


def remember(
    folder: RunFolder, answer: Answer, *, requests: Sequence[str], inputs: Sequence[str], inputs_stamp: str, results: str
) -> None:
    """Writes the answer into a local folder.

    requests: those that it answers.
    inputs, inputs_stamp: the files and folders that the jobs read, and their state before the jobs were planned.
    results: the state of the results from which the answer was made.
    """
    known = {
        "version": VERSION,
        "requests": list(requests),
        "code": code_stamp(),
        "inputs": list(inputs),
        "inputs_stamp": inputs_stamp,
        "results": results,
        "page": page_stamp(folder),
        "answer": asdict(answer),
    }
    write_durably(folder.finished, json.dumps(known).encode())


def recall(folder: RunFolder, request: str) -> Answer | None:
    """Returns the answer of a local folder to this request; None where there is none, or something has changed since."""
    if not isinstance(folder.path, Path) or not folder.finished.is_file():
        return None
    try:
        known = json.loads(folder.finished.read_bytes())
        if known["version"] != VERSION or request not in known["requests"] or not folder.report.is_file():
            return None
        now = {
            "page": page_stamp(folder),
            "results": results_stamp(folder),
            "inputs_stamp": paths_stamp(known["inputs"]),
            "code": code_stamp(),
        }
        if any(known[name] != state for name, state in now.items()):
            return None
        stored = known["answer"]
        return Answer(**{**stored, "columns": [Column(**column) for column in stored["columns"]]})
    # A damaged file costs only time: the study is planned again, and the file replaced.
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s cannot be read, so the study is planned again: %s", folder.finished, error)
        return None


def paths_stamp(paths: Iterable[str]) -> str:
    """Returns a hash of the state of files and of whole folders; a missing one has a state, too."""
    return _digest([list(_states([Path(path)])) for path in paths])


def code_stamp() -> str:
    """Returns a hash of the state of everything that plans jobs and renders results: this package, plug-ins, readers of data."""
    versions = {name: _version(name) for name in READERS}
    foreign = {point.value.partition(".")[0] for point in entry_points(group=ENTRY_POINT_GROUP)}
    roots = [root for name in sorted({*PACKAGES, *foreign}) for root in _roots(name)]
    return _digest([sys.version, versions, *_states(roots, suffixes=CODE)])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _roots(module: str) -> list[Path]:
    """Returns the folders of a package, or the file of a module; nothing for one that cannot be found."""
    found = find_spec(module)
    if found is None:
        return []
    if found.submodule_search_locations:
        return [Path(root) for root in found.submodule_search_locations]
    return [Path(found.origin)] if found.origin else []


def _states(roots: Iterable[Path], relative_to: Path | None = None, *, suffixes: tuple[str, ...] = ()) -> Iterator[list[Any]]:
    """Yields path and state of every file at or below the roots, in a fixed order."""
    for root in roots:
        for path in files_below(root) if root.is_dir() else [root]:
            if not suffixes or path.suffix in suffixes:
                yield [str(path if relative_to is None else path.relative_to(relative_to)), state_of(path)]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:32]
