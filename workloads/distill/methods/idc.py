"""Match gradients of the several images that each stored one is cut into, on the path of real training (IDC).

Reference: Kim et al. 2022, Dataset Condensation via Efficient Synthetic-Data Parameterization (IDC, arXiv:2205.14959)

Images are pixels, clamped to [0, 1] when a network begins. Gradients of convolutions are matched, by differences that are not
normalised; the images move after each class, and the network is trained on real images between two sweeps over the classes.
Factor 1 is IDC-I. The distance is that of CIFAR and SVHN; for MNIST, Fashion-MNIST and ImageNet IDC takes `absolute`, with
rates 1e-4, 1e-4 and 3e-3.

What DC is in these terms: space normalised, init noise, factor 1, distance cosine, classifier, class_step sum, and the network
trained on the synthetic set without momentum and decay. DSA is so too as far as its transforms are crop, scale and rotate: IDC
applies color, flip and cutout always, DSA draws one of all.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill import work
from pruneyard.workloads.distill.augment import Strategy
from pruneyard.workloads.distill.distiller import DistillState, Lab
from pruneyard.workloads.distill.masking import Masking
from pruneyard.workloads.distill.matcher import ClassStep, Matcher, Precision
from pruneyard.workloads.distill.matching import DISTANCES
from pruneyard.workloads.distill.network_training import NetworkTraining, Pile, Position
from pruneyard.workloads.distill.starting import Distilled, labels_of, pixels, starting_images, tiled_images
from pruneyard.workloads.distill.work import Scene
from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT, NOT_IDENTITY

__all__ = ["IDC"]

ALWAYS = ("flip", "color", "cutout")  # transforms that are applied at every call, where the strategy has them
RATE_IPC = 10  # the images per class that rates are given for
NOISE_MEAN, NOISE_SD = 0.5, 0.25  # of pixels


@dataclass(frozen=True, kw_only=True)
class IDC(Distilled):
    """One iteration is one sweep over the classes, and the network's training after it."""

    init: Literal["real", "noise"] = (
        "real"  # real: a grid of factor x factor real images, shrunk to its cells
    )
    factor: int = 2  # each stored image is cut into factor x factor training images
    iterations: int = 2000  # networks
    steps: int = 100  # sweeps per network
    real_batch: int = 64  # real images per class
    synthetic_batch: int = 128  # images cut out of a class's stored ones that are matched at once, at random
    lr: float = 5e-3  # of the images at 10 per class; in proportion to their number
    momentum: float = 0.5
    class_step: ClassStep = (
        "batched"  # sequential, as published; batched: the same in one step; sum: one step, as in DC
    )
    space: Literal["pixels", "normalised"] = "pixels"
    distance: Literal["cosine", "squared", "absolute"] = "squared"
    classifier: bool = False  # whether its gradients are matched too
    augment: str = "color_crop_cutout"  # shared by the real and the synthetic images of a class
    network: NetworkTraining = NetworkTraining()
    early_epochs: int = field(
        default=0, metadata=NEUTRAL_BY_DEFAULT
    )  # of each network on all real images before its path begins, with the same training; published for ImageNet-10: 10
    mask: Masking = Masking()  # on synthetic images while they are matched
    chunk: int | None = (
        None  # images per backward pass on a CPU, by default what its caches hold: changes rounding only
    )
    compile: bool = False  # worth its minute or two from some hundred steps on; changes rounding only
    precision: Precision = (
        "float32"  # of gradients on real images and of the training of networks; matching stays in float32
    )
    path_seed: int | None = None  # of all that does not depend on the images; by default the job's seed
    share_mb: int = field(
        default=0, metadata=NOT_IDENTITY
    )  # on disk, for steps of networks that jobs share; 0: none

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("factor", "iterations", "steps", "real_batch", "synthetic_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.early_epochs < 0:
            raise ValueError(f"early_epochs is {self.early_epochs}; it must be 0 or more")
        if self.share_mb < 0:
            raise ValueError(f"share_mb is {self.share_mb}; it must be 0 or more megabytes")
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
                f"space is normalised and factor {self.factor}; only pixels can be cut into several images"
            )
        try:
            Strategy.of(self.augment)
        except ValueError as error:
            raise ValueError(f"augment is {self.augment!r}; {error}") from error

    @property
    def num_iterations(self) -> int:
        """Sweeps over the classes."""
        return self.iterations * self.steps

    def start(self, lab: Lab) -> DistillState:
        """Images at their start, standing still."""
        images = self._starting(lab)
        return DistillState({"images": images, "velocity": torch.zeros_like(images)})

    def iterate(self, state: DistillState, iteration: int, lab: Lab) -> DistillState:
        """One sweep over the classes, and the network's training up to the next."""
        about = f"early {self.early_epochs}" if self.early_epochs else ""
        return self.matcher(self.fresh_network, about_first=about).iterate(state, iteration, lab)

    def flops(self, iterations: int, scene: Scene) -> float:
        """Counted work of the first so many sweeps, and of what makes the networks that their paths begin with."""
        num_paths = -(-iterations // self.steps)
        first = self.early_epochs * scene.num_rows * work.training(scene.kind) if self.early_epochs else 0.0
        return self.matcher(self.fresh_network).flops(iterations, scene) + num_paths * first

    def synthetic_set(self, state: DistillState, lab: Lab) -> SyntheticSet:
        """The images as they were last moved, which may have left [0, 1]."""
        images = state.tensors["images"]
        return SyntheticSet(
            images=images if self.space == "pixels" else pixels(images, lab),
            labels=labels_of(lab.real.num_classes, self.ipc).to(lab.device),
            soft_labels=torch.zeros(0, lab.real.num_classes, device=lab.device),
            mean=lab.real.mean,
            std=lab.real.std,
            factor=self.factor,
        )

    def fresh_network(self, lab: Lab, number: int) -> nn.Module:
        """What the path of this number begins with, standing still."""
        network = lab.network("match", number)
        if self.early_epochs:
            training = replace(self.network, on="real", rows=self.early_epochs * len(lab.real.split))
            training.follow(
                network,
                Position.start(network).momentum,
                Pile.of_real(lab.real),
                lab.stream("early", number),
                strategy=Strategy.of(training.augment, always=ALWAYS),
                chunk=self.chunk,
            )
        return network

    def matcher(self, first: Callable[[Lab, int], nn.Module], about_first: str = "") -> Matcher:
        """first: the network that a path begins with, by its number; about_first: what it depends on."""
        return Matcher(
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
            first=first,
            about_first=about_first,
            path_seed=self.path_seed,
            share_bytes=self.share_mb * 10**6,
        )

    def _starting(self, lab: Lab) -> Tensor:
        if self.init == "real":
            images = tiled_images(ipc=self.ipc, factor=self.factor, lab=lab)
            return pixels(images, lab) if self.space == "pixels" else images
        images = starting_images("noise", ipc=self.ipc, lab=lab)
        return (images * NOISE_SD + NOISE_MEAN).clamp(0, 1) if self.space == "pixels" else images
