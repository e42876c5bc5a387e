"""Names and encodes the files of a finished run: network, masks, predictions and the manifest."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

import safetensors.torch

from pruneyard.orchestrator.spec.job import Job
from pruneyard.reports.durable import Content
from pruneyard.reports.predictions import FILE, predictions_file
from pruneyard.workloads.workload import Outcome

MANIFEST = "manifest.json"
WEIGHTS, MASKS, PREDICTIONS = "model.safetensors", "masks.safetensors", FILE


@cache
def code_version() -> str:
    """Returns the version of the installed package."""
    return version("pruneyard")


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Returns the digest of a manifest, its own `digest` left out."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def encode_manifest(manifest: Mapping[str, Any]) -> bytes:
    """Returns the content of a manifest file, with its digest."""
    # A round trip, because the digest is compared with that of what was read: tuples come back as lists.
    content = json.loads(json.dumps(manifest))
    # A line for each key; `indent` would leave the fast encoder.
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in {**content, "digest": manifest_digest(content)}.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def artifact_files(
    job: Job, outcome: Outcome, *, attempt: int, data_fingerprint: str | None, data_read: Mapping[str, str]
) -> Iterator[tuple[str, Content]]:
    """Yields every file of a finished run by name.

    The manifest comes last, so that where it exists, all other files exist too. It carries their digests, and the blueprint of
    the network, so that readers can rebuild the network of a run of any kind without knowing the spec of that kind.
    """
    digests: dict[str, str] = {}
    for name, content in _files(outcome):
        digests[name] = hashlib.sha256(content).hexdigest()
        yield name, content
    manifest = {
        "run_key": job.key,
        "attempt": attempt,
        "kind": job.kind,
        "spec": job.resolved,
        "parents": job.parents,
        **({} if data_fingerprint is None else {"data_fingerprint": data_fingerprint}),
        **({"data_read": data_read} if data_read else {}),
        **({} if outcome.blueprint is None else {"network": outcome.blueprint}),
        "files": sorted(digests),
        "sha256": digests,
        "code_version": code_version(),
    }
    yield MANIFEST, encode_manifest(manifest)


def _files(outcome: Outcome) -> Iterator[tuple[str, Content]]:
    tensors = {WEIGHTS: outcome.weights, MASKS: outcome.masks} if outcome.weights else {}
    for name, content in tensors.items():
        # safetensors refuses tensors that are not contiguous, such as channels-last weights.
        yield name, safetensors.torch.save({key: tensor.contiguous() for key, tensor in content.items()})
    yield from outcome.files.items()
    if outcome.predictions:
        splits = {s: (p.row_ids, p.labels, p.logits) for s, p in outcome.predictions.items()}
        yield PREDICTIONS, predictions_file(splits, num_extra=outcome.num_extra)
