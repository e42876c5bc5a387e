"""Optimises images by a teacher's cross-entropy and the statistics of its batch norms (SRe2L; with DWA).

Reference: Yin, Xing and Shen 2023, Squeeze, Recover and Relabel (arXiv:2306.13092)

The first iterations train the teacher, one epoch each. Then one batch after another, which consists of one image of every class,
takes `iterations` Adam steps. At the end, the teacher labels each image with its probabilities. With an `adjustment` above zero
the teacher's weights are moved before each batch (see `DirectedAdjustment`; published DWA: strength 0.015, real init,
variance_weight 11 for CIFAR, 2 for ImageNet). How that weight and the scale combine, the scale for CIFAR, and that images are
clamped to black and white after each step, are unverified (U).

Published students train on one stored soft label per augmented view at temperature 20 or 30. With `evaluation: {labels: views,
temperature: 20.0}` the teacher is stored instead and labels newly sampled views; by default each image has one soft label at
`temperature`, which costs much accuracy. Published results are for a ResNet-18; inverting teachers that were trained longer gives
worse images. The defaults are the published ones; with a small teacher and few steps, noise with variance_weight 1 stays close to
noise, and init real with variance_weight 11 is far better (see reports/results/distillation.md).
Memory: the state contains the teacher (twice with DWA) and the images three times.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill.adaptive_steps import Moments, adam_step
from pruneyard.workloads.distill.directed_weights import DirectedAdjustment
from pruneyard.workloads.distill.distiller import DistillContext, DistillState
from pruneyard.workloads.distill.initial_images import ImageDistiller
from pruneyard.workloads.distill.network_tensors import prefixed_tensors
from pruneyard.workloads.distill.norm_statistics import batch_norms, outputs_and_gaps
from pruneyard.workloads.distill.teacher import WEIGHT_PREFIX, Teacher, soft_labels
from pruneyard.workloads.interfaces import known_range

__all__ = ["SRe2L"]

ADJUSTED_PREFIX = "adjusted/"  # starts the names of the adjusted teacher's weights in a state
BETAS = (0.5, 0.9)
FIRST_NORM_WEIGHT = 10.0  # weight of the first batch norm in the loss, relative to the others


@dataclass(frozen=True, kw_only=True)
class SRe2L(ImageDistiller):
    """SRe2L; the defaults are those published for CIFAR, as far as they are known."""

    init: Literal["real", "noise"] = field(default="noise")
    iterations: int = 1000  # steps of each batch
    lr: float = 0.25  # initial learning rate; it follows a cosine schedule to zero
    scale: float = 0.01  # weight of the statistics in the loss
    variance_weight: float = 1.0  # weight of variances relative to means
    jitter: int = 4  # largest number of pixels that the images of a batch are rolled down and right by at every step
    temperature: float = 1.0  # of soft labels
    adjustment: DirectedAdjustment = DirectedAdjustment()
    teacher: Teacher = Teacher()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("iterations", 1), ("scale", 0), ("variance_weight", 0), ("jitter", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {least} or more")
        for name in ("lr", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")

    @property
    def num_iterations(self) -> int:
        return self.teacher.epochs + self.ipc * self.iterations

    def start(self, context: DistillContext) -> DistillState:
        """Returns initial images and an untrained teacher. Raises `ValueError` for a teacher without batch norm."""
        images, teacher = super().start(context).tensors["images"], self.teacher.start(context)
        if not batch_norms(self.teacher.network(teacher, context)):
            raise ValueError("teacher.model has no batch norm; give a model with it, such as {name: convnet, norm: batch}")
        return DistillState({"images": images, **Moments.zero(images)._asdict(), **teacher})

    def iterate(self, state: DistillState, iteration: int, context: DistillContext) -> DistillState:
        """Trains the teacher for an epoch, or makes one step of one batch."""
        tensors, epochs = state.tensors, self.teacher.epochs
        if iteration < epochs:
            image_tensors = {name: tensors[name] for name in ("images", *Moments._fields)}
            after, loss = self.teacher.train_epoch(tensors, iteration, context)
            return DistillState(image_tensors | after, {"teacher_loss": loss})
        batch, step = divmod(iteration - epochs, self.iterations)
        rows = torch.arange(context.real.num_classes, device=context.device) * self.ipc + batch
        # Adjusted once per batch, for its first images, and kept in the state: at a later step the images have moved.
        new = {**tensors, **self._adjusted_weights(tensors, rows, context)} if step == 0 else dict(tensors)
        network, generator = self._network(new, context), context.stream("iterate", iteration)
        leaf = tensors["images"][rows].detach().requires_grad_()
        error, gap = self.losses(network, roll_jointly(leaf, self.jitter, generator))
        (gradient,) = torch.autograd.grad(error + self.scale * gap, leaf)
        moments = Moments(*(tensors[name][rows] for name in Moments._fields))
        updated, moments = adam_step(leaf.detach(), gradient, moments, step=step, lr=self.rate(step), betas=BETAS)
        pixels = known_range(context.real.split.pixels)
        for name, part in {"images": updated.clamp(pixels.black, pixels.white), **moments._asdict()}.items():
            # Not in place: the earlier state must stay as it was.
            new[name] = tensors[name].index_copy(0, rows, part)
        return DistillState(new, {"teacher_error": float(error.detach()), "statistics_gap": float(gap.detach())})

    def losses(self, network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the cross-entropy of one image per class (K, ...), in order, and the weighted gaps of their statistics."""
        outputs, gaps = outputs_and_gaps(network, images)
        each = gaps.mean + self.variance_weight * gaps.variance
        labels = torch.arange(len(images), device=images.device)
        # The sum contains the first norm once already.
        return functional.cross_entropy(outputs, labels), each.sum() + (FIRST_NORM_WEIGHT - 1) * each[0]

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step of a batch, counted from 0."""
        return self.lr * (1 + math.cos(math.pi * step / self.iterations)) / 2

    def synthetic_set(self, state: DistillState, context: DistillContext) -> SyntheticSet:
        """Returns the images as pixels, with soft labels of the unadjusted teacher."""
        made, network = super().synthetic_set(state, context), self.teacher.network(state.tensors, context)
        return replace(made, soft_labels=soft_labels(network, made.training_images(), temperature=self.temperature))

    def _adjusted_weights(self, tensors: Mapping[str, Tensor], rows: Tensor, context: DistillContext) -> dict[str, Tensor]:
        """Returns the teacher's weights adjusted for one batch; empty without adjustment."""
        if not self.adjustment.strength:
            return {}
        network = self.teacher.network(tensors, context)
        self.adjustment.adjust(network, tensors["images"][rows], torch.arange(len(rows), device=rows.device))
        return prefixed_tensors(ADJUSTED_PREFIX, network)

    def _network(self, tensors: Mapping[str, Tensor], context: DistillContext) -> nn.Module:
        """Returns the teacher with the weights for the current batch."""
        adjusted = {
            name.replace(ADJUSTED_PREFIX, WEIGHT_PREFIX, 1): tensor
            for name, tensor in tensors.items()
            if name.startswith(ADJUSTED_PREFIX)
        }
        return self.teacher.network(adjusted or tensors, context)


def roll_jointly(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Rolls all images by the same number of pixels, at most `most` down and right; the rest enters on the other side."""
    down, right = torch.randint(most + 1, (2,), generator=generator).tolist()
    return images.roll((down, right), dims=(2, 3))
