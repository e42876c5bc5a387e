"""Concepts of predicted classes: what they are made of, how much they matter, and where they are.

For every predicted class with enough rows, the features, the inputs of the last layer, are factorised into nonnegative
concepts. The importance of a concept is its total Sobol index: the share of the variance of the class's probability in which it
takes part while all coefficients are scaled at random. The most important concept is taken apart in the layer before, whose
inputs on the half of the rows that have most of it are factorised again. Its attribution map is the gradient times input of its
coefficient by the pixels, through the factorisation by implicit differentiation.

Metrics are means over classes. `concept_error` is the squared error of the reconstruction relative to the features' variance;
`concept_importance_top` the share of the largest index; `concept_deletion` the area below the probability while concepts are
removed from the most important one, `concept_deletion_gain` that of a random order minus it; `concept_parts` the share of the
variance of the top concept's coefficient that is linear in its parts in the layer before; `concept_map_gain` the area below the
coefficient while pixels are put back in the order of the map, minus that in a random order, relative to the whole image. The
curve `concept_importance` has the index of every concept of every class.

captum knows concepts that are given by examples (TCAV), and finds none. The factorisation is scikit-learn's.

Only the abstract was read. Unverified: whole images instead of parts of images as the rows of the factorisation, the
probability as the output, one level of recursion, and the layer before as where it leads.

Reference: Fel et al. 2023, CRAFT: Concept Recursive Activation FacTorization for Explainability (arXiv:2211.10154)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pruneyard.workloads.networks.features import features
from pruneyard.workloads.networks.last_layer import last_layer_name
from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.probe.activations import layer_inputs
from pruneyard.workloads.probe.areas import area
from pruneyard.workloads.probe.concepts import (
    Bank,
    class_score,
    coefficient_gradient,
    fit_bank,
    removal_curves,
    total_indices,
)
from pruneyard.workloads.probe.probe import BATCH_SIZE, Finding, Subject, check_max_samples
from pruneyard.workloads.probe.saliency import attribute, keep, magnitude, places_kept
from pruneyard.workloads.seeding import stream
from pruneyard.workloads.workload import CurvePoint

__all__ = ["Craft"]

MAP_STEPS = 8


@dataclass(frozen=True, kw_only=True)
class Craft:
    """num_concepts: of every class. num_designs: of the Sobol indices, a power of 2. max_samples: test rows, evenly spread."""

    examples: ClassVar[tuple[Settings, ...]] = ({"num_concepts": 2, "num_designs": 8},)
    fewest_runs: ClassVar[int] = 1
    most_runs: ClassVar[int | None] = 1
    reads_data: ClassVar[bool] = True

    num_concepts: int = 5
    num_designs: int = 64
    max_samples: int | None = 1000

    def __post_init__(self) -> None:
        if self.num_concepts < 2:
            raise ValueError(f"num_concepts is {self.num_concepts}; it must be 2 or more")
        if self.num_designs < 2 or self.num_designs & (self.num_designs - 1):
            raise ValueError(f"num_designs is {self.num_designs}; it must be a power of 2, such as 64")
        check_max_samples(self.max_samples)

    def measure(self, subjects: Sequence[Subject], *, seed: int) -> Finding:
        """Returns the concepts of all classes.

        Raises `ValueError` for a network without features or with negative ones, and if no class is predicted often enough.
        """
        (subject,) = subjects
        network = subject.network()
        rows = subject.on_device(subject.split("test", self.max_samples))
        images = torch.cat([batch for batch, _ in rows.batches(BATCH_SIZE)])
        inputs = {name: found.double() for name, found in layer_inputs(network, rows).items()}
        own = inputs.pop(last_layer_name(network))
        if own.min() < 0:
            known = "holistic_concepts with extraction pca takes such features"
            raise ValueError(f"features of {subject.run.run_key} are negative, which has no nonnegative factorisation; {known}")
        # The first layer reads pixels, which are no activations.
        before = next((found for found in reversed(list(inputs.values())[1:]) if found.min() >= 0), None)
        with torch.no_grad():
            logits = torch.cat([network(part)[:, : subject.num_classes].cpu() for part in images.split(BATCH_SIZE)])
        predicted = logits.argmax(dim=1)
        wanted = 2 * self.num_concepts
        common = [label for label in range(subject.num_classes) if int((predicted == label).sum()) >= wanted]
        if not common:
            raise ValueError(f"no class is predicted for {wanted} of {len(rows)} rows, which {self.num_concepts} concepts need")
        found: dict[str, list[float]] = {}
        curves: list[CurvePoint] = []
        for label in common:
            chosen = predicted == label
            part = _Class(
                label=label,
                images=images[chosen.to(images.device)],
                features=own[chosen],
                before=None if before is None else before[chosen],
                num_classes=subject.num_classes,
            )
            values, indices = self._of_class(network, part, seed=seed)
            for name, value in values.items():
                found.setdefault(name, []).append(value)
            curves += _points(subject.data.classes[label], indices, count=int(chosen.sum()))
        metrics = {("concepts", name): sum(values) / len(values) for name, values in found.items()}
        return Finding(metrics=metrics, curves=tuple(curves))

    def _of_class(self, network: nn.Module, part: "_Class", *, seed: int) -> tuple[dict[str, float], Tensor]:
        """Returns the metrics of one class, and the total index of every concept, (R,)."""
        bank = fit_bank(part.features, self.num_concepts, extraction="nmf", seed=seed)
        coefficients = bank.coefficients(part.features)
        labels = torch.full((len(coefficients),), part.label)
        score = class_score(network, bank, labels, num_classes=part.num_classes)
        indices = total_indices(score, coefficients, num_designs=self.num_designs, seed=seed).mean(dim=0)
        generator = stream(seed, "craft", part.label)
        at_random = torch.rand(coefficients.shape, generator=generator)
        deletion, _ = removal_curves(score, coefficients, indices.expand_as(coefficients))
        of_random, _ = removal_curves(score, coefficients, at_random)
        total, top = float(indices.sum()), int(indices.argmax())
        values = {
            "concept_error": bank.error(part.features, coefficients),
            "concept_deletion": area(deletion),
            "concept_deletion_gain": area(of_random) - area(deletion),
        }
        if total > 0:
            values["concept_importance_top"] = float(indices[top]) / total
        if part.before is not None:
            parts = self._parts(coefficients[:, top], part.before, seed=seed)
            values |= {} if parts is None else {"concept_parts": parts}
        if (coefficients[:, top] > 0).any():
            values["concept_map_gain"] = _map_gain(network, bank, coefficients, top, part.images, generator)
        return values, indices

    def _parts(self, coefficient: Tensor, before: Tensor, *, seed: int) -> float | None:
        """Returns the share of the variance of a concept's coefficient (N,) that its parts in the layer before explain linearly.

        The parts are fitted on the half of the rows that have most of the concept. None if the coefficient does not vary.
        """
        most = coefficient.argsort(descending=True, stable=True)[: max(self.num_concepts, len(coefficient) // 2)]
        around = (coefficient - coefficient.mean()).square().sum()
        if around < 1e-12 or before[most].max() <= 0:
            return None
        parts = fit_bank(before[most], self.num_concepts, extraction="nmf", seed=seed).coefficients(before)
        inputs = torch.cat((parts, torch.ones(len(parts), 1, dtype=parts.dtype)), dim=1)
        # By the pseudoinverse, since a part may be absent from all rows.
        left = coefficient - inputs @ (torch.linalg.pinv(inputs) @ coefficient)
        return float(1 - left.square().sum() / around)


@dataclass(frozen=True, kw_only=True)
class _Class:
    """The rows predicted as one class: images (N, ...) on the device, features and inputs of the layer before on the CPU."""

    label: int
    images: Tensor
    features: Tensor
    before: Tensor | None
    num_classes: int


def concept_maps(network: nn.Module, images: Tensor, gradients: Tensor) -> Tensor:
    """Returns the attribution of every place, (N, P); gradients: (N, F), derivatives of a coefficient by the features."""
    leaf = images.detach().clone().requires_grad_()
    outputs = (features(network, leaf) * gradients.to(leaf)).sum()
    (found,) = torch.autograd.grad(outputs, leaf)
    return magnitude(leaf.detach() * found)


def _map_gain(
    network: nn.Module, bank: Bank, coefficients: Tensor, concept: int, images: Tensor, generator: torch.Generator
) -> float:
    """Returns the area of the relative coefficient below insertion by the map, minus that in a random order."""
    has = coefficients[:, concept] > 0
    own, values = images[has.to(images.device)], coefficients[has]
    maps = concept_maps(network, own, coefficient_gradient(values, bank.vectors, concept))
    control = attribute(network, own, torch.zeros(len(own)), method="random", num_steps=1, generator=generator)
    areas = []
    for ranked in (maps, control):
        curve = []
        for step in range(MAP_STEPS + 1):
            with torch.no_grad():
                inserted = features(network, keep(own, places_kept(ranked, step / MAP_STEPS))).double().cpu()
            curve.append(float(bank.coefficients(inserted)[:, concept].sum() / values[:, concept].sum()))
        areas.append(area(torch.tensor(curve, dtype=torch.float64)))
    return areas[0] - areas[1]


def _points(name: str, indices: Tensor, *, count: int) -> list[CurvePoint]:
    return [
        CurvePoint(name="concept_importance", step=1, key=name, x=float(place), y=float(value), count=count)
        for place, value in enumerate(indices)
    ]


