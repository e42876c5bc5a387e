"""Orchestrator/artifacts/writer.py."""

from typing import Any

from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.nodes.graph import Graph


def _described(data: Dataset | Graph) -> dict[str, Any]:
    """What a network that was trained on the data wants to see, and which data they were; of a graph, only that."""
    which = {"data_fingerprint": data.fingerprint}
    if isinstance(data, Graph):
        return which
    return {**which, "image_shape": data.image_shape, "mean": data.mean, "std": data.std}
