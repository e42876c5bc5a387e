"""Predicts real labels by kernel regression on the synthetic set, in features of a pool of networks (FRePo).

Reference: Zhou, Nezhadarya and Ba 2022, Dataset Distillation using Neural Feature Regression (arXiv:2206.00719)

An iteration samples a member of the pool and real rows, predicts their labels from the synthetic images by ridge regression on
the member's features, moves images and labels by LAMB, and trains the member for one step on the set. The gradient passes
through the regression only, not through the member's training.

Labels are regression targets, initially (one-hot - 1/C) / sqrt(C / 10). The soft labels of the set are these targets converted
to probabilities: scaled back, clamped at zero and normalised to sum 1. The conversion is our choice, since evaluation networks
are trained with cross-entropy. Published images are ZCA-whitened and published networks double their width from block to
block; here neither is done. Whether the squared error is a mean over rows, and the loss that members are trained with, are
unverified (U).
Memory: that of the pool, and the features of real_batch + IPC x classes images with their graph.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill.adaptive_steps import Moments, lamb_step
from pruneyard.workloads.distill.distiller import DistillContext, DistillState
from pruneyard.workloads.distill.initial_images import ImageDistiller, class_labels
from pruneyard.workloads.distill.kernel_ridge import half_squared_error, predictions
from pruneyard.workloads.distill.network_pool import NetworkPool
from pruneyard.workloads.networks.features import features

__all__ = ["FRePo"]

LEAST_LABEL = 1e-6  # lower bound of probabilities before they are normalised to sum 1


@dataclass(frozen=True, kw_only=True)
class FRePo(ImageDistiller):
    """Neural feature regression. The learning rate follows a cosine schedule down to a tenth."""

    iterations: int = 500_000
    real_batch: int = 1024  # real images per iteration, of all classes together
    lr: float = 3e-4  # learning rate of images and labels, relative to their norm
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

    def start(self, context: DistillContext) -> DistillState:
        """Returns initial images, their labels, and a pool of untrained networks."""
        images = super().start(context).tensors["images"]
        labels = regression_targets(class_labels(context.real.num_classes, self.ipc), context.real.num_classes).to(context.device)
        tensors = _state_tensors("images", images, Moments.zero(images))
        tensors |= _state_tensors("labels", labels, Moments.zero(labels))
        return DistillState(tensors | self.network_pool.start(context))

    def iterate(self, state: DistillState, iteration: int, context: DistillContext) -> DistillState:
        """Makes one step of images and labels, and one of a member."""
        tensors, generator = state.tensors, context.stream("iterate", iteration)
        member = int(torch.randint(self.network_pool.members, (), generator=generator))
        rows = torch.randperm(len(context.real.split), generator=generator)[: self.real_batch]
        targets = regression_targets(context.real.split.labels[rows.to(context.device)], context.real.num_classes)
        leaves = {name: tensors[name].detach().requires_grad_() for name in ("images", "labels")}
        network = self.network_pool.network(member, tensors, context)
        with torch.no_grad():
            # Only the synthetic features need a graph.
            query = features(network, context.real.images(rows))
        loss = label_error(query, features(network, leaves["images"]), leaves["labels"], targets, ridge=self.ridge)
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        new = dict(tensors)
        for name, gradient in zip(leaves, gradients, strict=True):
            if name == "images" or self.learn_labels:
                moments = Moments(*(tensors[f"{name}/{moment}"] for moment in Moments._fields))
                updated = lamb_step(tensors[name], gradient, moments, step=iteration, lr=self.rate(iteration))
                new |= _state_tensors(name, *updated)
        # The member is trained on the images and labels that were just moved.
        new |= self.network_pool.advance(member, tensors, new["images"], new["labels"], context, iteration=iteration)
        return DistillState(new, {"regression_loss": float(loss.detach())})

    def rate(self, iteration: int) -> float:
        """Returns the learning rate of an iteration, counted from 0."""
        return self.lr * (0.1 + 0.9 * (1 + math.cos(math.pi * iteration / self.iterations)) / 2)

    def synthetic_set(self, state: DistillState, context: DistillContext) -> SyntheticSet:
        """Returns pixels and, if labels are learned, their probabilities as soft labels."""
        hard = super().synthetic_set(state, context)
        return replace(hard, soft_labels=probabilities(state.tensors["labels"])) if self.learn_labels else hard


def regression_targets(labels: Tensor, num_classes: int) -> Tensor:
    """Returns regression targets (N, K) float32 for labels (N,); each row sums to zero."""
    return (functional.one_hot(labels, num_classes).float() - 1 / num_classes) / math.sqrt(num_classes / 10)


def probabilities(targets: Tensor) -> Tensor:
    """Converts regression targets (N, K) to probabilities; the result of `regression_targets` becomes one-hot again."""
    num_classes = targets.shape[1]
    shares = (targets * math.sqrt(num_classes / 10) + 1 / num_classes).clamp(min=LEAST_LABEL)
    return shares / shares.sum(1, keepdim=True)


def label_error(query: Tensor, support: Tensor, labels: Tensor, targets: Tensor, *, ridge: float) -> Tensor:
    """Returns half the squared error of the regression minus the margin of the labels.

    The margin is the difference of the two largest labels, at most 1/K.
    query: features (Q, F) of real images, with targets (Q, K); support: features (N, F) of synthetic images, with labels (N, K).
    """
    first, second = labels.topk(2, dim=1).values.unbind(1)
    margin = (first - second).clamp(max=1 / labels.shape[1]).mean()
    return half_squared_error(predictions(query, support, labels, ridge=ridge), targets.double()) - margin


def _state_tensors(name: str, value: Tensor, moments: Moments) -> dict[str, Tensor]:
    """Returns a value and its moments by their names in a state."""
    return {name: value} | {f"{name}/{moment}": tensor for moment, tensor in moments._asdict().items()}
