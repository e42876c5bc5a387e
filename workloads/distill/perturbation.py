"""Small perturbations of a network's weights along random directions that are normalised filter by filter.

Reference: Li et al. 2018, Visualizing the Loss Landscape of Neural Nets (arXiv:1712.09913) for the normalisation by filters;
Zhang et al. 2023, Accelerating Dataset Distillation via Model Augmentation (Acc-DD, arXiv:2212.06152) for its use. The paper
is said to move along one direction (unverified); its released code moves along two, each by a separate length.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pruneyard.workloads.fields import renamed

TINY = 1e-10  # in the denominator, as in the released code


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """Perturbs weights theta to theta + a_1 d_1 + a_2 d_2.

    Every slice of a direction d along the first axis has the norm of theta's slice; |a| is uniform and its sign random. With
    max_magnitude: 0 or directions: 0 the network is not perturbed.
    """

    directions: int = 2
    min_magnitude: float = field(default=0.01, metadata=renamed("least"))  # smallest |a|, a share of the filter's norm
    max_magnitude: float = field(default=0.09, metadata=renamed("most"))  # largest |a|

    def __post_init__(self) -> None:
        if self.directions < 0:
            raise ValueError(f"directions is {self.directions}; it must be 0 or more")
        if not 0 <= self.min_magnitude <= self.max_magnitude:
            raise ValueError(
                f"min_magnitude is {self.min_magnitude} and max_magnitude is {self.max_magnitude}; "
                "they must be 0 or more, and the first at most as large as the second"
            )

    def __call__(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Returns perturbed tensors; tensors with fewer than two dimensions, such as biases and norms, stay unchanged."""
        if not self.directions or not self.max_magnitude:
            return dict(parameters)
        moved = {name: tensor for name, tensor in parameters.items() if tensor.ndim >= 2}
        for magnitude in self.magnitudes(generator):
            # Every direction is scaled by the original weight, not by the one that was already moved.
            moved = {name: moved[name] + magnitude * direction(parameters[name], generator) for name in moved}
        return {**parameters, **moved}

    def magnitudes(self, generator: torch.Generator) -> list[float]:
        """Samples a signed length for each direction."""
        share, sign = torch.rand((2, self.directions), generator=generator)
        lengths = self.min_magnitude + (self.max_magnitude - self.min_magnitude) * share
        signed: list[float] = torch.where(sign < 0.5, -lengths, lengths).tolist()
        return signed


def direction(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Samples a normal direction (O, ...) whose slices are scaled to the norms of the weight's; a slice of zeros gets zeros."""
    noise = torch.randn(weight.shape, generator=generator).to(weight.device, weight.dtype)
    norm, noise_norm = (tensor.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1)) for tensor in (weight, noise))
    return torch.mul(noise, norm / (noise_norm + TINY))
