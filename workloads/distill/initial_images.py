"""Initial synthetic images, and the base class of distillers that optimise images."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill.distiller import DistillContext, DistillState


@dataclass(frozen=True, kw_only=True)
class ImageDistiller:
    """The base class of distillers that optimise images with hard labels.

    The images are the tensor `images` of the state, normalised, class after class. They may leave the range of pixels while
    they are optimised, as published; the set of a state is clamped to it, and networks are evaluated on the clamped set.
    """

    revision: ClassVar[int] = 2

    ipc: int  # images per class
    init: Literal["real", "noise"] = "real"  # random real images of the class, or normal noise in every pixel

    def __post_init__(self) -> None:
        if self.ipc < 1:
            raise ValueError(f"ipc is {self.ipc}; it must be 1 or more")
        if self.init not in ("real", "noise"):
            raise ValueError(f"init is {self.init!r}; it must be real or noise")

    def start(self, context: DistillContext) -> DistillState:
        """Returns initial images with zero velocity."""
        images = initial_images(self.init, ipc=self.ipc, context=context)
        return DistillState({"images": images, "velocity": torch.zeros_like(images)})

    def synthetic_set(self, state: DistillState, context: DistillContext) -> SyntheticSet:
        """Returns the images of the state as pixels."""
        return SyntheticSet(
            images=to_pixels(state.tensors["images"], context),
            labels=class_labels(context.real.num_classes, self.ipc).to(context.device),
            # No rows: the set has hard labels only.
            soft_labels=torch.zeros(0, context.real.num_classes, device=context.device),
            mean=context.real.mean,
            std=context.real.std,
        )


def class_labels(num_classes: int, ipc: int) -> Tensor:
    """Returns labels (num_classes * ipc,) int64, class after class."""
    return torch.arange(num_classes).repeat_interleave(ipc)


def initial_images(init: str, *, ipc: int, context: DistillContext) -> Tensor:
    """Returns normalised images (num_classes * ipc, C, H, W) on the device; `init` is "real" or "noise"."""
    generator = context.stream("start")
    if init == "noise":
        shape = (context.real.num_classes * ipc, *context.real.split.image_shape)
        # Sampled on the CPU, so that the noise is the same on every device.
        return torch.randn(shape, generator=generator).to(context.device)
    rows = [context.real.sample_rows(label, ipc, generator) for label in range(context.real.num_classes)]
    return context.real.images(torch.cat(rows))


def to_pixels(normalised: Tensor, context: DistillContext) -> Tensor:
    """Converts normalised images to pixels with black 0 and white 1; values beyond black and white are clamped."""
    mean, std = (normalised.new_tensor(values).view(1, -1, 1, 1) for values in (context.real.mean, context.real.std))
    return (normalised * std + mean).clamp(0, 1)


def normalise(images: Tensor, context: DistillContext) -> Tensor:
    """Normalises pixels with black 0 and white 1, as inputs of a network; differentiable."""
    mean, std = (images.new_tensor(values).view(1, -1, 1, 1) for values in (context.real.mean, context.real.std))
    return torch.div(images - mean, std)


def tiled_images(*, ipc: int, factor: int, context: DistillContext) -> Tensor:
    """Returns normalised images (num_classes * ipc, C, H, W), each a grid of factor x factor downscaled real images of its class.

    If a class has too few rows, they are repeated. The cells are the crops of `multi_formation.decode`; cells that reach
    beyond the image are cut off. Reference: the initialisation of IDC, arXiv:2205.14959
    """
    generator, per_class = context.stream("start"), ipc * factor**2
    rows = [context.real.sample_rows(label, per_class, generator) for label in range(context.real.num_classes)]
    real = context.real.images(
        torch.cat([found.repeat(-(-per_class // len(found)))[:per_class] for found in rows])
    )
    height, width = real.shape[2:]
    cell_size = (-(-height // factor), -(-width // factor))
    cells: Tensor = functional.interpolate(real, size=cell_size, mode="nearest").unflatten(0, (-1, factor, factor))
    # (N, row, column, C, h, w) to (N, C, row, h, column, w).
    grid = cells.permute(0, 3, 1, 4, 2, 5).reshape(-1, real.shape[1], factor * cell_size[0], factor * cell_size[1])
    # Without a copy the cut images have gaps in memory, on which convolutions are slower.
    return grid[..., :height, :width].contiguous()


def momentum_step(
    images: Tensor, velocity: Tensor, gradient: Tensor, *, lr: float, momentum: float
) -> tuple[Tensor, Tensor]:
    """Returns images and velocity after a step of SGD with momentum; the arguments are not modified."""
    velocity = momentum * velocity + gradient
    return images - lr * velocity, velocity
