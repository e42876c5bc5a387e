"""Predicts real labels by kernel regression on the synthetic set, in features of a pool of networks (FRePo).

Reference: Zhou, Nezhadarya and Ba 2022, Dataset Distillation using Neural Feature Regression (arXiv:2206.00719)

An iteration samples a member of the pool and real rows, predicts their labels from the synthetic images by ridge regression on
the member's features, moves images and labels by LAMB, and trains the member for one step on the set. The gradient passes
through the regression only, not through the member's training.

Real rows are to be predicted as one-hot - 1/C. The labels of the synthetic images are learned and begin at the same divided by
sqrt(C / 10), as in the released code. The soft labels of the set are these labels converted to probabilities: scaled back,
clamped at zero and normalised to sum 1. The conversion is our choice, since evaluation networks are trained with cross-entropy;
the release trains them on the labels as they are, by squared error and Adam at 3e-4, and tests a moving average of their
weights. So their probabilities are less calibrated than those of networks that are trained on hard labels. Published images are
ZCA-whitened and published networks double their width from block to block; here neither is done.
Memory: that of the pool, and the features of real_batch + IPC x classes images with their graph.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
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
    # Whether the support also contains the mirrored images. Published: true for CIFAR-10 and, at one image per class, for
    # CIFAR-100 and Tiny ImageNet; false for MNIST and Fashion-MNIST.
    flip: bool = True
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
        labels = initial_labels(class_labels(context.real.num_classes, self.ipc), context.real.num_classes).to(context.device)
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
        loss = label_error(query, self._support(network, leaves["images"]), leaves["labels"], targets, ridge=self.ridge)
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

    def _support(self, network: nn.Module, images: Tensor) -> Tensor:
        """Returns the features (N, F) of the images or, with `flip`, (2N, F), those of the mirrored images last."""
        return features(network, torch.cat([images, images.flip(3)]) if self.flip else images)

    def rate(self, iteration: int) -> float:
        """Returns the learning rate of an iteration, counted from 0."""
        return self.lr * (0.1 + 0.9 * (1 + math.cos(math.pi * iteration / self.iterations)) / 2)

    def synthetic_set(self, state: DistillState, context: DistillContext) -> SyntheticSet:
        """Returns pixels and, if labels are learned, their probabilities as soft labels."""
        hard = super().synthetic_set(state, context)
        return replace(hard, soft_labels=probabilities(state.tensors["labels"])) if self.learn_labels else hard


def regression_targets(labels: Tensor, num_classes: int) -> Tensor:
    """Returns what is to be predicted for real rows with labels (N,): (N, K) float32, each row sums to zero."""
    return functional.one_hot(labels, num_classes).float() - 1 / num_classes


def initial_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Returns the labels (N, K) float32 that synthetic images of classes (N,) begin with; the targets for 10 classes."""
    return regression_targets(labels, num_classes) / math.sqrt(num_classes / 10)


def probabilities(labels: Tensor) -> Tensor:
    """Converts labels (N, K) of synthetic images to probabilities; the result of `initial_labels` becomes one-hot again."""
    num_classes = labels.shape[1]
    shares = (labels * math.sqrt(num_classes / 10) + 1 / num_classes).clamp(min=LEAST_LABEL)
    return shares / shares.sum(1, keepdim=True)


def label_error(query: Tensor, support: Tensor, labels: Tensor, targets: Tensor, *, ridge: float) -> Tensor:
    """Returns half the squared error of the regression minus the margin of the labels.

    The margin is the difference of the two largest labels, at most 1/K.
    query: features (Q, F) of real images, with targets (Q, K); labels: (N, K) of the synthetic images; support: (N, F), their
    features, or (2N, F), followed by those of the mirrored images, which have the same labels.
    """
    first, second = labels.topk(2, dim=1).values.unbind(1)
    margin = (first - second).clamp(max=1 / labels.shape[1]).mean()
    labels = labels.repeat(len(support) // len(labels), 1)
    return half_squared_error(predictions(query, support, labels, ridge=ridge), targets.double()) - margin


def _state_tensors(name: str, value: Tensor, moments: Moments) -> dict[str, Tensor]:
    """Returns a value and its moments by their names in a state."""
    return {name: value} | {f"{name}/{moment}": tensor for moment, tensor in moments._asdict().items()}
