"""Masked temperature scaling (MTS): temperature scaling fitted on logits with a random fraction set to zero.

Reference: Zhu et al. 2023, Rethinking Data Distillation: Do Not Overlook Calibration (ICCV, arXiv:2307.12463)

Unverified: only the abstract of the paper could be read. It says that logits are masked when the temperature of a
network trained on distilled data is fitted; the masking (each entry independently, set to 0), the ratio (0.1 here), that
outputs are not masked when the temperature is applied, and all results are not confirmed against the paper's text.

This implementation is deterministic: `num_masks` masks are sampled from the seed, and T minimises the mean NLL over all of them,
which is convex in 1 / T like that of temperature scaling; `ratio` 0 is exactly temperature scaling. A logit of 0 has no meaning
by itself, because softmax is invariant to a constant added to a row. With `centred`, each row's mean is subtracted before
masking, so that 0 is the centre of the row and T does not depend on such constants; without it, logits are masked unchanged.
Masks are sampled for a row's logits in descending order, with rows in a canonical order, so neither the order of rows nor that of
classes changes T. If every label has the largest logit, T stays 1, with the warning of temperature scaling. Masking increases T:
a network that is over-confident only by a factor becomes under-confident. Compare it with `temperature`, and choose the ratio by
held-out NLL.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pruneyard.workloads.calibrate.calibrator import Fitted, Floats, Labels, PostHoc, in_one_order, ranked
from pruneyard.workloads.calibrate.methods.temperature import FittedTemperature
from pruneyard.workloads.calibrate.temperature_fit import (
    BLOCK,
    Block,
    block_of,
    fit_temperature,
    fit_temperature_of,
)
from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.seeding import stream_seed

__all__ = ["MaskedTemperature"]


@dataclass(frozen=True, kw_only=True)
class MaskedTemperature(PostHoc):
    """Masked temperature scaling."""

    ratio: float = 0.1  # fraction of logits set to zero
    num_masks: int = 32  # number of masks per row
    centred: bool = True  # subtract each row's mean before masking

    becomes: ClassVar[type[Fitted]] = FittedTemperature
    revision: ClassVar[int] = 2  # without errors among the rows, T was that of the masks' errors before
    examples: ClassVar[tuple[Settings, ...]] = ({}, {"centred": False})

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio is {self.ratio}; it must lie in [0, 1)")
        if self.num_masks < 1:
            raise ValueError(f"num_masks is {self.num_masks}; it must be 1 or more")

    @property
    def keeps_argmax(self) -> bool:
        """True: masks are only used for fitting, and the map divides by T."""
        return True

    def _fit(self, logits_NC: Floats, labels_N: Labels, *, seed: int) -> FittedTemperature:
        num_classes = logits_NC.shape[1]
        if self.ratio == 0:
            return FittedTemperature.of(fit_temperature(logits_NC, labels_N), num_classes)
        ranked_NC, ranks_N = ranked(logits_NC, labels_N)
        # Without errors the rows say nothing about the confidence of errors; those that masks make would lower T below 1.
        if (ranked_NC[np.arange(len(ranks_N)), ranks_N] == ranked_NC[:, 0]).all():
            return FittedTemperature.of(fit_temperature(logits_NC, labels_N), num_classes)
        if self.centred:
            ranked_NC = ranked_NC - ranked_NC.mean(axis=1, keepdims=True)
        # After ranking, because the masks are sampled for ranked logits of rows in this order.
        ranked_NC, ranks_N = in_one_order(ranked_NC, ranks_N)
        fit = fit_temperature_of(lambda: self._masked(ranked_NC, ranks_N, seed))
        return FittedTemperature.of(fit, num_classes)

    def _masked(self, logits_NC: Floats, labels_N: Labels, seed: int) -> Iterator[Block]:
        """Yields all rows under all masks, equal at every call; masks of a larger ratio include those of a smaller one."""
        # Created anew in every call, because the root search must see the same masks each time.
        generator = np.random.default_rng(stream_seed(seed, "logit masks"))
        size = max(1, BLOCK // logits_NC.shape[1])
        for start in range(0, len(labels_N), size):
            rows_CR = np.ascontiguousarray(logits_NC[start : start + size].T)
            for _ in range(self.num_masks):
                kept_CR = generator.random(rows_CR.shape) >= self.ratio
                yield block_of(rows_CR * kept_CR, labels_N[start : start + size])
