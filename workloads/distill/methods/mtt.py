"""Matches trajectories: students trained on the synthetic set approach experts trained on the real set (MTT).

Reference: Cazenavette et al. 2022, Dataset Distillation by Matching Training Trajectories (arXiv:2203.11932)

The first iterations train the experts, one epoch each, as far as trajectories are needed (largest start + M epochs; published
experts train up to 50 epochs, which does not change these). Each later iteration samples an expert and an epoch t, takes N
steps on the synthetic set from there, and moves the images and the student's learning rate along the gradient of the distance
to the expert at t + M.

There is no ZCA whitening, which most published settings have; the published results without it are CIFAR-10 56.4 and 65.9 (IPC
10 and 50). Published evaluations train with the learned learning rate: `evaluation: {learned_rate: true}`. By default they train
with their own, which all methods share, and the learned one is reported as a metric. A higher rate alone improves the accuracy of
any few images, so compare with random images at the same rate (`separate: true` or method random with that `lr`).
Memory: the state and each checkpoint contain experts x (largest start + M) vectors of all parameters, 2.8 GB for CIFAR-10 at
IPC 10; the graph of a step needs about 3 x 2.24 MB per image and N for a ConvNet of width 128.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import vector_to_parameters

from pruneyard.workloads.distill.augment import Strategy, check_transforms
from pruneyard.workloads.distill.distiller import DistillContext, DistillState
from pruneyard.workloads.distill.initial_images import ImageDistiller, class_labels, momentum_step
from pruneyard.workloads.distill.real_training import train_epoch
from pruneyard.workloads.distill.trajectories import flatten_parameters, remaining_distance, train_student
from pruneyard.workloads.fields import renamed

__all__ = ["MTT"]

LEAST_RATE_SHARE = 1e-3  # of the initial learning rate: lower bound of the learned one, which is our choice


class IpcSettings(NamedTuple):
    """The settings that depend on IPC."""

    steps: int
    max_start_epoch: int
    lr: float
    rate_lr: float
    rate: float


PUBLISHED = {
    1: IpcSettings(50, 2, 100.0, 1e-7, 0.01),
    10: IpcSettings(30, 20, 100.0, 1e-5, 0.001),
    50: IpcSettings(30, 40, 1000.0, 1e-5, 0.001),
}
"""Published settings for CIFAR-10, by IPC. For other IPC those of the next lower one are used, which is our choice."""


@dataclass(frozen=True, kw_only=True)
class MTT(ImageDistiller):
    """Trajectory matching. Fields that are None have the values published for CIFAR-10 at the next lower published IPC."""

    iterations: int = 5000  # after the training of the experts
    steps: int | None = None  # N: steps of the student
    expert_epochs: int = 2  # M: number of expert epochs that the student's steps should match
    # a student starts from an expert after 0 to max_start_epoch - 1 epochs
    max_start_epoch: int | None = field(default=None, metadata=renamed("starts"))
    lr: float | None = None  # learning rate of the images
    rate_lr: float | None = None  # learning rate of the student's learning rate
    rate: float | None = None  # initial learning rate of the student
    momentum: float = 0.5  # of images and the student's learning rate
    student_batch: int | None = None  # synthetic images per step; by default all
    experts: int = 100
    expert_lr: float = 0.01
    expert_batch: int = 256
    augment: str = "color_crop_cutout_flip_scale_rotate"  # for experts and students, parameters per image

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("iterations", "steps", "expert_epochs", "max_start_epoch", "student_batch", "experts", "expert_batch"):
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
        check_transforms("augment", self.augment)

    @property
    def settings(self) -> IpcSettings:
        """The settings that depend on IPC, as given or as published."""
        published = PUBLISHED[max(ipc for ipc in PUBLISHED if ipc <= self.ipc)]
        given = {name: getattr(self, name) for name in IpcSettings._fields}
        return published._replace(**{name: value for name, value in given.items() if value is not None})

    @property
    def path_length(self) -> int:
        """Number of epochs of an expert."""
        return self.settings.max_start_epoch - 1 + self.expert_epochs

    @property
    def num_iterations(self) -> int:
        return self.experts * self.path_length + self.iterations

    def start(self, context: DistillContext) -> DistillState:
        """Returns initial images and the student's initial learning rate."""
        images, rate = super().start(context), torch.tensor(self.settings.rate, device=context.device)
        return DistillState({**images.tensors, "rate": rate, "rate_velocity": torch.zeros_like(rate)})

    def iterate(self, state: DistillState, iteration: int, context: DistillContext) -> DistillState:
        """Trains an expert for an epoch, or makes a step of the images."""
        if iteration < self.experts * self.path_length:
            return self._train_expert(state, iteration, context)
        return self._match(state, iteration, context)

    def learned_rate(self, state: DistillState) -> float:
        """Returns the student's learning rate."""
        return float(state.tensors["rate"])

    def _train_expert(self, state: DistillState, iteration: int, context: DistillContext) -> DistillState:
        """Adds a point to the trajectory of an expert. Running statistics are left out, as training does not use them."""
        expert, epoch = divmod(iteration, self.path_length)
        network, tensors = context.network("expert", expert), dict(state.tensors)
        if epoch == 0:
            tensors[_point(expert, 0)] = flatten_parameters(network)
        # The parameters become views of the vector, so training would change the stored point.
        vector_to_parameters(tensors[_point(expert, epoch)].clone(), network.parameters())
        # Without momentum SGD has no state, so a new optimizer for each epoch changes nothing.
        optimizer = torch.optim.SGD(network.parameters(), lr=self.expert_lr)
        strategy, generator = Strategy.of(self.augment), context.stream("expert", iteration)
        loss = train_epoch(network, optimizer, context.real, batch_size=self.expert_batch, strategy=strategy, generator=generator)
        tensors[_point(expert, epoch + 1)] = flatten_parameters(network)
        return DistillState(tensors, {"expert_loss": loss})

    def _match(self, state: DistillState, iteration: int, context: DistillContext) -> DistillState:
        """Makes one step of the images and the student's learning rate."""
        tensors, settings, generator = state.tensors, self.settings, context.stream("iterate", iteration)
        expert, epoch = (int(torch.randint(bound, (), generator=generator)) for bound in (self.experts, settings.max_start_epoch))
        start, target = tensors[_point(expert, epoch)], tensors[_point(expert, epoch + self.expert_epochs)]
        images, rate = (tensors[name].detach().requires_grad_() for name in ("images", "rate"))
        # Only the architecture of this network is used; the weights come from the expert.
        end = train_student(context.network("student"), start, self._batches(images, context, generator), rate)
        loss = remaining_distance(end, start=start, target=target)
        image_gradient, rate_gradient = torch.autograd.grad(loss, (images, rate))
        new_images, velocity = momentum_step(
            tensors["images"], tensors["velocity"], image_gradient, lr=settings.lr, momentum=self.momentum
        )
        new_rate, rate_velocity = momentum_step(
            tensors["rate"], tensors["rate_velocity"], rate_gradient, lr=settings.rate_lr, momentum=self.momentum
        )
        new = {"images": new_images, "velocity": velocity, "rate_velocity": rate_velocity}
        new["rate"] = new_rate.clamp(min=LEAST_RATE_SHARE * settings.rate)
        return DistillState({**tensors, **new}, {"matching_loss": float(loss.detach()), "student_rate": float(new["rate"])})

    def _batches(self, images: Tensor, context: DistillContext, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
        """Returns a batch for each step of the student, from passes over the set in new random orders."""
        labels, strategy = class_labels(context.real.num_classes, self.ipc).to(images.device), Strategy.of(self.augment)
        batches: list[tuple[Tensor, Tensor]] = []
        while len(batches) < self.settings.steps:
            order = torch.randperm(len(images), generator=generator).to(images.device)
            for rows in order.split(self.student_batch or len(images)):
                batches.append((strategy.sample(generator, num=len(rows))(images[rows]), labels[rows]))
        return batches[: self.settings.steps]


def _point(expert: int, epoch: int) -> str:
    """Returns the name of an expert's weights after `epoch` epochs."""
    return f"expert{expert}/epoch{epoch}"
