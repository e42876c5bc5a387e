"""Concepts: directions of a layer's activations that rows are combinations of, and how much an output depends on each.

Activations (N, F) are approximated by coefficients (N, R) times the vectors of a bank (R, F), plus its centre. Importance is
measured on the coefficients: a score says what an output is for other coefficients than those of a row.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment, nnls
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn
from torch.quasirandom import SobolEngine

from pruneyard.workloads.networks.last_layer import last_layer
from pruneyard.workloads.seeding import stream_seed

EXTRACTIONS = ("nmf", "pca", "kmeans")
Extraction = Literal["nmf", "pca", "kmeans"]
Score = Callable[[Tensor], Tensor]
"""Returns the output (N, T) of every row for each of T variants of its coefficients, (N, T, R)."""


@dataclass(frozen=True, kw_only=True)
class Bank:
    """vectors: (R, F) float64. centre: (F,), the mean of the activations for `pca`, else 0. Tensors are on the CPU."""

    extraction: Extraction
    vectors: Tensor
    centre: Tensor

    def coefficients(self, activations: Tensor) -> Tensor:
        """Returns the coefficients (N, R) of activations (N, F) that reconstruct them best.

        Those of `nmf` are not negative, and those of `kmeans` 1 for the nearest vector and 0 for the others.
        """
        match self.extraction:
            case "nmf":
                return nonnegative(activations, self.vectors)
            case "pca":
                return (activations - self.centre) @ self.vectors.T
            case "kmeans":
                nearest = torch.cdist(activations, self.vectors).argmin(dim=1)
                return torch.nn.functional.one_hot(nearest, len(self.vectors)).to(activations.dtype)

    def reconstructed(self, coefficients: Tensor) -> Tensor:
        """Returns the activations (..., F) that coefficients (..., R) stand for."""
        return coefficients @ self.vectors + self.centre

    def error(self, activations: Tensor, coefficients: Tensor) -> float:
        """Returns the squared error of the reconstruction relative to the variance of the activations."""
        left = (activations - self.reconstructed(coefficients)).square().sum()
        around = (activations - activations.mean(dim=0)).square().sum()
        return float(left / around.clamp(min=1e-12))


def fit_bank(activations: Tensor, num: int, *, extraction: Extraction, seed: int) -> Bank:
    """Returns a bank of `num` concepts of activations (N, F) float64. Raises `ValueError` for negative ones and `nmf`."""
    zero = torch.zeros(activations.shape[1], dtype=activations.dtype)
    number = stream_seed(seed, f"concepts/{extraction}") % 2**32
    match extraction:
        case "nmf":
            if activations.min() < 0:
                raise ValueError("activations are negative, which nmf cannot factorise; choose pca or kmeans")
            model = NMF(n_components=num, init="nndsvda", random_state=number, max_iter=500)
            with warnings.catch_warnings():
                # Coefficients are solved for exactly afterwards, so a bank that could still improve a little will do.
                warnings.simplefilter("ignore", ConvergenceWarning)
                vectors = torch.from_numpy(model.fit(activations.numpy()).components_)
            return Bank(extraction=extraction, vectors=vectors, centre=zero)
        case "pca":
            centre = activations.mean(dim=0)
            _, _, right = torch.linalg.svd(activations - centre, full_matrices=False)
            return Bank(extraction=extraction, vectors=right[:num], centre=centre)
        case "kmeans":
            model = KMeans(n_clusters=num, n_init=4, random_state=number).fit(activations.numpy())
            return Bank(extraction=extraction, vectors=torch.from_numpy(model.cluster_centers_), centre=zero)


def nonnegative(activations: Tensor, vectors: Tensor) -> Tensor:
    """Returns the coefficients (N, R), none below 0, of the least squares of activations (N, F) on vectors (R, F)."""
    basis = vectors.T.numpy()
    return torch.from_numpy(np.stack([nnls(basis, row)[0] for row in activations.numpy()]))


def coefficient_gradient(coefficients: Tensor, vectors: Tensor, concept: int) -> Tensor:
    """Returns the derivative (N, F) of one coefficient of `nonnegative` by the activations, by implicit differentiation.

    Where the coefficients above 0 stay above 0, they solve linear equations of the vectors in use; the others do not move.
    """
    found = torch.zeros(len(coefficients), vectors.shape[1], dtype=vectors.dtype)
    for place, row in enumerate(coefficients):
        used = (row > 0).nonzero().flatten()
        if row[concept] > 0:
            own = vectors[used]
            unit = (used == concept).to(vectors.dtype)
            # The pseudoinverse, since vectors may be parallel.
            found[place] = unit @ torch.linalg.pinv(own @ own.T) @ own
    return found


def stability(activations: Tensor, num: int, *, extraction: Extraction, seed: int) -> float:
    """Returns the mean cosine of the concepts of even and of odd rows, matched to each other; signs of `pca` do not count."""
    one, other = (fit_bank(activations[start::2], num, extraction=extraction, seed=seed).vectors for start in (0, 1))
    # Vectors of 0 have no direction, and match nothing.
    cosines = torch.nn.functional.normalize(one) @ torch.nn.functional.normalize(other).T
    found = (cosines.abs() if extraction == "pca" else cosines).numpy()
    return float(found[linear_sum_assignment(found, maximize=True)].mean())


def class_score(network: nn.Module, bank: Bank, classes: Tensor, *, num_classes: int) -> Score:
    """Returns the probability of the class of each row, (N,), where coefficients replace the inputs of the last layer."""
    layer = last_layer(network)
    device = next(layer.parameters()).device

    def score(variants: Tensor) -> Tensor:
        with torch.set_grad_enabled(variants.requires_grad):
            logits = layer(bank.reconstructed(variants).float().to(device))[..., :num_classes]
            probabilities: Tensor = logits.double().cpu().softmax(dim=-1)
            return probabilities.gather(2, classes[:, None, None].expand(-1, variants.shape[1], 1))[..., 0]

    return score


def gradient_times_coefficient(score: Score, coefficients: Tensor) -> Tensor:
    """Returns the importance (N, R) of every concept to first order."""
    leaf = coefficients[:, None, :].clone().requires_grad_()
    (found,) = torch.autograd.grad(score(leaf).sum(), leaf)
    return (leaf.detach() * found)[:, 0]


def occlusion(score: Score, coefficients: Tensor) -> Tensor:
    """Returns by how much the output falls where one coefficient becomes 0, (N, R)."""
    num = coefficients.shape[1]
    without = coefficients[:, None, :] * (1 - torch.eye(num, dtype=coefficients.dtype))
    return score(coefficients[:, None, :]) - score(without)


def total_indices(score: Score, coefficients: Tensor, *, num_designs: int, seed: int) -> Tensor:
    """Returns the total Sobol index of every concept, (N, R): the share of the output's variance in which it takes part.

    Coefficients are multiplied by independent uniform numbers, from a scrambled Sobol sequence; the estimator is that of Jansen
    1999, which SciPy has too (`scipy.stats.sobol_indices`), for one function at a time. 0 where the output does not vary.
    """
    num = coefficients.shape[1]
    engine = SobolEngine(2 * num, scramble=True, seed=stream_seed(seed, "concepts/sobol") % 2**31)
    points = engine.draw(num_designs, dtype=coefficients.dtype)
    one, other = points[:, :num], points[:, num:]

    def outputs(masks: Tensor) -> Tensor:
        return score(coefficients[:, None, :] * masks)

    of_one, of_other = outputs(one), outputs(other)
    variance = torch.cat((of_one, of_other), dim=1).var(dim=1, correction=0)
    parts = []
    for concept in range(num):
        exchanged = one.clone()
        exchanged[:, concept] = other[:, concept]
        parts.append((of_one - outputs(exchanged)).square().mean(dim=1) / 2)
    found = torch.stack(parts, dim=1)
    return torch.where(variance[:, None] > 1e-15, found / variance[:, None].clamp(min=1e-15), 0.0)


def removal_curves(score: Score, coefficients: Tensor, importance: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean output while concepts are removed, and while they are put back, most important first: two of (R + 1,)."""
    order = importance.argsort(dim=1, descending=True, stable=True)
    places = order.argsort(dim=1)
    counts = torch.arange(coefficients.shape[1] + 1)[None, :, None]
    inserted = (places[:, None, :] < counts).to(coefficients.dtype)
    deletion, insertion = (score(coefficients[:, None, :] * kept).mean(dim=0) for kept in (1 - inserted, inserted))
    return deletion, insertion
