"""Matches, class by class, the mean features of synthetic and real images in untrained networks (DM).

Reference: Zhao and Bilen 2023, Dataset Condensation with Distribution Matching (arXiv:2110.04181)

Features are the inputs of the classifier of a newly initialised network. Each class has a separate forward pass, whereas with
batch norm all classes would have to share one; so use a network with instance norm or without norm.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruneyard.workloads.distill import flop_counting
from pruneyard.workloads.distill.augment import SampledTransforms, Strategy, check_transforms
from pruneyard.workloads.distill.distiller import DistillContext, DistillState
from pruneyard.workloads.distill.flop_counting import ProblemSize
from pruneyard.workloads.distill.initial_images import ImageDistiller, momentum_step
from pruneyard.workloads.distill.masking import Masking
from pruneyard.workloads.distill.matching import choose_chunk_size
from pruneyard.workloads.networks.features import features

__all__ = ["DM"]


@dataclass(frozen=True, kw_only=True)
class DM(ImageDistiller):
    """Distribution matching with a new network in every iteration, which is one step of the images."""

    iterations: int = 20_000
    real_batch: int = 256  # real images per class
    lr: float = 1.0  # learning rate of the images
    momentum: float = 0.5
    augment: str = "color_crop_cutout_flip_scale_rotate"  # shared by the real and the synthetic images of a class
    mask: Masking = Masking()  # on synthetic images while they are matched

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("iterations", "real_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; it must be above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must lie in [0, 1)")
        check_transforms("augment", self.augment)

    @property
    def num_iterations(self) -> int:
        return self.iterations

    def iterate(self, state: DistillState, iteration: int, context: DistillContext) -> DistillState:
        """Makes one step of the images with a new network."""
        network, generator = context.network("match", iteration), context.stream("iterate", iteration)
        # Masks have a stream of their own, so that they do not change which real images are sampled.
        strategy, masks = Strategy.of(self.augment), context.stream("mask", iteration)
        total, gradients = torch.zeros((), device=context.device), []
        for label, synthetic in enumerate(state.tensors["images"].split(self.ipc)):
            real = context.real.images(context.real.sample_rows(label, self.real_batch, generator))
            loss, gradient = match_class_features(
                network, synthetic, real, strategy.sample(generator), lambda images: self.mask(images, masks)
            )
            total += loss
            gradients.append(gradient)
        images, velocity = momentum_step(
            state.tensors["images"],
            state.tensors["velocity"],
            torch.cat(gradients),
            lr=self.lr,
            momentum=self.momentum,
        )
        return DistillState(
            {"images": images, "velocity": velocity}, {"matching_loss": float(total) / context.real.num_classes}
        )

    def flops(self, iterations: int, problem: ProblemSize) -> float:
        """Returns the FLOPs of the first `iterations` iterations."""
        real_flops = flop_counting.forward_flops(problem.network_spec)
        synthetic_flops = flop_counting.feature_gradient_flops(problem.network_spec)
        return iterations * (problem.num_sampled(self.real_batch) * real_flops + problem.num_classes * self.ipc * synthetic_flops)


def match_class_features(
    network: nn.Module,
    synthetic: Tensor,
    real: Tensor,
    transform: SampledTransforms,
    mask: Callable[[Tensor], Tensor] = lambda images: images,
) -> tuple[Tensor, Tensor]:
    """Returns the squared distance of the mean features and its gradient by the synthetic images.

    mask: applied to the synthetic images before the transforms.
    """
    with torch.no_grad():
        inputs = transform(real)
        chunks = inputs.split(choose_chunk_size(network, inputs))
        target = torch.cat([features(network, chunk) for chunk in chunks]).mean(0)
    leaf = synthetic.detach().requires_grad_()
    loss = (features(network, transform(mask(leaf))).mean(0) - target).square().sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), gradient
