"""Parameterised temperature scaling (PTS): a small network on the logits predicts a temperature for every row.

Reference: Tomani, Cremers and Buettner 2022, Parameterized Temperature Scaling (ECCV, arXiv:2102.12182)

The network sees the `num_top` largest logits minus the row's mean, each standardised over the calibration rows, through
`num_layers` layers of `width` units (sizes said to be the paper's: unverified) and is fitted by least squared
error to the one-hot label plus `l2` * (sum of squared weights), as in the authors' code. This implementation differs: T(x)
= T * (0.05 + 0.95 softplus(out) / softplus(0)), with T of temperature scaling, so that it starts there and T(x)
is never 0 nor without gradient; tanh units bound T(x) far from all calibration rows; L-BFGS on all rows from weights sampled
with the seed makes the fit deterministic.

With fewer rows than parameters (91 with the defaults and ten classes or more) the network overfits, and a warning is logged: the
penalty is the published one, whatever the number of rows. Use `temperature` there.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax

from pruneyard.workloads.calibrate.calibrator import (
    Fitted,
    Floats,
    Labels,
    PostHoc,
    in_one_order,
    keeping_argmax,
    ranked,
)
from pruneyard.workloads.calibrate.common_scale import warn_of_few_rows
from pruneyard.workloads.calibrate.temperature_fit import fit_temperature
from pruneyard.workloads.seeding import stream_seed

__all__ = ["ParameterisedTemperature"]

FLOOR = 0.05  # smallest temperature of a row, relative to the common temperature


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedParameterisedTemperature(Fitted):
    """The common temperature and the network that scales it per row."""

    temperature: Floats  # (), the common one
    centre: Floats  # (F,) of the features
    scale: Floats  # (F,)
    sizes: np.ndarray  # (layers + 2,): units from the features to the one output
    parameters: Floats  # (P,): of each layer the weights (in, out), then the biases

    @property
    def numbers(self) -> Mapping[str, float]:
        """The common temperature."""
        return {"temperature": float(self.temperature)}

    def temperatures(self, logits_MC: Floats) -> Floats:
        """Returns the temperature of every row, `(M,)`."""
        features_MF = (top_logits(logits_MC, len(self.centre)) - self.centre) / self.scale
        out_M = forward(features_MF, layers_of(self.parameters, self.sizes))[-1][:, 0]
        return np.asarray(self.temperature * factor(out_M))

    def _map(self, logits_MC: Floats) -> Floats:
        return keeping_argmax(
            log_softmax(logits_MC / self.temperatures(logits_MC)[:, None], axis=1), logits_MC
        )


@dataclass(frozen=True, kw_only=True)
class ParameterisedTemperature(PostHoc):
    """Parameterised temperature scaling."""

    num_top: int = 10  # number of largest logits as network inputs; all of them if there are fewer
    num_layers: int = 2
    width: int = 5
    l2: float = 3e-3  # of the mean squared error, per squared weight
    max_steps: int = 300  # of L-BFGS

    becomes: ClassVar[type[Fitted]] = FittedParameterisedTemperature

    def __post_init__(self) -> None:
        for name, least in (("num_top", 2), ("num_layers", 1), ("width", 1), ("max_steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {least} or more")
        if not 0 <= self.l2 < float("inf"):
            raise ValueError(f"l2 is {self.l2}; it must be 0 or more, and finite")

    @property
    def keeps_argmax(self) -> bool:
        """True: all logits of a row are divided by one positive number."""
        return True

    def _fit(self, logits_NC: Floats, labels_N: Labels, *, seed: int) -> FittedParameterisedTemperature:
        # The network sees sorted logits only, so the fit depends neither on the order of rows nor on that of classes.
        logits_NC, labels_N = in_one_order(*ranked(logits_NC, labels_N))
        temperature = fit_temperature(logits_NC, labels_N).temperature
        features_NF = top_logits(logits_NC, self.num_top)
        centre_F, scale_F = features_NF.mean(axis=0), features_NF.std(axis=0)
        # A feature that is the same in all rows becomes 0 instead of 0 / 0.
        scale_F[scale_F == 0] = 1.0
        features_NF = (features_NF - centre_F) / scale_F
        sizes = np.array([len(centre_F), *[self.width] * self.num_layers, 1])
        start_P = initial_parameters(sizes, seed)
        warn_of_few_rows("a temperature network", len(start_P), len(labels_N))
        found = minimize(
            self._loss_and_gradient,
            start_P,
            args=(sizes, features_NF, logits_NC / temperature, labels_N),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": self.max_steps},
        )
        return FittedParameterisedTemperature(
            num_classes=np.array(logits_NC.shape[1]),
            temperature=np.array(temperature),
            centre=centre_F,
            scale=scale_F,
            sizes=sizes,
            parameters=found.x,
        )

    def _loss_and_gradient(
        self, parameters: Floats, sizes: np.ndarray, features_NF: Floats, scaled_NC: Floats, labels_N: Labels
    ) -> tuple[float, Floats]:
        """Returns the mean squared distance to the one-hot label plus the penalty, and its gradient `(P,)`."""
        layers, rows_N = layers_of(parameters, sizes), np.arange(len(labels_N))
        units = forward(features_NF, layers)
        out_N = units[-1][:, 0]
        factor_N = factor(out_N)
        p_NC = softmax(scaled_NC / factor_N[:, None], axis=1)
        errors_NC = p_NC.copy()
        errors_NC[rows_N, labels_N] -= 1
        loss = float((errors_NC**2).sum(axis=1).mean())
        centred_NC = p_NC * (scaled_NC - (p_NC * scaled_NC).sum(axis=1, keepdims=True))  # dp / d(1 / factor)
        by_factor_N = 2 * (errors_NC * centred_NC).sum(axis=1) * -(factor_N**-2) / len(labels_N)
        # (N, 1): gradient in the network's output; expit is the derivative of softplus.
        upward = (by_factor_N * (1 - FLOOR) / np.log(2) * expit(out_N))[:, None]
        pieces: list[Floats] = []
        for (weights, _), below, above in zip(layers[::-1], units[-2::-1], units[:0:-1], strict=True):
            # 1 - tanh^2; the last layer is linear.
            if above is not units[-1]:
                upward = upward * (1 - above**2)
            # In front, because layers are visited from the last to the first.
            pieces[:0] = [(below.T @ upward + 2 * self.l2 * weights).ravel(), upward.sum(axis=0)]
            upward = upward @ weights.T
        return loss + self.l2 * sum(float((weights**2).sum()) for weights, _ in layers), np.concatenate(
            pieces
        )


def top_logits(logits_NC: Floats, num_top: int) -> Floats:
    """Returns the largest logits of each row in descending order, minus the row's mean: `(N, min(num_top, C))`."""
    num_top = min(num_top, logits_NC.shape[1])
    largest_NF = -np.sort(-logits_NC, axis=1)[:, :num_top]
    return np.asarray(largest_NF - logits_NC.mean(axis=1, keepdims=True))


