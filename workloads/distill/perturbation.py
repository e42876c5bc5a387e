"""Random directions in the space of a network's weights, as long as its filters, and small steps along them.

Reference: Li et al. 2018, Visualizing the Loss Landscape of Neural Nets (arXiv:1712.09913) for the normalisation by filters;
Zhang et al. 2023, Accelerating Dataset Distillation via Model Augmentation (Acc-DD, arXiv:2212.06152) for its use. The paper
is said to move along one direction (unverified); its released code moves along two, each by a length of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

TINY = 1e-10  # in the denominator, as released


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """theta + a_1 d_1 + a_2 d_2: every slice of d along the first axis is as long as theta's, |a| uniform, its sign random.

    most: 0 or directions: 0 leave the network as it is.
    """

    directions: int = 2
    least: float = 0.01  # of |a|, a share of the filter's norm
    most: float = 0.09

    def __post_init__(self) -> None:
        if self.directions < 0:
            raise ValueError(f"directions is {self.directions}; it must be 0 or more")
        if not 0 <= self.least <= self.most:
            raise ValueError(
                f"least is {self.least} and most {self.most}; they must be 0 or more, in this order"
            )

    def __call__(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """New tensors; those with fewer than two dimensions, biases and norms, stay as they are."""
        if not self.directions or not self.most:
            return dict(parameters)
        moved = {name: tensor for name, tensor in parameters.items() if tensor.ndim >= 2}
        for magnitude in self.magnitudes(generator):
            moved = {name: moved[name] + magnitude * direction(parameters[name], generator) for name in moved}
        return {**parameters, **moved}

    def magnitudes(self, generator: torch.Generator) -> list[float]:
        """One for each direction, with its sign."""
        share, sign = torch.rand((2, self.directions), generator=generator)
        lengths = self.least + (self.most - self.least) * share
        drawn: list[float] = torch.where(sign < 0.5, -lengths, lengths).tolist()
        return drawn


def direction(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Normal draws (O, ...), each slice scaled to the norm of the weight's; a slice of zeros gets zeros."""
    drawn = torch.randn(weight.shape, generator=generator).to(weight.device, weight.dtype)
    long, drawn_long = (tensor.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1)) for tensor in (weight, drawn))
    return torch.mul(drawn, long / (drawn_long + TINY))
