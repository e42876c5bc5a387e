"""Adversarial examples by projected gradient ascent in the maximum norm (PGD).

Distances are of pixels in [0, 1], whatever the normalisation: eps and steps are scaled per channel, and no pixel leaves
the range between black and white. Parameters, their gradients and running statistics do not change.
Reference: Madry et al. 2018, Towards Deep Learning Models Resistant to Adversarial Attacks (arXiv:1706.06083)

Dimensions: B batch, C channels, H height, W width, K classes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT
from pruneyard.workloads.interfaces import (
    InputKind,
    LossInputs,
    Network,
    PixelRange,
    StatelessObjective,
    known_range,
)
from pruneyard.workloads.losses.class_weights import (
    ClassWeight,
    check_class_weight,
    row_weights,
    weighted_cross_entropy,
)
from pruneyard.workloads.ranks import Share

LossFn = Callable[[Tensor], Tensor]
"""Maps normalised images `(B, C, H, W)` to a scalar sum over the batch, so that a row's gradient is that of its own loss."""

NEARBY = 1e-3  # standard deviation, in pixel values, of a start close to the image


@dataclass(frozen=True, kw_only=True)
class Attack:
    """An attack of `num_steps` signed gradient steps, each projected into the eps ball; eps 0 or no steps: no attack."""

    eps: float
    step_size: float
    num_steps: int
    start: Literal["uniform", "nearby"] = "uniform"  # uniform in the eps ball, or normal with deviation `NEARBY`

    def __post_init__(self) -> None:
        for name in ("eps", "step_size"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1], black to white")
        if self.num_steps < 0:
            raise ValueError(f"num_steps is {self.num_steps}; it must be 0 or more")

    @property
    def forwards(self) -> float:
        """Work in forward passes: a step is a forward pass and the half of a backward pass that computes the images' gradient."""
        return 2.0 * self.num_steps if self.eps else 0.0

    def __call__(
        self,
        images: Tensor,
        *,
        loss_fn: LossFn,
        pixels: PixelRange,
        generator: torch.Generator,
        share: Share | None = None,
    ) -> Tensor:
        """Returns adversarial images within eps of `images`. Works also under `torch.no_grad`.

        generator: on the CPU; share: which rows of a whole batch these are, because starts are sampled for the whole batch.
        """
        if not self.forwards:
            return images
        span = pixels.white - pixels.black
        # an image that exceeds white by a rounding error is not clipped
        low = torch.minimum(images, torch.maximum(images - self.eps * span, pixels.black))
        high = torch.maximum(images, torch.minimum(images + self.eps * span, pixels.white))
        moved = images + self._start_offset(images, generator, share or Share.whole(len(images))) * span
        # Every pass keeps a graph: under autocast, a pass without one caches copies of the weights that have no gradient, and
        # the next pass would use them.
        with torch.enable_grad():
            for _ in range(self.num_steps):
                moved = moved.clamp(low, high).detach().requires_grad_()
                (gradient,) = torch.autograd.grad(loss_fn(moved), moved)
                moved = moved + self.step_size * span * gradient.sign()
        return moved.clamp(low, high).detach()

    def _start_offset(self, images: Tensor, generator: torch.Generator, share: Share) -> Tensor:
        """Returns the random start in pixel values, sampled on the CPU so that every device gets the same."""
        shape = (share.total, *images.shape[1:])
        if self.start == "uniform":
            offset = self.eps * (2 * torch.rand(shape, generator=generator) - 1)
        else:
            offset = NEARBY * torch.randn(shape, generator=generator)
        return share.of(offset).to(images)


def margin_loss(network: Network, labels: Tensor, *, num_extra: int = 0) -> LossFn:
    """Returns a loss for attacks: logsumexp of the other classes' logits minus the label's logit, summed over the batch.

    Cross-entropy over the K classes is log(1 + exp(m)) of this margin m, so the signs of a row's gradient are the same, but
    they do not vanish where the label's probability rounds to 1. (In training mode, batch norm couples rows; with this loss all
    rows have equal weight.) The last `num_extra` outputs are not classes.
    """

    def loss_fn(images: Tensor) -> Tensor:
        logits = network(images).float()
        known_BK = logits[:, : logits.shape[1] - num_extra]
        others_BK = known_BK.scatter(1, labels[:, None], -torch.inf)
        return (others_BK.logsumexp(dim=1) - known_BK.gather(1, labels[:, None])[:, 0]).sum()

    return loss_fn


@dataclass(frozen=True, kw_only=True)
class AdversarialObjective(StatelessObjective):
    """An objective that perturbs its images before it computes the loss.

    attack_mode: evaluation mode is used by the code of TRADES and of Özdenizci and Legenstein 2021 (ICML); that of Madry
    et al. for CIFAR-10 attacks in training mode, with the statistics of the batch.
    """

    takes: ClassVar[InputKind] = "pixels"

    eps: float = 8 / 255  # largest change of a pixel, for pixels in [0, 1]
    step_size: float = 2 / 255
    num_steps: int = 10
    attack_mode: Literal["evaluation", "training"] = "evaluation"
    class_weight: ClassWeight = field(default="none", metadata=NEUTRAL_BY_DEFAULT)  # of the cross-entropy; attacks ignore it

    def __post_init__(self) -> None:
        check_class_weight(self.class_weight)
        _ = self.attack  # checks the fields
        if self.attack_mode not in ("evaluation", "training"):
            raise ValueError(f"attack_mode is {self.attack_mode!r}; it must be evaluation or training")

    @property
    def attack(self) -> Attack:
        """The attack, with a uniform start in the eps ball."""
        return Attack(eps=self.eps, step_size=self.step_size, num_steps=self.num_steps)

    def attacked_mode(self, inputs: LossInputs) -> AbstractContextManager[object]:
        """Returns a context in which the network is in the mode that is attacked, and which preserves running statistics."""
        return inputs.eval_mode() if self.attack_mode == "evaluation" else inputs.preserve_buffers()

    def cross_entropy(self, logits: Tensor, inputs: LossInputs) -> Tensor:
        """Returns the mean over the batch of the cross-entropy, weighted by class."""
        weights = row_weights(self.class_weight, inputs.labels, inputs.class_counts)
        return weighted_cross_entropy(logits, inputs.labels, weights)

    def perturb(self, inputs: LossInputs, loss_fn: LossFn) -> Tensor:
        """Returns the images of the batch, perturbed so that the loss grows."""
        return self.attack(
            inputs.images,
            loss_fn=loss_fn,
            pixels=known_range(inputs.pixels),
            generator=inputs.make_generator(),
            share=inputs.share,
        )
