"""Where synthetic images start from, and the parts that most distillers share."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill.distiller import DistillState, Lab


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """The images are the state's tensor `images`, normalised, class after class; labels are hard."""

    ipc: int  # images per class
    init: Literal["real", "noise"] = "real"  # random real images of the class, or a normal draw per pixel

    def __post_init__(self) -> None:
        if self.ipc < 1:
            raise ValueError(f"ipc is {self.ipc}; it must be 1 or more")
        if self.init not in ("real", "noise"):
            raise ValueError(f"init is {self.init!r}; it must be real or noise")

    def start(self, lab: Lab) -> DistillState:
        """Images at their start, standing still."""
        images = starting_images(self.init, ipc=self.ipc, lab=lab)
        return DistillState({"images": images, "velocity": torch.zeros_like(images)})

    def synthetic_set(self, state: DistillState, lab: Lab) -> SyntheticSet:
        """Brought back to pixels."""
        return SyntheticSet(
            images=pixels(state.tensors["images"], lab),
            labels=labels_of(lab.real.num_classes, self.ipc).to(lab.device),
            soft_labels=torch.zeros(0, lab.real.num_classes, device=lab.device),
            mean=lab.real.mean,
            std=lab.real.std,
        )


def labels_of(num_classes: int, ipc: int) -> Tensor:
    """(num_classes * ipc,) int64, class after class."""
    return torch.arange(num_classes).repeat_interleave(ipc)


def starting_images(init: str, *, ipc: int, lab: Lab) -> Tensor:
    """Normalised (num_classes * ipc, C, H, W) on the device."""
    draws = lab.stream("start")
    if init == "noise":
        return torch.randn((lab.real.num_classes * ipc, *lab.real.split.image_shape), generator=draws).to(
            lab.device
        )
    return lab.real.images(
        torch.cat([lab.real.draw(label, ipc, draws) for label in range(lab.real.num_classes)])
    )


def pixels(normalised: Tensor, lab: Lab) -> Tensor:
    """Of normalised images, with black 0 and white 1."""
    mean, std = (normalised.new_tensor(values).view(1, -1, 1, 1) for values in (lab.real.mean, lab.real.std))
    return normalised * std + mean


def normalised(images: Tensor, lab: Lab) -> Tensor:
    """Of pixels with black 0 and white 1, as a network sees them; differentiable."""
    mean, std = (images.new_tensor(values).view(1, -1, 1, 1) for values in (lab.real.mean, lab.real.std))
    return torch.div(images - mean, std)


def tiled_images(*, ipc: int, factor: int, lab: Lab) -> Tensor:
    """Normalised (num_classes * ipc, C, H, W): each image a grid of factor x factor real ones of its class, shrunk to its cells.

    Where a class has too few rows for that, they come again. Cells are those that `decode` cuts; what goes beyond the image
    is cut off. Reference: the initialisation of IDC, arXiv:2205.14959
    """
    draws, per_class = lab.stream("start"), ipc * factor**2
    rows = [lab.real.draw(label, per_class, draws) for label in range(lab.real.num_classes)]
    real = lab.real.images(
        torch.cat([found.repeat(-(-per_class // len(found)))[:per_class] for found in rows])
    )
    height, width = real.shape[2:]
    tall, wide = -(-height // factor), -(-width // factor)
    cells: Tensor = functional.interpolate(real, size=(tall, wide), mode="nearest").unflatten(0, (-1, factor, factor))
    grid = cells.permute(0, 3, 1, 4, 2, 5).reshape(-1, real.shape[1], factor * tall, factor * wide)
    return grid[..., :height, :width].contiguous()


def momentum_step(
    images: Tensor, velocity: Tensor, gradient: Tensor, *, lr: float, momentum: float
) -> tuple[Tensor, Tensor]:
    """Images and velocity after a step of SGD with momentum; those before stay as they are."""
    velocity = momentum * velocity + gradient
    return images - lr * velocity, velocity
