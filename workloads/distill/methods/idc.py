"""Matches gradients on several images decoded from each stored image, in networks trained on real images (IDC).

Reference: Kim et al. 2022, Dataset Condensation via Efficient Synthetic-Data Parameterization (IDC, arXiv:2205.14959)

Images are pixels, clamped to [0, 1] when a network begins and when they become a set; in between they may leave it, so
evaluations with `evaluate_every` wait for the end of a network. The gradients of convolutions are matched by their differences,
which are not normalised. The images move after each class, and the network is trained on real images between two sweeps over the
classes. With factor 1 the method is IDC-I. The default distance is that for CIFAR and SVHN; for MNIST, Fashion-MNIST and ImageNet
IDC uses `absolute`, with learning rates 1e-4, 1e-4 and 3e-3.

DC corresponds to these settings: space normalised, init noise, factor 1, distance cosine, classifier, class_step sum, and a
network trained on the synthetic set without momentum and weight decay. DSA corresponds to the same settings if its transforms
are crop, scale and rotate only: IDC always applies color, flip and cutout, whereas DSA samples one of all transforms.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill import flop_counting
from pruneyard.workloads.distill.augment import Strategy, check_transforms
from pruneyard.workloads.distill.distiller import DistillContext, DistillState
from pruneyard.workloads.distill.flop_counting import ProblemSize
from pruneyard.workloads.distill.initial_images import (
    ImageDistiller,
    class_labels,
    initial_images,
    tiled_images,
    to_pixels,
)
from pruneyard.workloads.distill.masking import Masking
from pruneyard.workloads.distill.matcher import ClassStep, GradientMatcher, Precision
from pruneyard.workloads.distill.matching import DISTANCES
from pruneyard.workloads.distill.matching_measures import fresh_matching, gradient_diversity
from pruneyard.workloads.distill.network_training import LabelledImages, NetworkState, NetworkTraining
from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT, NOT_IDENTITY, renamed

__all__ = ["IDC"]

ALWAYS = ("flip", "color", "cutout")  # transforms that are applied to every batch if the strategy contains them
RATE_IPC = 10  # the images per class that learning rates are given for
NOISE_MEAN, NOISE_SD = 0.5, 0.25  # of pixels


@dataclass(frozen=True, kw_only=True)
class IDC(ImageDistiller):
    """IDC. One iteration is one sweep over the classes and the network training after it."""

    init: Literal["real", "noise"] = "real"  # real: a grid of factor x factor downscaled real images
    factor: int = 2  # each stored image is cut into factor x factor training images
    iterations: int = 2000  # number of networks
    steps: int = 100  # sweeps per network
    real_batch: int = 64  # real images per class
    synthetic_batch: int = 128  # number of random decoded images per class that are matched at once
    lr: float = 5e-3  # learning rate of the images at 10 per class; it is scaled in proportion to images per class
    momentum: float = 0.5
    class_step: ClassStep = "batched"  # sequential, as published; batched: equivalent in one step; sum: one step, as in DC
    space: Literal["pixels", "normalised"] = "pixels"
    distance: Literal["cosine", "squared", "absolute"] = "squared"
    classifier: bool = False  # also match the gradients of the classifier
    augment: str = "color_crop_cutout"  # shared by the real and the synthetic images of a class
    network: NetworkTraining = NetworkTraining()
    # Epochs of each network on all real images before its path begins, with the same training; published for ImageNet-10: 10.
    early_epochs: int = field(default=0, metadata=NEUTRAL_BY_DEFAULT)
    mask: Masking = Masking()  # on synthetic images while they are matched
    chunk: int | None = None  # images per backward pass on a CPU, by default as many as fit its caches; affects rounding only
    compile: bool = False  # compilation takes a minute or two, which pays off after some hundred steps; affects rounding only
    precision: Precision = "float32"  # of gradients on real images and of network training; matching stays in float32
    # seed of all that does not depend on the images; by default the job's seed
    trajectory_seed: int | None = field(default=None, metadata=renamed("path_seed"))
    # disk space for steps of networks that jobs share; 0: none
    cache_mb: int = field(default=0, metadata=renamed("share_mb", NOT_IDENTITY))
    # networks in which `train/gradient_diversity` and `train/fresh_matching` are measured at the end, see `matching_measures`
    measured: int = field(default=0, metadata=NEUTRAL_BY_DEFAULT)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("factor", "iterations", "steps", "real_batch", "synthetic_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.early_epochs < 0:
            raise ValueError(f"early_epochs is {self.early_epochs}; it must be 0 or more")
        if self.measured < 0 or self.measured == 1:
            raise ValueError(f"measured is {self.measured}; it must be 0, or 2 or more networks")
        if self.cache_mb < 0:
            raise ValueError(f"cache_mb is {self.cache_mb}; it must be 0 or more megabytes")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; it must be above 0")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk is {self.chunk}; it must be 1 or more")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must lie in [0, 1)")
        for name, allowed in (
            ("distance", tuple(DISTANCES)),
            ("class_step", ("batched", "sequential", "sum")),
            ("space", ("pixels", "normalised")),
            ("precision", ("float32", "bfloat16")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {', '.join(allowed)}")
        if self.space == "normalised" and self.factor > 1:
            raise ValueError(
                f"space is normalised and factor is {self.factor}; give space: pixels, as only pixels can be cut into images"
            )
        check_transforms("augment", self.augment)

    @property
    def num_iterations(self) -> int:
        """Number of sweeps over the classes."""
        return self.iterations * self.steps

    def ends_network(self, iteration: int) -> bool:
        """Returns whether no network is in use after the first `iteration` iterations."""
        return iteration % self.steps == 0

    def start(self, context: DistillContext) -> DistillState:
        """Returns initial images with zero velocity."""
        images = self._initial_images(context)
        return DistillState({"images": images, "velocity": torch.zeros_like(images)})

    def iterate(self, state: DistillState, iteration: int, context: DistillContext) -> DistillState:
        """Makes one sweep over the classes and trains the network up to the next sweep."""
        key = f"early {self.early_epochs}" if self.early_epochs else ""
        after = self.matcher(self.fresh_network, first_network_key=key).iterate(state, iteration, context)
        return self.with_measures(after, iteration, context, first_network=self.fresh_network)

    def with_measures(
        self,
        state: DistillState,
        iteration: int,
        context: DistillContext,
        *,
        first_network: Callable[[DistillContext, int], nn.Module],
    ) -> DistillState:
        """Returns the state after the last iteration with what is measured; any other state unchanged."""
        if not self.measured or iteration + 1 < self.num_iterations:
            return state
        of_path = self.matcher(first_network).path_context(context)
        diversity = gradient_diversity(lambda number: first_network(of_path, number), self.measured, context)
        matching = fresh_matching(self.synthetic_set(state, context), self.measured, context)
        numbers = {**state.numbers, "gradient_diversity": diversity, "fresh_matching": matching}
        return DistillState(state.tensors, numbers)

    def flops(self, iterations: int, problem: ProblemSize) -> float:
        """Returns the FLOPs of the first `iterations` sweeps and of training the networks that their paths begin with."""
        num_paths = -(-iterations // self.steps)
        early_flops = 0.0
        if self.early_epochs:
            early_flops = self.early_epochs * problem.num_rows * flop_counting.training_flops(problem.network_spec)
        return self.matcher(self.fresh_network).flops(iterations, problem) + num_paths * early_flops

    def synthetic_set(self, state: DistillState, context: DistillContext) -> SyntheticSet:
        """Returns the current images; pixels that left [0, 1] since their network began are clamped."""
        images = state.tensors["images"]
        return SyntheticSet(
            images=images.clamp(0, 1) if self.space == "pixels" else to_pixels(images, context),
            labels=class_labels(context.real.num_classes, self.ipc).to(context.device),
            soft_labels=torch.zeros(0, context.real.num_classes, device=context.device),
            mean=context.real.mean,
            std=context.real.std,
            factor=self.factor,
        )

    def fresh_network(self, context: DistillContext, number: int) -> nn.Module:
        """Returns the network that a path begins with: a new one, trained for `early_epochs` epochs."""
        network = context.network("match", number)
        if self.early_epochs:
            training = replace(self.network, train_on="real", num_images=self.early_epochs * len(context.real.split))
            training.run(
                network,
                NetworkState.initial(network).momentum,
                LabelledImages.from_real_set(context.real),
                context.stream("early", number),
                strategy=Strategy.of(training.augment, always=ALWAYS),
                chunk=self.chunk,
            )
        return network

    def matcher(
        self, first_network: Callable[[DistillContext, int], nn.Module], first_network_key: str = ""
    ) -> GradientMatcher:
        """Returns the matcher of this method.

        first_network: returns the network that a path begins with, by its number.
        first_network_key: describes all that this network depends on.
        """
        return GradientMatcher(
            ipc=self.ipc,
            factor=self.factor,
            steps=self.steps,
            real_batch=self.real_batch,
            synthetic_batch=self.synthetic_batch,
            lr=self.lr * self.ipc / RATE_IPC,
            momentum=self.momentum,
            class_step=self.class_step,
            pixels=self.space == "pixels",
            distance=self.distance,
            classifier=self.classifier,
            strategy=Strategy.of(self.augment, always=ALWAYS),
            network_strategy=Strategy.of(self.network.augment, always=ALWAYS),
            training=self.network,
            mask=self.mask,
            chunk=self.chunk,
            compile=self.compile,
            precision=self.precision,
            first_network=first_network,
            first_network_key=first_network_key,
            trajectory_seed=self.trajectory_seed,
            share_bytes=self.cache_mb * 10**6,
        )

    def _initial_images(self, context: DistillContext) -> Tensor:
        if self.init == "real":
            images = tiled_images(ipc=self.ipc, factor=self.factor, context=context)
            return to_pixels(images, context) if self.space == "pixels" else images
        images = initial_images("noise", ipc=self.ipc, context=context)
        return (images * NOISE_SD + NOISE_MEAN).clamp(0, 1) if self.space == "pixels" else images
