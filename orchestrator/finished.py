"""Reads back the network that a finished run left: its manifest, weights and masks, and nothing that is code."""

import json
from typing import Any

import safetensors
import safetensors.torch

from orchestrator.decode import decode
from orchestrator.errors import UsageError
from reports.layout import RunFolder
from workloads.data.dataset import Dataset
from workloads.deploy.finished import Blueprint, FinishedNetwork
from workloads.plugins import find_job

_WEIGHTS, _MASKS = "model.safetensors", "masks.safetensors"
_OUTPUTS = "classifier.weight"  # every model calls its last layer so


def finished_network(folder: RunFolder, run_key: str) -> FinishedNetwork:
    """The network of a run. Raises `UsageError` where it left none, or one that cannot be read."""
    try:
        artifact = folder.artifact(run_key)
        manifest = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(
            f"{run_key}: left no files in {folder.path}; give the key of a finished run"
        ) from error
    except ValueError as error:
        raise UsageError(f"{run_key}: the manifest cannot be read: {error}") from error
    if _WEIGHTS not in manifest.get("files", ()) or "model" not in manifest.get("spec", {}):
        raise UsageError(f"{run_key}: is a run of kind {manifest.get('kind')} that left no network")
    try:
        weights = safetensors.torch.load_file(artifact / _WEIGHTS)
        masks = safetensors.torch.load_file(artifact / _MASKS)
        seen = manifest if "image_shape" in manifest else _from_data(manifest)
        parts = {name: seen[name] for name in ("image_shape", "mean", "std")}
        table = {"model": manifest["spec"]["model"], "num_outputs": len(weights[_OUTPUTS]), **parts}
        return FinishedNetwork.of(Blueprint.of_table(table), weights=weights, masks=masks)
    except (KeyError, TypeError, ValueError, safetensors.SafetensorError, FileNotFoundError) as error:
        raise UsageError(f"{run_key}: the network cannot be read: {error}") from error


def _from_data(manifest: dict[str, Any]) -> dict[str, Any]:
    """What manifests before version 0.2 do not say, from the run's data, which must be at hand."""
    problems: list[str] = []
    job = decode(
        find_job(manifest["kind"]), manifest["spec"], "", lambda key, text: problems.append(f"{key}: {text}")
    )
    if job is None:
        raise ValueError("; ".join(problems))
    data: Dataset = job.data.load()
    return {"image_shape": data.image_shape, "mean": data.mean, "std": data.std}
