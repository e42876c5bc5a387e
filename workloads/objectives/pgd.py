"""Cross-entropy on adversarial images (PGD adversarial training).

Reference: Madry et al. 2018, Towards Deep Learning Models Resistant to Adversarial Attacks (arXiv:1706.06083)

The defaults are the paper's for CIFAR-10: 10 steps of 2/255 within 8/255, from anywhere in the ball. A step of training
costs 3 + 2 num_steps forward passes for 3. With eps 0 or no steps it is `cross_entropy`.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pruneyard.workloads.interfaces import LossInputs, Tensors
from pruneyard.workloads.losses.adversarial import AdversarialObjective, margin_loss
from pruneyard.workloads.plugins import Settings

__all__ = ["PGD"]


@dataclass(frozen=True, kw_only=True)
class PGD(AdversarialObjective):
    neutral_settings: ClassVar[tuple[Settings, ...]] = ({"num_steps": 0}, {"eps": 0.0})

    @property
    def extra_forwards(self) -> float:
        """Work of the attack."""
        return self.attack.forwards

    def loss(self, inputs: LossInputs) -> tuple[Tensor, Tensors]:
        """Returns the mean over the batch, in nats, and the memory."""
        with self.attacked_mode(inputs):
            images = self.perturb(inputs, margin_loss(inputs.network, inputs.labels))
        return self.cross_entropy(inputs.network(images), inputs), inputs.memory
