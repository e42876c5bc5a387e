"""Reads the artifacts of a finished run: its manifest, network, masks and predictions; it never unpickles."""

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from pruneyard.orchestrator.artifacts.checkpoint_store import checkpoints_in
from pruneyard.orchestrator.artifacts.data_record import recorded_fingerprint
from pruneyard.orchestrator.artifacts.parents import locate_upstream
from pruneyard.orchestrator.artifacts.writer import MANIFEST, MASKS, PREDICTIONS, WEIGHTS, manifest_digest
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.spec.codec import decode
from pruneyard.orchestrator.spec.plugin_files import add_plugin_files_of
from pruneyard.orchestrator.spec.problem_log import ProblemLog
from pruneyard.reports.data_record import data_records
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location, located
from pruneyard.reports.predictions import read_num_extra, read_predictions
from pruneyard.workloads.checkpoint import Checkpoints
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.masks import stored_weights
from pruneyard.workloads.networks.finished import Blueprint, FinishedNetwork
from pruneyard.workloads.parents import FinishedRun, Predictions
from pruneyard.workloads.plugins import UnknownPluginError, find_job
from pruneyard.workloads.training.initial_weights import InitialWeights

_OUTPUTS = "classifier.weight"  # older manifests have no blueprint; every model called its last layer so then


def open_run(artifact: str) -> FinishedRun:
    """Opens the finished run of an artifact folder. Raises `UsageError` if the folder holds none."""
    folder = located(artifact)
    manifest = read_manifest(folder)
    path = folder / PREDICTIONS
    return FinishedRun(
        run_key=manifest["run_key"],
        kind=manifest["kind"],
        spec=manifest["spec"],
        num_extra=read_num_extra(path) if path.is_file() else 0,
        # Read on demand, since a job uses only some of these.
        predictions=partial(_predictions, path),
        network=partial(_network, folder, manifest),
        source=partial(_located_source, folder, manifest),
        data_fingerprint=partial(_data_fingerprint, folder, manifest),
        tensors={
            name: partial(_tensors, folder / name, manifest)
            for name in manifest.get("files", ())
            if name.endswith(".safetensors")
        },
        initial_weights=partial(_initial_weights, folder, manifest),
    )