def factor(out_N: Floats) -> Floats:
    """Returns the factor of the common temperature: 1 for a network output of 0, at least `FLOOR`."""
    return np.asarray(FLOOR + (1 - FLOOR) * np.logaddexp(0, out_N) / np.log(2))


def initial_parameters(sizes: np.ndarray, seed: int) -> Floats:
    """Returns initial parameters `(P,)`: weights of variance 1 / inputs, SD times 0.01 in the last layer, biases 0."""
    generator, parts = np.random.default_rng(stream_seed(seed, "temperature network")), []
    for place, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        shrunk = 0.01 if place == len(sizes) - 2 else 1.0
        parts += [shrunk * generator.normal(size=fan_in * fan_out) / np.sqrt(fan_in), np.zeros(fan_out)]
    return np.concatenate(parts)


def layers_of(parameters: Floats, sizes: np.ndarray) -> list[tuple[Floats, Floats]]:
    """Returns weights `(in, out)` and biases `(out,)` of each layer, as views."""
    layers, start = [], 0
    for fan_in, fan_out in itertools.pairwise(sizes):
        middle, end = start + fan_in * fan_out, start + fan_in * fan_out + fan_out
        layers.append((parameters[start:middle].reshape(fan_in, fan_out), parameters[middle:end]))
        start = end
    return layers


def forward(features_NF: Floats, layers: list[tuple[Floats, Floats]]) -> list[Floats]:
    """Returns the features and the outputs of every layer; the last layer has no tanh."""
    units = [features_NF]
    for weights, biases in layers[:-1]:
        units.append(np.tanh(units[-1] @ weights + biases))
    weights, biases = layers[-1]
    return [*units, units[-1] @ weights + biases]
