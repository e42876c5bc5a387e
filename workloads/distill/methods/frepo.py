"""Fit real labels by kernel regression on the synthetic set, in the features of a pool of networks (FRePo).

Reference: Zhou, Nezhadarya and Ba 2022, Dataset Distillation using Neural Feature Regression (arXiv:2206.00719)

An iteration draws a member of the pool and real rows, predicts their labels from the synthetic images by ridge regression on
the member's features, moves images and labels by LAMB, and trains the member for one step on the set. The gradient passes
through the regression only, not through the member's training.

Labels are regression targets, (one-hot - 1/C) / sqrt(C / 10) at first. The set's soft labels are what they stand for: scaled
back, cut off at zero and brought to sum 1, which is ours, since its networks are trained with cross-entropy. Published images
are ZCA-whitened and published networks double their width from block to block; neither is so here. Whether the squared error
is a mean over rows, and the loss that members are trained with, are unverified (U).
Memory: the pool's, and features of real_batch + IPC x classes images with their graph.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill.adaptive_steps import Moments, lamb_step
from pruneyard.workloads.distill.distiller import DistillState, Lab
from pruneyard.workloads.distill.kernel_ridge import half_squares, predictions
from pruneyard.workloads.distill.network_pool import NetworkPool
from pruneyard.workloads.distill.starting import Distilled, labels_of
from pruneyard.workloads.networks.features import features

__all__ = ["FRePo"]

LEAST_LABEL = 1e-6  # before labels are brought to sum 1


@dataclass(frozen=True, kw_only=True)
class FRePo(Distilled):
    """The rate falls along a cosine to a tenth."""

    iterations: int = 500_000
    real_batch: int = 1024  # real images per iteration, of all classes
    lr: float = 3e-4  # of images and labels, as a share of their length
    learn_labels: bool = True
    ridge: float = 1e-6  # share of the mean of the kernel's diagonal
    network_pool: NetworkPool = NetworkPool()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("iterations", "real_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("lr", "ridge"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")

    @property
    def num_iterations(self) -> int:
        return self.iterations

    def start(self, lab: Lab) -> DistillState:
        """Images, their labels, and a pool of untrained networks."""
        images = super().start(lab).tensors["images"]
        labels = regression_targets(labels_of(lab.real.num_classes, self.ipc), lab.real.num_classes).to(lab.device)
        moving = _named("images", images, Moments.zero(images)) | _named("labels", labels, Moments.zero(labels))
        return DistillState(moving | self.network_pool.start(lab))

    def iterate(self, state: DistillState, iteration: int, lab: Lab) -> DistillState:
        """One step of images and labels, and one of a member."""
        held, draws = state.tensors, lab.stream("iterate", iteration)
        member = int(torch.randint(self.network_pool.members, (), generator=draws))
        rows = torch.randperm(len(lab.real.split), generator=draws)[: self.real_batch]
        wanted = regression_targets(lab.real.split.labels[rows.to(lab.device)], lab.real.num_classes)
        leaves = {name: held[name].detach().requires_grad_() for name in ("images", "labels")}
        network = self.network_pool.network(member, held, lab)
        with torch.no_grad():
            query = features(network, lab.real.images(rows))
        loss = label_error(query, features(network, leaves["images"]), leaves["labels"], wanted, ridge=self.ridge)
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        new = dict(held)
        for name, gradient in zip(leaves, gradients, strict=True):
            if name == "images" or self.learn_labels:
                moments = Moments(*(held[f"{name}/{moment}"] for moment in Moments._fields))
                moved = lamb_step(held[name], gradient, moments, step=iteration, lr=self.rate(iteration))
                new |= _named(name, *moved)
        new |= self.network_pool.older(member, held, new["images"], new["labels"], lab, iteration=iteration)
        return DistillState(new, {"regression_loss": float(loss.detach())})

    def rate(self, iteration: int) -> float:
        """The learning rate of an iteration, counted from 0."""
        return self.lr * (0.1 + 0.9 * (1 + math.cos(math.pi * iteration / self.iterations)) / 2)

    def synthetic_set(self, state: DistillState, lab: Lab) -> SyntheticSet:
        """Brought back to pixels and probabilities; without soft labels where they are not learned."""
        hard = super().synthetic_set(state, lab)
        return replace(hard, soft_labels=probabilities(state.tensors["labels"])) if self.learn_labels else hard


def regression_targets(labels: Tensor, num_classes: int) -> Tensor:
    """(N, K) float32 for labels (N,): sum zero."""
    return (functional.one_hot(labels, num_classes).float() - 1 / num_classes) / math.sqrt(num_classes / 10)


def probabilities(targets: Tensor) -> Tensor:
    """What regression targets (N, K) stand for: the one-hot labels again, if they are those of `regression_targets`."""
    num_classes = targets.shape[1]
    shares = (targets * math.sqrt(num_classes / 10) + 1 / num_classes).clamp(min=LEAST_LABEL)
    return shares / shares.sum(1, keepdim=True)


def label_error(query: Tensor, support: Tensor, labels: Tensor, wanted: Tensor, *, ridge: float) -> Tensor:
    """Half the squared error of the regression, less the labels' margin: how far the largest leads, at most 1/K.

    query: (Q, F) features of real images with targets wanted (Q, K); support: (N, F) of synthetic ones with labels (N, K).
    """
    first, second = labels.topk(2, dim=1).values.unbind(1)
    margin = (first - second).clamp(max=1 / labels.shape[1]).mean()
    return half_squares(predictions(query, support, labels, ridge=ridge), wanted.double()) - margin


def _named(name: str, value: Tensor, moments: Moments) -> dict[str, Tensor]:
    """For a state."""
    return {name: value} | {f"{name}/{moment}": tensor for moment, tensor in moments._asdict().items()}