def _tensors(path: Location, manifest: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file by name, in the order of their names.

    Raises `UsageError` for a damaged file, and `SafetensorError` for an invalid one.
    """
    # `load` returns them in another order each time, and SWAG draws random numbers for one tensor after another.
    return dict(sorted(safetensors.torch.load(verified(path, manifest)).items()))


def verified(path: Location, manifest: Mapping[str, Any], *, name: str | None = None) -> bytes:
    """Returns the content of an artifact file. Raises `UsageError` if it does not have the digest in the manifest, if any.

    name: of the file in the manifest, which has its folder too; by default its own name.
    """
    content = path.read_bytes()
    stated = manifest.get("sha256", {}).get(name or path.name)
    if stated is not None and hashlib.sha256(content).hexdigest() != stated:
        raise UsageError(f"{path} is damaged: it does not have the digest it was written with")
    return content


def open_checkpoints(artifact: str) -> Checkpoints:
    """Returns the checkpoints of the run with this artifact folder."""
    folder = located(artifact)
    return checkpoints_in(RunFolder(folder.parent.parent).checkpoints(folder.name))


def finished_network(folder: RunFolder, run_key: str) -> FinishedNetwork:
    """Returns the network of a finished run. Raises `UsageError` if the run has none, or if it cannot be read."""
    try:
        artifact = folder.artifact(run_key)
    except ValueError as error:
        raise UsageError(f"{run_key}: cannot be a run key: {error}") from error
    return _network(artifact, read_manifest(artifact))


def read_manifest(artifact: Location) -> dict[str, Any]:
    """Returns the manifest in an artifact folder. Raises `UsageError` if it is missing or damaged."""
    run_key = artifact.name
    try:
        manifest = json.loads((artifact / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        folder = artifact.parent.parent
        listing = f"`pruneyard export {folder} --table runs` lists the keys"
        raise UsageError(f"{run_key}: is not the key of a finished run in {folder}; {listing}") from error
    except ValueError as error:
        raise UsageError(f"{run_key}: the manifest cannot be read: {error}") from error
    if not isinstance(manifest, dict) or not {"run_key", "kind", "spec"} <= manifest.keys():
        raise UsageError(f"{run_key}: the manifest cannot be read: it must have run_key, kind and spec")
    if manifest.get("digest", manifest_digest(manifest)) != manifest_digest(manifest):
        raise UsageError(f"{artifact / MANIFEST} is damaged: it does not have the digest it was written with")
    return manifest


def _predictions(path: Location) -> dict[str, Predictions]:
    if not path.is_file():
        raise UsageError(f"{path.parent.name}: left no predictions")
    return {
        split: Predictions(row_ids=row_ids, labels=labels, logits=logits)
        for split, (row_ids, labels, logits) in read_predictions(path).items()
    }


def _network(artifact: Location, manifest: dict[str, Any]) -> FinishedNetwork:
    run_key = artifact.name
    if WEIGHTS not in manifest.get("files", ()):
        raise UsageError(f"{run_key}: is a run of kind {manifest['kind']}, which has no network")
    try:
        weights, stored_masks = stored_weights.decode(_tensors(artifact / WEIGHTS, manifest))
        masks = _tensors(artifact / MASKS, manifest) | stored_masks
        blueprint = manifest["network"] if "network" in manifest else _blueprint_before(manifest, weights)
        return FinishedNetwork.of(_known(Blueprint.of_table(blueprint), artifact), weights=weights, masks=masks)
    except (KeyError, TypeError, ValueError, safetensors.SafetensorError, FileNotFoundError) as error:
        raise UsageError(f"{run_key}: the network cannot be read: {error}") from error


def _known(blueprint: Blueprint, artifact: Location) -> Blueprint:
    """Returns the blueprint, after adding the plug-ins of the folder's spec if its model is one of theirs."""
    try:
        _ = blueprint.builder
    except UnknownPluginError:
        add_plugin_files_of(RunFolder(artifact.parent.parent).spec)
    return blueprint


def _blueprint_before(manifest: dict[str, Any], weights: dict[str, Tensor]) -> dict[str, Any]:
    """Returns the blueprint of a manifest that has none (written before 0.2): from its spec and, in the oldest, its data."""
    seen = manifest
    if "image_shape" not in manifest:
        data: Dataset = _source(manifest).load()
        seen = {name: getattr(data, name) for name in ("image_shape", "mean", "std")}
    sizes = {name: seen[name] for name in ("image_shape", "mean", "std")}
    return {"model": manifest["spec"]["model"], "num_outputs": len(weights[_OUTPUTS]), **sizes}


def _located_source(artifact: Location, manifest: dict[str, Any]) -> Source:
    """Returns the data source of the run, with the artifacts that it uses located in the run's own folder."""
    source: Source = locate_upstream(_source(manifest), RunFolder(artifact.parent.parent))
    return source


def _data_fingerprint(artifact: Location, manifest: dict[str, Any]) -> str | None:
    (recorded,) = data_records(
        [json.dumps(manifest["data_read"]) if "data_read" in manifest else None],
        [manifest.get("data_fingerprint")],
        [",".join(manifest.get("parents", ())) or None],
    )
    return recorded_fingerprint(recorded, _located_source(artifact, manifest))


def _initial_weights(artifact: Location, manifest: dict[str, Any]) -> Mapping[str, Tensor] | None:
    """Returns what the training of the run started from; None for random weights, and for jobs that train no network."""
    initial = getattr(_job(manifest), "initial", None)
    if not isinstance(initial, InitialWeights) or not initial.is_given:
        return None
    located_initial: InitialWeights = locate_upstream(initial, RunFolder(artifact.parent.parent))
    return located_initial.read()


def _source(manifest: dict[str, Any]) -> Source:
    """Returns the data source that the run was trained on. Raises `ValueError` if this version cannot decode its spec."""
    source: Source = _job(manifest).data
    return source


def _job(manifest: dict[str, Any]) -> Any:
    """Returns the job of the run. Raises `ValueError` if this version cannot decode its spec."""
    log = ProblemLog()
    job = decode(find_job(manifest["kind"]), manifest["spec"], "", log)
    if job is None:
        raise ValueError("; ".join(f"{problem.key}: {problem.message}" for problem in log.problems))
    return job
