"""Ways to extract and to weigh concepts in one frame, and the strategies that a network follows.

The features of all rows, the inputs of the last layer, are approximated by coefficients times concepts: by nonnegative
factorisation (`nmf`), principal components (`pca`) or clusters (`kmeans`). Then the importance of each concept for the
probability of each row's predicted class is measured on its coefficients, by gradient times coefficient, occlusion, or total
Sobol indices.

`concept_error` is the squared error of the reconstruction relative to the variance of the features; `concept_agreement` the
share of rows whose predicted class the reconstruction keeps; `concept_sparsity` the share of coefficients that are 0;
`concept_stability` the mean cosine of the concepts of even and of odd rows, matched. `concept_deletion` and `concept_insertion`
are the areas below the probability while concepts are removed or put back, most important first; `concept_insertion_gain` is
relative to a random order.

Rows of one class with alike importances follow one strategy: their importances are clustered by Ward's method into up to
`max_strategies`, and into one if no number of clusters has a mean silhouette of 0.5. `num_strategies` is the mean over classes.
The curve `strategy` has the mean importance of every concept for each strategy, `count` its rows: the strategic cluster graph
as numbers.

Where the output is linear in the coefficients, gradient times coefficient and occlusion agree, and no order of removal has a
smaller area: `tests/workloads/probe/test_concept_probes.py`. captum attributes outputs to inputs or neurons, and knows no banks
of concepts.

Only the abstract was read. Unverified: the three extractions, the metrics except for deletion and insertion, the probability
as the output, and how strategies are clustered.

Reference: Fel et al. 2023, A Holistic Approach to Unifying Automatic Concept Extraction and Concept Importance Estimation
(arXiv:2306.07304)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import silhouette_score
from torch import Tensor

from pruneyard.workloads.networks.last_layer import last_layer, last_layer_name
from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.probe.activations import layer_inputs
from pruneyard.workloads.probe.areas import area
from pruneyard.workloads.probe.concepts import (
    EXTRACTIONS,
    Extraction,
    Score,
    class_score,
    fit_bank,
    gradient_times_coefficient,
    occlusion,
    removal_curves,
    stability,
    total_indices,
)
from pruneyard.workloads.probe.probe import Finding, Subject, check_max_samples
from pruneyard.workloads.seeding import stream
from pruneyard.workloads.user_code.nearest import nearest
from pruneyard.workloads.workload import CurvePoint

__all__ = ["HolisticConcepts"]

IMPORTANCES = ("gradient_times_coefficient", "occlusion", "sobol")
Importance = Literal["gradient_times_coefficient", "occlusion", "sobol"]
CLEAR_SILHOUETTE = 0.5  # below it, clusters are no strategies


@dataclass(frozen=True, kw_only=True)
class HolisticConcepts:
    """num_concepts: of all classes together. num_designs: of the Sobol indices, a power of 2. max_samples: test rows, evenly
    spread, from which concepts are extracted and on which they are measured.
    """

    examples: ClassVar[tuple[Settings, ...]] = (
        {"num_concepts": 3, "importance": "sobol", "num_designs": 8},
        {"num_concepts": 3, "extraction": "pca", "importance": "gradient_times_coefficient"},
        {"num_concepts": 3, "extraction": "kmeans", "importance": "occlusion"},
    )
    fewest_runs: ClassVar[int] = 1
    most_runs: ClassVar[int | None] = 1
    reads_data: ClassVar[bool] = True

    extraction: Extraction = "nmf"
    importance: Importance = "occlusion"
    num_concepts: int = 10
    num_designs: int = 64
    max_strategies: int = 4
    max_samples: int | None = 1000

    def __post_init__(self) -> None:
        for name, allowed in (("extraction", EXTRACTIONS), ("importance", IMPORTANCES)):
            if (given := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} is {given!r}; it must be one of {', '.join(allowed)}{nearest(given, allowed)}")
        for name, lowest in (("num_concepts", 2), ("max_strategies", 1)):
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {lowest} or more")
        if self.num_designs < 2 or self.num_designs & (self.num_designs - 1):
            raise ValueError(f"num_designs is {self.num_designs}; it must be a power of 2, such as 64")
        check_max_samples(self.max_samples)

    def measure(self, subjects: Sequence[Subject], *, seed: int) -> Finding:
        """Returns the metrics of the concepts.

        Raises `ValueError` for a network without features, for negative ones with `nmf`, and for too few rows.
        """
        (subject,) = subjects
        network = subject.network()
        rows = subject.on_device(subject.split("test", self.max_samples))
        if len(rows) < 2 * self.num_concepts:
            needed = 2 * self.num_concepts
            raise ValueError(f"num_concepts is {self.num_concepts}, which needs {needed} rows; there are {len(rows)}")
        own = layer_inputs(network, rows)[last_layer_name(network)].double()
        bank = fit_bank(own, self.num_concepts, extraction=self.extraction, seed=seed)
        coefficients = bank.coefficients(own)
        layer = last_layer(network)
        with torch.no_grad():
            classes, kept = (
                layer(found.float().to(subject.device))[:, : subject.num_classes].argmax(dim=1).cpu()
                for found in (own, bank.reconstructed(coefficients))
            )
        score = class_score(network, bank, classes, num_classes=subject.num_classes)
        importance = self._importance(score, coefficients, seed=seed)
        deletion, insertion = removal_curves(score, coefficients, importance)
        at_random = torch.rand(coefficients.shape, generator=stream(seed, "holistic_concepts"))
        _, of_random = removal_curves(score, coefficients, at_random)
        strategies = {
            int(label): self._strategies(importance[classes == label].numpy()) for label in classes.unique(sorted=True)
        }
        metrics = {
            "concept_error": bank.error(own, coefficients),
            "concept_agreement": float((classes == kept).double().mean()),
            "concept_sparsity": float((coefficients.abs() < 1e-9).double().mean()),
            "concept_stability": stability(own, self.num_concepts, extraction=self.extraction, seed=seed),
            "concept_deletion": area(deletion),
            "concept_insertion": area(insertion),
            "concept_insertion_gain": area(insertion) - area(of_random),
            "num_strategies": float(np.mean([found.max() for found in strategies.values()])),
        }
        curves = _curves(deletion, insertion, len(rows)) + [
            point
            for label, found in strategies.items()
            for point in _points(subject.data.classes[label], found, importance[classes == label])
        ]
        return Finding(metrics={("concepts", name): value for name, value in metrics.items()}, curves=tuple(curves))

    def _importance(self, score: Score, coefficients: Tensor, *, seed: int) -> Tensor:
        match self.importance:
            case "gradient_times_coefficient":
                return gradient_times_coefficient(score, coefficients)
            case "occlusion":
                return occlusion(score, coefficients)
            case "sobol":
                return total_indices(score, coefficients, num_designs=self.num_designs, seed=seed)

    def _strategies(self, importance: np.ndarray) -> np.ndarray:
        """Returns the number of the strategy of every row of importances (N, R), from 1: (N,)."""
        sizes = np.abs(importance).sum(axis=1, keepdims=True)
        return strategies_of(np.divide(importance, sizes, out=np.zeros_like(importance), where=sizes > 0), self.max_strategies)


def strategies_of(points: np.ndarray, most: int) -> np.ndarray:
    """Returns the cluster of every point (N, R), from 1: as many clusters, up to `most`, as have the largest mean silhouette.

    One cluster if the largest is below `CLEAR_SILHOUETTE`.
    """
    best, found = CLEAR_SILHOUETTE, np.ones(len(points), dtype=int)
    if len(points) < 3:
        return found
    tree = linkage(points, method="ward")
    for num in range(2, min(most, len(points) - 1) + 1):
        clusters = fcluster(tree, num, criterion="maxclust")
        if len(set(clusters)) > 1 and (silhouette := float(silhouette_score(points, clusters))) >= best:
            best, found = silhouette, clusters
    return found


def _curves(deletion: Tensor, insertion: Tensor, count: int) -> list[CurvePoint]:
    return [
        CurvePoint(name=name, step=1, key="concepts", x=place / (len(values) - 1), y=float(value), count=count)
        for name, values in (("concept_deletion", deletion), ("concept_insertion", insertion))
        for place, value in enumerate(values)
    ]


def _points(name: str, strategies: np.ndarray, importance: Tensor) -> list[CurvePoint]:
    return [
        CurvePoint(name="strategy", step=1, key=f"{name} {number}", x=float(concept), y=float(value), count=int(own.sum()))
        for number in range(1, strategies.max() + 1)
        for own in [strategies == number]
        for concept, value in enumerate(importance[torch.from_numpy(own)].mean(dim=0))
    ]
