"""Images moved within a few grey values so that a loss grows: projected gradient ascent in the maximum norm (PGD).

Distances are of pixels in [0, 1], whatever the normalisation: eps and steps are scaled per channel, and no pixel leaves
the range between black and white. Parameters, their gradients and running statistics are left alone.
Reference: Madry et al. 2018, Towards Deep Learning Models Resistant to Adversarial Attacks (arXiv:1706.06083)

Dimensions: B batch, C channels, H height, W width, K classes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pruneyard.workloads.interfaces import LossInputs, Network, PixelRange, StatelessObjective
from pruneyard.workloads.ranks import Share

LossFn = Callable[[Tensor], Tensor]


"""Images `(B, C, H, W)`, normalised, to a scalar; a sum over the batch, so that a row's gradient is of its loss alone."""


NEARBY = 1e-3  # standard deviation in pixels of a start that is just not the image itself


@dataclass(frozen=True, kw_only=True)
class Attack:
    """So many steps by the sign of the gradient, each projected back; eps 0 or no steps leave images as they are."""

    eps: float
    step_size: float
    num_steps: int
    start: Literal["uniform", "nearby"] = "uniform"  # in the whole ball, or normal with deviation `NEARBY`

    def __post_init__(self) -> None:
        for name in ("eps", "step_size"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1], black to white")
        if self.num_steps < 0:
            raise ValueError(f"num_steps is {self.num_steps}; it must be 0 or more")

    @property
    def forwards(self) -> float:
        """Work in forward passes: a step is one and the half of a backward pass that leads to the images."""
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
        """Images as near as eps to those given. Works where gradients are off, too.

        generator: on the CPU; share: which rows of a whole batch these are, starts being drawn for all of it.
        Every pass keeps a graph: under autocast a pass without one leaves copies of the weights that have no gradient, and
        the pass after it would use them.
        """
        if not self.forwards:
            return images
        span = pixels.white - pixels.black
        # an image a rounding error beyond white stays where it is
        low = torch.minimum(images, torch.maximum(images - self.eps * span, pixels.black))
        high = torch.maximum(images, torch.minimum(images + self.eps * span, pixels.white))
        moved = images + self._first(images, generator, share or Share.whole(len(images))) * span
        with torch.enable_grad():
            for _ in range(self.num_steps):
                moved = moved.clamp(low, high).detach().requires_grad_()
                (gradient,) = torch.autograd.grad(loss_fn(moved), moved)
                moved = moved + self.step_size * span * gradient.sign()
        return moved.clamp(low, high).detach()

    def _first(self, images: Tensor, generator: torch.Generator, share: Share) -> Tensor:
        """In pixels; drawn on the CPU, so that every device sees the same."""
        shape = (share.total, *images.shape[1:])
        if self.start == "uniform":
            drawn = self.eps * (2 * torch.rand(shape, generator=generator) - 1)
        else:
            drawn = NEARBY * torch.randn(shape, generator=generator)
        return share.of(drawn).to(images)


def margin_loss(network: Network, labels: Tensor, *, num_extra: int = 0) -> LossFn:
    """By how much the other classes outweigh the label: their logsumexp less the label's logit, summed over the batch.

    Cross-entropy over the K classes is log(1 + exp(m)) of this m, so a row's steps are the same, and they do not vanish where
    the label's probability rounds to 1. (Rows that meet in batch norm, when attacked in training mode, weigh alike here.)
    The last `num_extra` outputs are no classes.
    """

    def loss_fn(images: Tensor) -> Tensor:
        logits = network(images).float()
        known_BK = logits[:, : logits.shape[1] - num_extra]
        others_BK = known_BK.scatter(1, labels[:, None], -torch.inf)
        return (others_BK.logsumexp(dim=1) - known_BK.gather(1, labels[:, None])[:, 0]).sum()

    return loss_fn


@dataclass(frozen=True, kw_only=True)
class AdversarialObjective(StatelessObjective):
    """An objective that moves its images first.

    attack_mode: evaluation is what the codes of TRADES and of Özdenizci and Legenstein 2021 (ICML) do; that of Madry et
    al. for CIFAR-10 attacks in training mode, with the statistics of the batch.
    """

    eps: float = 8 / 255  # largest change of a pixel; pixels lie in [0, 1]
    step_size: float = 2 / 255
    num_steps: int = 10
    attack_mode: Literal["evaluation", "training"] = "evaluation"

    def __post_init__(self) -> None:
        _ = self.attack  # checks the fields
        if self.attack_mode not in ("evaluation", "training"):
            raise ValueError(f"attack_mode is {self.attack_mode!r}; it must be evaluation or training")

    @property
    def attack(self) -> Attack:
        """With a start anywhere in the ball."""
        return Attack(eps=self.eps, step_size=self.step_size, num_steps=self.num_steps)

    def attacked_mode(self, inputs: LossInputs) -> AbstractContextManager[object]:
        """In the block the network is in the mode that is attacked; running statistics are not moved."""
        return inputs.eval_mode() if self.attack_mode == "evaluation" else inputs.preserve_buffers()

    def perturb(self, inputs: LossInputs, loss_fn: LossFn) -> Tensor:
        """The question's images, moved so that this loss grows."""
        return self.attack(
            inputs.images,
            loss_fn=loss_fn,
            pixels=inputs.pixels,
            generator=inputs.make_generator(),
            share=inputs.share,
        )
