"""Evidence from no network or a small one: rows of well separated classes, and OOD rows."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pruneyard.workloads.calibrate.evidence import Evidence, Floats, LastLayer, evidence_of
from pruneyard.workloads.calibrate.score import Score
from pruneyard.workloads.data.dataset import Split
from pruneyard.workloads.networks.finished import Blueprint, FinishedNetwork
from pruneyard.workloads.plugins import find

SHAPE = (2, 3, 3)


def evidence_of_features(features: ArrayLike, weight: ArrayLike, bias: ArrayLike, **fields: Any) -> Evidence:
    """Returns evidence with these inputs and weights of the last layer, in float64, so that logits are exact."""
    h, w, b = (np.asarray(array, dtype=np.float64) for array in (features, weight, bias))
    return Evidence(logits=h @ w.T + b, last_layer=LastLayer(features=h, weight=w, bias=b), **fields)


def random_evidence(
    num_rows: int = 40, *, width: int = 6, num_classes: int = 3, num_extra: int = 0, seed: int = 0
) -> Evidence:
    """Returns evidence of non-negative features around class means, under a layer that favours these means; float64."""
    layer, rows = np.random.default_rng(1), np.random.default_rng(100 + seed)
    means = 3 * layer.random((num_classes, width))
    weight = layer.normal(size=(num_classes + num_extra, width))
    weight[:num_classes] += means
    labels = np.arange(num_rows) % num_classes
    features = np.maximum(means[labels] + 0.5 * rows.normal(size=(num_rows, width)), 0)
    return evidence_of_features(
        features, weight, layer.normal(size=num_classes + num_extra), labels=labels, num_extra=num_extra
    )


def evidence_of_logits(logits: ArrayLike, **fields: Any) -> Evidence:
    return Evidence(logits=np.asarray(logits, dtype=np.float64), **fields)


def network(
    model: Mapping[str, Any] | None = None, *, num_outputs: int = 3, seed: int = 0
) -> FinishedNetwork:
    """Returns a random network for images of `SHAPE`."""
    table = dict(model or {"name": "mlp", "width": 5, "depth": 1})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fields = {key: value for key, value in table.items() if key != "name"}
        module = find("models", table["name"])(**fields).build(image_shape=SHAPE, num_classes=num_outputs)
    channels = SHAPE[0]
    blueprint = Blueprint(
        model=table,
        image_shape=SHAPE,
        num_outputs=num_outputs,
        mean=(0.4, 0.6)[:channels],
        std=(0.25, 0.5)[:channels],
    )
    return FinishedNetwork.of(blueprint, weights=module.state_dict(), masks={})


def images(num_rows: int = 20, *, num_classes: int = 3, seed: int = 0) -> Split:
    """Returns random pixels, with labels that run through the classes."""
    pixels = np.random.default_rng(seed).integers(0, 256, size=(num_rows, *SHAPE), dtype=np.uint8)
    return Split.from_arrays(pixels, np.arange(num_rows) % num_classes)


def network_evidence(num_rows: int = 20, *, num_extra: int = 0, seed: int = 0) -> Evidence:
    """Returns all evidence of a random network for random images, including the network."""
    return evidence_of(
        network(num_outputs=3 + num_extra), images(num_rows, seed=seed), num_extra=num_extra, batch_size=7
    )


def num_pixels() -> int:
    return math.prod(SHAPE)


def select_rows(evidence: Evidence, rows: NDArray[np.int64]) -> Evidence:
    """Returns some rows of the evidence, without the network."""
    layer = evidence.last_layer
    last_layer = (
        None
        if layer is None
        else LastLayer(features=layer.features[rows], weight=layer.weight, bias=layer.bias)
    )
    labels = None if evidence.labels is None else evidence.labels[rows]
    return Evidence(
        logits=evidence.logits[rows], num_extra=evidence.num_extra, labels=labels, last_layer=last_layer
    )


def score_rows(score: Score, rows: Evidence, *, train: Evidence | None = None) -> Floats:
    return score.fit(train, seed=0).score(rows)
