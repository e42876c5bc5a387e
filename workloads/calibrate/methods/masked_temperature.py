"""Temperature scaling on logits of which a share is set to zero at random: Masked Temperature Scaling (MTS).

Reference: Zhu et al. 2023, Rethinking Data Distillation: Do Not Overlook Calibration (ICCV, arXiv:2307.12463)

Unverified: of the paper only the abstract could be read. It says that logits are masked when the temperature of a
network trained on distilled data is fitted; how they are masked (each entry by itself, set to 0), the ratio (0.1 here),
that outputs are not masked when the temperature is applied, and every result are not confirmed against the paper's
text.

Ours is deterministic: `num_masks` masks are drawn from the seed, and T minimises the mean NLL over all of them, which
is convex in 1 / T as that of temperature scaling is; `ratio` 0 is temperature scaling exactly. A logit of 0 means
nothing by itself, since softmax does not change when a constant is added to a row: with `centred` each row's mean is
taken off before masking, so that 0 is the middle of the row and T does not depend on such constants; without it logits
are masked as they come. Masks are drawn for a row's logits from the largest to the smallest, with rows in an order of
their own, so that neither the order of rows nor that of classes changes T. Masking raises T: a network that is only too
sure by a factor becomes too unsure. Compare it with `temperature`, and choose the ratio by held-out NLL.
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
    ratio: float = 0.1  # share of logits set to zero
    num_masks: int = 32  # drawn for every row
    centred: bool = True  # take off each row's mean before masking

    becomes: ClassVar[type[Fitted]] = FittedTemperature
    examples: ClassVar[tuple[Settings, ...]] = ({}, {"centred": False})

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio is {self.ratio}; it must lie in [0, 1)")
        if self.num_masks < 1:
            raise ValueError(f"num_masks is {self.num_masks}; it must be 1 or more")

    @property
    def keeps_argmax(self) -> bool:
        """Always: masks are for fitting, the map is a division by T."""
        return True

    def _fit(self, logits_NC: Floats, labels_N: Labels, *, seed: int) -> FittedTemperature:
        num_classes = logits_NC.shape[1]
        if self.ratio == 0:
            return FittedTemperature.of(fit_temperature(logits_NC, labels_N), num_classes)
        ranked_NC, ranks_N = ranked(logits_NC, labels_N)
        if self.centred:
            ranked_NC = ranked_NC - ranked_NC.mean(axis=1, keepdims=True)
        ranked_NC, ranks_N = in_one_order(ranked_NC, ranks_N)
        fit = fit_temperature_of(lambda: self._masked(ranked_NC, ranks_N, seed))
        return FittedTemperature.of(fit, num_classes)

    def _masked(self, logits_NC: Floats, labels_N: Labels, seed: int) -> Iterator[Block]:
        """All rows under all masks, the same at every call; what a smaller ratio masks, a larger one masks too."""
        generator = np.random.default_rng(stream_seed(seed, "logit masks"))
        size = max(1, BLOCK // logits_NC.shape[1])
        for start in range(0, len(labels_N), size):
            rows_CR = np.ascontiguousarray(logits_NC[start : start + size].T)
            for _ in range(self.num_masks):
                kept_CR = generator.random(rows_CR.shape) >= self.ratio
                yield block_of(rows_CR * kept_CR, labels_N[start : start + size])
