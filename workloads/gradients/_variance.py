"""Variance of the gradients of an epoch before and after a correction, from the differences of successive steps.

Half the mean squared difference of neighbours estimates the variance of a series whose mean moves slowly. Weights move little in
one step, so it needs no further gradient; what they move counts as variance in both series.

Reference: von Neumann 1941, Distribution of the ratio of the mean square successive difference to the variance.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from pruneyard.workloads.interfaces import Tensors

RATIO = "measured/gradient_variance_ratio"
OWN, CORRECTED = "variance/own", "variance/corrected"


def with_variance(before: Tensors, *, own: Tensors, corrected: Tensors, masks: Tensors) -> dict[str, Tensor]:
    """Returns the tensors of a rule's state that hold the variance of the epoch so far; those of `before` are not changed.

    own, corrected: gradients of this step by parameter name; those of parameters without correction count in both. masks: of the
    trained weights, outside which gradients do not count. From the second step on `RATIO` is the variance of the corrected
    gradients, summed over all entries, divided by that of the batches' own.
    """
    series: Mapping[str, Tensors] = {OWN: own, CORRECTED: {**own, **corrected}}
    after = {f"{kind}/{name}": tensor.clone() for kind, tensors in series.items() for name, tensor in tensors.items()}
    names = [name for name, tensor in own.items() if _has_same_shape(before.get(f"{OWN}/{name}"), tensor)]
    if not names:
        return after
    sums = {kind: _squared_differences(kind, before, after, names, masks) for kind in series}
    sums = {kind: value + before.get(f"{kind}-sum", 0.0) for kind, value in sums.items()}
    ratio = sums[CORRECTED] / sums[OWN].clamp(min=torch.finfo(sums[OWN].dtype).tiny)
    return {**after, **{f"{kind}-sum": value for kind, value in sums.items()}, RATIO: ratio}


def _has_same_shape(before: Tensor | None, tensor: Tensor) -> bool:
    """Returns whether a difference exists; a weight that is stored sparse has other entries after a mask update."""
    return before is not None and before.shape == tensor.shape


def _squared_differences(kind: str, before: Tensors, after: Tensors, names: list[str], masks: Tensors) -> Tensor:
    """Returns the squared norm of the step's difference, a scalar in float32."""
    differences = torch._foreach_sub(
        [after[f"{kind}/{name}"] for name in names], [before[f"{kind}/{name}"] for name in names]
    )
    for name, difference in zip(names, differences, strict=True):
        if name in masks:
            difference.mul_(masks[name])
    return torch.stack([norm.float().square() for norm in torch._foreach_norm(list(differences))]).sum()
