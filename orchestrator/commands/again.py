"""The verbs `run` and `resume` of a study that is finished: prints its results again, without planning it.

Everything else is handed over to the module of the verb, which takes seconds to import. This one imports nothing that is slow to
load.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pruneyard.orchestrator.commands.closing import print_answer
from pruneyard.orchestrator.errors import ExitCode, UsageError
from pruneyard.orchestrator.planning.finished import recall, request_of
from pruneyard.orchestrator.spec.yaml_document import read_document
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location, located


def run_again(**values: Any) -> int | None:
    """Answers `run`; returns None if there may be something to do."""
    spec, sets = values["spec"], values["sets"]
    folder: Location | None = values["out"] or _default_folder(spec, sets)
    if folder is None:
        return None
    request = _request(lambda: request_of(spec, sets=sets, axes=values["axes"], plugins=values["plugins"]))
    return None if request is None else _answer(folder, request, as_json=values["as_json"])


def resume_again(**values: Any) -> int | None:
    """Answers `resume`; returns None if there may be something to do."""
    folder = values["folder"]
    # Answers are stored in local folders only, and reading a spec from an object store takes a request.
    request = _request(lambda: request_of(RunFolder(folder).spec)) if isinstance(folder, Path) else None
    return None if request is None else _answer(folder, request, as_json=values["as_json"])


def _answer(folder: Location, request: str, *, as_json: bool) -> int | None:
    place = RunFolder(folder)
    answer = recall(place, request)
    if answer is None:
        return None
    click.echo(f"{answer.study}: all {answer.num_jobs} jobs are finished, in {folder}; nothing to run", err=True)
    print_answer(answer, folder=place.path, page=lambda: (place.report, answer.answers), code=ExitCode.FINISHED, as_json=as_json)
    return ExitCode.FINISHED


def _request(make: Callable[[], str]) -> str | None:
    try:
        return make()
    except UsageError:  # raised again, with all problems, where the spec is planned
        return None


def _default_folder(spec: str, sets: tuple[str, ...]) -> Location | None:
    """Returns `out/NAME`; None if the name is set on the command line, or cannot be read."""
    if any(text.strip().startswith("name") for text in sets):
        return None
    try:
        name = read_document(spec).tables.get("name")
    except UsageError:
        return None
    return located(f"out/{name}") if isinstance(name, str) else None
