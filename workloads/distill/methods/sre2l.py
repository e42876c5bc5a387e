"""Optimise images until a teacher and the statistics of its batch norms accept them (SRe2L; with DWA).

Reference: Yin, Xing and Shen 2023, Squeeze, Recover and Relabel (arXiv:2306.13092)

The first iterations train the teacher, an epoch each. Then one batch after another, made of one image of every class, takes
`iterations` steps of Adam; at last the teacher gives each image its probabilities. With `adjustment` above zero each batch
has the teacher's weights moved for it beforehand (see `DirectedAdjustment`; published DWA: strength 0.015, real init,
variance_weight 11 for CIFAR, 2 for ImageNet). How that weight and the scale combine, the scale for CIFAR, and that images are
cut off at black and white after each step, are unverified (U).

Published students train on one stored soft label per augmented view at temperature 20 or 30. With `evaluation: {labels: views,
temperature: 20.0}` the teacher is kept and asked instead, about views drawn anew; by default each image has one soft label, as it
is at `temperature`. Published results are for a ResNet-18; teachers trained for longer are inverted worse.
Memory: the state holds the teacher (with DWA twice) and the images three times.
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
from pruneyard.workloads.distill.distiller import DistillState, Lab
from pruneyard.workloads.distill.kept_network import kept
from pruneyard.workloads.distill.norm_statistics import batch_norms, outputs_and_gaps
from pruneyard.workloads.distill.starting import Distilled
from pruneyard.workloads.distill.teacher import WEIGHTS, Teacher, soft_labels

__all__ = ["SRe2L"]

ADJUSTED = "adjusted/"  # the moved teacher's weights in a state
BETAS = (0.5, 0.9)
FIRST = 10.0  # weight of the first batch norm


@dataclass(frozen=True, kw_only=True)
class SRe2L(Distilled):
    """As published for CIFAR where that is known."""

    init: Literal["real", "noise"] = field(default="noise")
    iterations: int = 1000  # steps of each batch
    lr: float = 0.25  # falls to zero along a cosine
    scale: float = 0.01  # of the statistics' part of the loss
    variance_weight: float = 1.0  # of variances beside means
    jitter: int = 4  # pixels that images are rolled by at most, all alike, at every step
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

    def start(self, lab: Lab) -> DistillState:
        """Images and an untrained teacher. Raises `ValueError` for a teacher without batch norm."""
        images, teacher = super().start(lab).tensors["images"], self.teacher.start(lab)
        if not batch_norms(self.teacher.network(teacher, lab)):
            raise ValueError("teacher.model has no batch norm; give one that has, such as {name: convnet, norm: batch}")
        return DistillState({"images": images, **Moments.zero(images)._asdict(), **teacher})

    def iterate(self, state: DistillState, iteration: int, lab: Lab) -> DistillState:
        """An epoch of the teacher, or one step of one batch."""
        held, epochs = state.tensors, self.teacher.epochs
        if iteration < epochs:
            own = {name: held[name] for name in ("images", *Moments._fields)}
            after, loss = self.teacher.after(held, iteration, lab)
            return DistillState(own | after, {"teacher_loss": loss})
        batch, step = divmod(iteration - epochs, self.iterations)
        rows = torch.arange(lab.real.num_classes, device=lab.device) * self.ipc + batch
        new = {**held, **self._adjusted(held, rows, lab)} if step == 0 else dict(held)
        network, draws = self._network(new, lab), lab.stream("iterate", iteration)
        leaf = held["images"][rows].detach().requires_grad_()
        error, gap = self.losses(network, jittered(leaf, self.jitter, draws))
        (gradient,) = torch.autograd.grad(error + self.scale * gap, leaf)
        moments = Moments(*(held[name][rows] for name in Moments._fields))
        moved, moments = adam_step(leaf.detach(), gradient, moments, step=step, lr=self.rate(step), betas=BETAS)
        black, white = lab.real.split.pixels.black, lab.real.split.pixels.white
        for name, part in {"images": moved.clamp(black, white), **moments._asdict()}.items():
            new[name] = held[name].index_copy(0, rows, part)
        return DistillState(new, {"teacher_error": float(error.detach()), "statistics_gap": float(gap.detach())})

    def losses(self, network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of one image per class (C, ...), in order; and their statistics' gaps, weighted."""
        outputs, gaps = outputs_and_gaps(network, images)
        each = gaps.mean + self.variance_weight * gaps.variance
        labels = torch.arange(len(images), device=images.device)
        return functional.cross_entropy(outputs, labels), each.sum() + (FIRST - 1) * each[0]

    def rate(self, step: int) -> float:
        """The learning rate of a batch's step, counted from 0."""
        return self.lr * (1 + math.cos(math.pi * step / self.iterations)) / 2

    def synthetic_set(self, state: DistillState, lab: Lab) -> SyntheticSet:
        """Brought back to pixels, with the labels of the teacher as it was trained."""
        network = self.teacher.network(state.tensors, lab)
        soft = soft_labels(network, state.tensors["images"], temperature=self.temperature)
        return replace(super().synthetic_set(state, lab), soft_labels=soft)

    def _adjusted(self, held: Mapping[str, Tensor], rows: Tensor, lab: Lab) -> dict[str, Tensor]:
        """The teacher's weights as they are for one batch."""
        if not self.adjustment.strength:
            return {}
        network = self.teacher.network(held, lab)
        self.adjustment.move(network, held["images"][rows], torch.arange(len(rows), device=rows.device))
        return kept(ADJUSTED, network)

    def _network(self, held: Mapping[str, Tensor], lab: Lab) -> nn.Module:
        """What this batch is shown to."""
        adjusted = {n.replace(ADJUSTED, WEIGHTS, 1): tensor for n, tensor in held.items() if n.startswith(ADJUSTED)}
        return self.teacher.network(adjusted or held, lab)


def jittered(images: Tensor, most: int, draws: torch.Generator) -> Tensor:
    """All images rolled by the same whole pixels, at most `most` either way along each side."""
    down, right = torch.randint(-most, most + 1, (2,), generator=draws).tolist()
    return images.roll((down, right), dims=(2, 3))
