"""Match paths: a student trained on the synthetic set shall land where experts land that see the real set (MTT).

Reference: Cazenavette et al. 2022, Dataset Distillation by Matching Training Trajectories (arXiv:2203.11932)

The first iterations train the experts, one epoch each, only as far as a path is ever asked for (largest start + M epochs; the
published ones go on to 50, which changes none of these). Each later one draws an expert and an epoch t, takes N steps on the
synthetic set from there, and moves images and the student's rate by the distance to the expert at t + M.

Without ZCA whitening, which most published settings have; their figures without it are CIFAR-10 56.4 and 65.9 (IPC 10 and 50).
Published evaluations train at the rate that was learned; here they train at their own, and it is reported as a number.
Memory: the state, and each checkpoint, holds experts x (largest start + M) vectors of all parameters, 2.8 GB for CIFAR-10 at
IPC 10; a step's graph about 3 x 2.24 MB per image and N for a ConvNet of width 128.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import vector_to_parameters

from pruneyard.workloads.distill.augment import Strategy
from pruneyard.workloads.distill.distiller import DistillState, Lab
from pruneyard.workloads.distill.real_training import one_pass
from pruneyard.workloads.distill.starting import Distilled, labels_of, momentum_step
from pruneyard.workloads.distill.trajectories import flat, remaining_distance, student_end

__all__ = ["MTT"]

LEAST = 1e-3  # of the first rate: where the learned one stops falling, which is ours


class Setting(NamedTuple):
    """What depends on IPC."""

    steps: int
    starts: int
    lr: float
    rate_lr: float
    rate: float


PUBLISHED = {
    1: Setting(50, 2, 100.0, 1e-7, 0.01),
    10: Setting(30, 20, 100.0, 1e-5, 0.001),
    50: Setting(30, 40, 1000.0, 1e-5, 0.001),
}
"""For CIFAR-10, by IPC; in between those of the nearest lower one are taken, which is ours."""


@dataclass(frozen=True, kw_only=True)
class MTT(Distilled):
    """What is not given and has no number here is as published for CIFAR-10 at the nearest lower IPC."""

    iterations: int = 5000  # after the experts
    steps: int | None = None  # N: of the student
    expert_epochs: int = 2  # M: what the student's steps shall be worth
    starts: int | None = None  # epochs of the expert that a student may start from: 0 to starts - 1
    lr: float | None = None  # of the images
    rate_lr: float | None = None  # of the student's rate
    rate: float | None = None  # of the student, at first
    momentum: float = 0.5  # of images and rate
    student_batch: int | None = None  # synthetic images per step; by default all
    experts: int = 100
    expert_lr: float = 0.01
    expert_batch: int = 256
    augment: str = "color_crop_cutout_flip_scale_rotate"  # for experts and students, parameters per image

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("iterations", "steps", "expert_epochs", "starts", "student_batch", "experts", "expert_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")
        for name in ("lr", "rate", "expert_lr"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; it must be above 0")
        if self.rate_lr is not None and not self.rate_lr >= 0:
            raise ValueError(f"rate_lr is {self.rate_lr}; it must be 0 or more")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must lie in [0, 1)")
        try:
            Strategy.of(self.augment)
        except ValueError as error:
            raise ValueError(f"augment is {self.augment!r}; {error}") from error

    @property
    def setting(self) -> Setting:
        """As given or published."""
        published = PUBLISHED[max(ipc for ipc in PUBLISHED if ipc <= self.ipc)]
        given = {name: getattr(self, name) for name in Setting._fields}
        return published._replace(**{name: value for name, value in given.items() if value is not None})

    @property
    def path_length(self) -> int:
        """Epochs of an expert."""
        return self.setting.starts - 1 + self.expert_epochs

    @property
    def num_iterations(self) -> int:
        return self.experts * self.path_length + self.iterations

    def start(self, lab: Lab) -> DistillState:
        """Images and the student's rate at their start."""
        images, rate = super().start(lab), torch.tensor(self.setting.rate, device=lab.device)
        return DistillState({**images.tensors, "rate": rate, "rate_velocity": torch.zeros_like(rate)})

    def iterate(self, state: DistillState, iteration: int, lab: Lab) -> DistillState:
        """An epoch of an expert, or a student's path."""
        if iteration < self.experts * self.path_length:
            return self._expert(state, iteration, lab)
        return self._match(state, iteration, lab)

    def _expert(self, state: DistillState, iteration: int, lab: Lab) -> DistillState:
        """The next point of a path. Running statistics have no part in it: training does not ask for them."""
        expert, epoch = divmod(iteration, self.path_length)
        network, tensors = lab.network("expert", expert), dict(state.tensors)
        if epoch == 0:
            tensors[_point(expert, 0)] = flat(network)
        vector_to_parameters(tensors[_point(expert, epoch)].clone(), network.parameters())
        optimizer = torch.optim.SGD(network.parameters(), lr=self.expert_lr)
        strategy, draws = Strategy.of(self.augment), lab.stream("expert", iteration)
        loss = one_pass(network, optimizer, lab.real, batch_size=self.expert_batch, strategy=strategy, draws=draws)
        tensors[_point(expert, epoch + 1)] = flat(network)
        return DistillState(tensors, {"expert_loss": loss})

    def _match(self, state: DistillState, iteration: int, lab: Lab) -> DistillState:
        """One step of images and rate."""
        held, setting, draws = state.tensors, self.setting, lab.stream("iterate", iteration)
        expert, epoch = (int(torch.randint(bound, (), generator=draws)) for bound in (self.experts, setting.starts))
        start, target = held[_point(expert, epoch)], held[_point(expert, epoch + self.expert_epochs)]
        images, rate = (held[name].detach().requires_grad_() for name in ("images", "rate"))
        end = student_end(lab.network("student"), start, self._batches(images, lab, draws), rate)
        loss = remaining_distance(end, start=start, target=target)
        by_images, by_rate = torch.autograd.grad(loss, (images, rate))
        moved, velocity = momentum_step(
            held["images"], held["velocity"], by_images, lr=setting.lr, momentum=self.momentum
        )
        slower, rate_velocity = momentum_step(
            held["rate"], held["rate_velocity"], by_rate, lr=setting.rate_lr, momentum=self.momentum
        )
        new = {"images": moved, "velocity": velocity, "rate_velocity": rate_velocity}
        new["rate"] = slower.clamp(min=LEAST * setting.rate)
        return DistillState({**held, **new}, {"matching_loss": float(loss.detach()), "student_rate": float(new["rate"])})

    def _batches(self, images: Tensor, lab: Lab, draws: torch.Generator) -> list[tuple[Tensor, Tensor]]:
        """One per step of the student: pass after pass over the set, each in an order of its own."""
        labels, strategy = labels_of(lab.real.num_classes, self.ipc).to(images.device), Strategy.of(self.augment)
        batches: list[tuple[Tensor, Tensor]] = []
        while len(batches) < self.setting.steps:
            order = torch.randperm(len(images), generator=draws).to(images.device)
            for rows in order.split(self.student_batch or len(images)):
                batches.append((strategy.draw(draws, num=len(rows))(images[rows]), labels[rows]))
        return batches[: self.setting.steps]


def _point(expert: int, epoch: int) -> str:
    """The name of an expert's weights after so many epochs."""
    return f"expert{expert}/epoch{epoch}"
