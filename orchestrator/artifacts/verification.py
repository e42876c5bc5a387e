"""Verifies a folder of results: tables, records, artifacts and checkpoints, each against its checksums."""

from collections.abc import Callable, Iterator

import safetensors
import safetensors.torch
import torch

from pruneyard.orchestrator.artifacts.checkpoint_store import checkpoints_in
from pruneyard.orchestrator.artifacts.reader import read_manifest, verified
from pruneyard.orchestrator.errors import UsageError
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.reports.parquet import DamagedFileError, decode_table, read_part
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store

PARSERS: dict[str, Callable[[Location, bytes], object]] = {
    ".parquet": decode_table,
    ".safetensors": lambda _, content: safetensors.torch.load(content),
}


def verify_folder(folder: RunFolder) -> Iterator[tuple[str, str, list[str]]]:
    """Yields name, extent and problems of each part of the folder."""
    store = Store(folder)
    problems = store.problems()  # before `statuses`, which logs what it reads from records
    statuses = store.statuses()
    yield "tables", f"the rows of {len(statuses)} runs and their records", problems
    yield "latency", "all measurements", list(_latency_problems(folder))
    completed = [key for key, (status, _) in statuses.items() if status is Status.COMPLETED]
    yield "artifacts", f"the files of {len(completed)} completed runs", [
        problem for key in completed for problem in _artifact_problems(folder, key)
    ]
    yield "checkpoints", "of all runs", [
        str(problem)
        for key in folder.runs_with_artifacts()
        for problem in checkpoints_in(folder.checkpoints(key)).damaged(torch.device("cpu"))
    ]


def _latency_problems(folder: RunFolder) -> Iterator[str]:
    for path in folder.files_of_table("latency"):
        try:
            read_part(path, "latency")
        except DamagedFileError as error:
            yield f"{error}; delete it and measure again with pruneyard latency"


def _artifact_problems(folder: RunFolder, run_key: str) -> Iterator[str]:
    artifact = folder.artifact(run_key)
    try:
        manifest = read_manifest(artifact)
    except UsageError as error:
        yield str(error)
        return
    for name in manifest.get("files", ()):
        path = artifact / name
        try:
            content = verified(path, manifest, name=name)
            # Manifests of earlier versions have no digests. Files in a folder are those of a user, in any form.
            if path.suffix in PARSERS and "/" not in name:
                PARSERS[path.suffix](path, content)
        except FileNotFoundError:
            yield f"{path} is missing"
        except safetensors.SafetensorError as error:
            yield f"{path} is damaged: {error}"
        except (UsageError, DamagedFileError) as error:
            yield str(error)
