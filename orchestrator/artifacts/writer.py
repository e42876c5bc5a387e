"""Names and encodes the files of a finished run: network, masks, predictions and the manifest."""

import json
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version

import safetensors.torch

from pruneyard.orchestrator.spec.job import Job
from pruneyard.reports.durable import Content
from pruneyard.reports.predictions import predictions_file
from pruneyard.workloads.workload import Outcome

MANIFEST = "manifest.json"
WEIGHTS, MASKS, PREDICTIONS = "model.safetensors", "masks.safetensors", "predictions.parquet"


@cache
def code_version() -> str:
    """Returns the version of the installed package."""
    return version("pruneyard")


def artifact_files(
    job: Job, outcome: Outcome, *, attempt: int, data_fingerprint: str | None
) -> Iterator[tuple[str, Content]]:
    """Yields every file of a finished run by name.

    The manifest comes last, so that where it exists, all other files exist too. It carries the blueprint of the network,
    so that readers can rebuild the network of a run of any kind without knowing the spec of that kind.
    """
    names = list(outcome.files)
    tensors = {WEIGHTS: outcome.weights, MASKS: outcome.masks} if outcome.weights else {}
    for name, content in tensors.items():
        names.append(name)
        # safetensors refuses tensors that are not contiguous, such as channels-last weights.
        yield name, safetensors.torch.save({key: tensor.contiguous() for key, tensor in content.items()})
    yield from outcome.files.items()
    if outcome.predictions:
        splits = {s: (p.row_ids, p.labels, p.logits) for s, p in outcome.predictions.items()}
        names.append(PREDICTIONS)
        yield PREDICTIONS, predictions_file(splits, num_extra=outcome.num_extra)
    manifest = {
        "run_key": job.key,
        "attempt": attempt,
        "kind": job.kind,
        "spec": job.resolved,
        "parents": job.parents,
        **({} if data_fingerprint is None else {"data_fingerprint": data_fingerprint}),
        **({} if outcome.blueprint is None else {"network": outcome.blueprint}),
        "files": sorted(names),
        "code_version": code_version(),
    }
    yield MANIFEST, json.dumps(manifest, indent=1).encode()
