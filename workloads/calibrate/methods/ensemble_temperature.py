"""Ensemble temperature scaling (ETS): mixes temperature-scaled, original and uniform probabilities.

Reference: Zhang, Kailkhura and Han 2020, Mix-n-Match (ICML, arXiv:2003.07329)

p = w1 softmax(z / T) + w2 softmax(z) + w3 / C with non-negative weights that sum to 1. T is fitted first, as by
`temperature`, then the weights, both by NLL, which is convex in the weights (the authors' code minimises squared error in
both). With w = (1, 0, 0) it equals temperature scaling, whose NLL on the calibration rows it never exceeds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

from pruneyard.workloads.calibrate.calibrator import (
    Fitted,
    Floats,
    Labels,
    PostHoc,
    in_one_order,
    keeping_argmax,
    row_blocks,
)
from pruneyard.workloads.calibrate.temperature_fit import fit_temperature

__all__ = ["EnsembleTemperature"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedEnsembleTemperature(Fitted):
    """The temperature and the three mixture weights."""

    temperature: Floats  # ()
    at_bound: NDArray[np.int64]  # (): -1, 0 or 1
    weights: Floats  # (3,): of scaled, original and uniform probabilities

    @property
    def numbers(self) -> Mapping[str, float]:
        """The temperature, whether it is a bound, and the mixture weights."""
        scaled, plain, uniform = self.weights.tolist()
        return {
            "temperature": float(self.temperature),
            "temperature_at_bound": float(self.at_bound),
            "weight_scaled": scaled,
            "weight_plain": plain,
            "weight_uniform": uniform,
        }

    def _map(self, logits_MC: Floats) -> Floats:
        parts_3MC = log_parts(logits_MC, float(self.temperature))
        mixed_MC = logsumexp(parts_3MC, axis=0, b=self.weights[:, None, None])
        mixed_MC -= logsumexp(mixed_MC, axis=1, keepdims=True)  # weights sum to 1 only up to rounding
        return keeping_argmax(mixed_MC, logits_MC)


@dataclass(frozen=True, kw_only=True)
class EnsembleTemperature(PostHoc):
    """Ensemble temperature scaling."""

    becomes: ClassVar[type[Fitted]] = FittedEnsembleTemperature

    def never_raises_nll(self, num_classes: int) -> bool:
        """Returns True: the identity is one of the maps, and the fit minimises the NLL."""
        return True

    @property
    def keeps_argmax(self) -> bool:
        """True: every part preserves the order of the logits or is constant."""
        return True

    def _fit(self, logits_NC: Floats, labels_N: Labels, *, seed: int) -> FittedEnsembleTemperature:
        logits_NC, labels_N = in_one_order(logits_NC, labels_N)
        fit = fit_temperature(logits_NC, labels_N)
        blocks = row_blocks(logits_NC)
        ends = np.cumsum([len(block) for block in blocks])[:-1]
        at_label_3N = np.concatenate(
            [
                log_parts(block, fit.temperature)[:, np.arange(len(block)), labels]
                for block, labels in zip(blocks, np.split(labels_N, ends), strict=True)
            ],
            axis=1,
        )
        return FittedEnsembleTemperature(
            num_classes=np.array(logits_NC.shape[1]),
            temperature=np.array(fit.temperature),
            at_bound=np.array(fit.at_bound),
            weights=best_weights(at_label_3N),
        )


def log_parts(logits_NC: Floats, temperature: float) -> Floats:
    """Returns log-probabilities `(3, N, C)` of the scaled, the original and the uniform part."""
    uniform_NC = np.full(logits_NC.shape, -np.log(logits_NC.shape[1]))
    return np.stack(
        [log_softmax(logits_NC / temperature, axis=1), log_softmax(logits_NC, axis=1), uniform_NC]
    )


def best_weights(log_parts_3N: Floats) -> Floats:
    """Returns simplex weights `(3,)` that minimise mean -log(sum of weight * part), from log-probabilities of the labels."""
    # A factor per row adds a constant to the NLL, and with it at least one part of each row does not underflow.
    relative_3N = np.exp(log_parts_3N - log_parts_3N.max(axis=0))

    def nll(weights_3: Floats) -> float:
        with np.errstate(divide="ignore"):
            return float(-np.log(weights_3 @ relative_3N).mean())

    # At weights on the border the mixture of a row may be 0; the floor keeps its logarithm and the gradient finite.
    inner = minimize(
        lambda weights_3: float(-np.log(np.maximum(weights_3 @ relative_3N, np.finfo(float).tiny)).mean()),
        np.full(3, 1 / 3),
        jac=lambda weights_3: (
            -(relative_3N / np.maximum(weights_3 @ relative_3N, np.finfo(float).tiny)).mean(axis=1)
        ),
        method="SLSQP",
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda weights_3: weights_3.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    found_3 = np.clip(inner.x, 0, 1)
    # The corners as well: the first one is temperature scaling, which the result must not be worse than.
    return np.asarray(min([*np.eye(3), found_3 / found_3.sum()], key=nll))
