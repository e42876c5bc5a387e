"""Weights between the start and the mean of its fine-tuned members, whose over-confidence is cured first (BANG).

Reference: Lin et al. 2023, Spurious Feature Diversification Improves Out-of-distribution Generalization (arXiv:2309.17230); the
interpolation is WiSE-FT, Wortsman et al. 2021, Robust fine-tuning of zero-shot models (arXiv:2109.01903)

Over-confident fine-tuned weights outvote the start. Only the abstract was read, which does not say how they are cured; this is
unverified: `temperature` divides the last layer of the fine-tuned network by the temperature that its logits need on `val`.
Training the members with the objective `label_smoothing` or `mixup` is another cure, to be combined with `cure: none`, which is
WiSE-FT. The start must have the classes of the members, and calibrated logits of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from pruneyard.workloads.calibrate.temperature_fit import fit_temperature
from pruneyard.workloads.merge.averages import weighted_mean
from pruneyard.workloads.merge.context import MergeContext, masked
from pruneyard.workloads.merge.member import Member
from pruneyard.workloads.merge.merger import MergedNetwork, UseOfVal, WeightMerger
from pruneyard.workloads.networks.last_layer import last_layer_name

__all__ = ["Bang"]


@dataclass(frozen=True, kw_only=True)
class Bang(WeightMerger):
    """Balanced averaging.

    alpha: share of the fine-tuned weights, in [0, 1].
    cure: what is done about their over-confidence.
    """

    keeps_copies: ClassVar[bool] = False

    alpha: float = 0.5
    cure: Literal["temperature", "none"] = "temperature"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}; it must lie in [0, 1]")
        if self.cure not in ("temperature", "none"):
            raise ValueError(f"cure is {self.cure!r}; it must be temperature or none")

    @property
    def use_of_val(self) -> UseOfVal:
        """Returns `fit` if a temperature is fitted."""
        return "fit" if self.cure == "temperature" else "none"

    def merge(self, members: Sequence[Member], context: MergeContext) -> MergedNetwork:
        """Returns weights between the start and the mean of the members."""
        masks = context.masks_of(members)
        start = masked(context.start(), masks)
        tuned = context.refreshed(masked(weighted_mean([member.weights for member in members]), masks))
        temperature = 1.0
        if self.cure == "temperature":
            temperature = _temperature(tuned, context)
            layer = last_layer_name(context.network)
            tuned = {name: tensor / temperature if name.startswith(f"{layer}.") else tensor for name, tensor in tuned.items()}
        merged = weighted_mean([start, tuned], [1 - self.alpha, self.alpha])
        return MergedNetwork(weights=merged, masks=masks, numbers={"temperature": temperature})


def _temperature(weights: dict[str, Tensor], context: MergeContext) -> float:
    """Returns the temperature with the lowest NLL on `val`."""
    labels = context.splits["val"].labels.cpu().numpy()
    return float(fit_temperature(context.logits(weights, "val").double().numpy(), labels).temperature)
