"""Cross-entropy plus the divergence between predictions on clean and adversarial images (TRADES).

Reference: Zhang et al. 2019, Theoretically Principled Trade-off between Robustness and Accuracy (arXiv:1901.08573)

CE(f(x), y) + beta KL(f(x) || f(x')), where x' is found by maximising the same divergence. At x itself its gradient is zero,
so the attack starts at a distance of about a thousandth, as the authors' code does; the gradient of the loss goes through
both f(x) and f(x'). Both passes update running statistics. With beta 0 it is `cross_entropy`.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.interfaces import LossInputs, Tensors
from pruneyard.workloads.losses.adversarial import AdversarialObjective, Attack
from pruneyard.workloads.plugins import Settings

__all__ = ["TRADES"]


@dataclass(frozen=True, kw_only=True)
class TRADES(AdversarialObjective):
    neutral_settings: ClassVar[tuple[Settings, ...]] = ({"beta": 0.0},)
    beta: float = 6.0  # weight of the divergence; 1 / lambda in the paper

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta < float("inf"):
            raise ValueError(f"beta is {self.beta}; it must be 0 or more")

    @property
    def attack(self) -> Attack:
        """The attack, with a start close to the image."""
        return dataclasses.replace(super().attack, start="nearby")

    @property
    def extra_forwards(self) -> float:
        """Work of the attack and its target, and of a forward and a backward pass of the adversarial images."""
        return 1 + self.attack.forwards + 3 if self.beta else 0.0

    def loss(self, inputs: LossInputs) -> tuple[Tensor, Tensors]:
        """Returns the mean over the batch, in nats, and the memory."""
        natural = inputs.network(inputs.images)
        value = self.cross_entropy(natural, inputs)
        if not self.beta:
            return value, inputs.memory
        moved = inputs.network(self._worst(inputs))
        return value + self.beta * divergence(natural, moved) / len(inputs.labels), inputs.memory

    def _worst(self, inputs: LossInputs) -> Tensor:
        with self.attacked_mode(inputs):
            target = inputs.network(inputs.images).detach()
            return self.perturb(inputs, lambda images: divergence(target, inputs.network(images)))


def divergence(natural: Tensor, moved: Tensor) -> Tensor:
    """Returns KL(natural || moved) of two logits (B, K), summed over the batch."""
    return functional.kl_div(
        functional.log_softmax(moved, dim=1),
        functional.log_softmax(natural, dim=1),
        reduction="sum",
        log_target=True,
    )
