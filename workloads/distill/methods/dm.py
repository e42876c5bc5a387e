"""Match, class by class, the mean features of synthetic and real images in networks that are never trained (DM).

Reference: Zhao and Bilen 2023, Dataset Condensation with Distribution Matching (arXiv:2110.04181)

Features are what the classifier of a fresh network sees. With batch norm all classes would share a pass; here each has its
own, so use a network with instance norm or none.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruneyard.workloads.distill import work
from pruneyard.workloads.distill.augment import Drawn, Strategy
from pruneyard.workloads.distill.distiller import DistillState, Lab
from pruneyard.workloads.distill.masking import Masking
from pruneyard.workloads.distill.matching import chunk_of
from pruneyard.workloads.distill.starting import Distilled, momentum_step
from pruneyard.workloads.distill.work import Scene
from pruneyard.workloads.networks.features import features

__all__ = ["DM"]


@dataclass(frozen=True, kw_only=True)
class DM(Distilled):
    """One network and one step per iteration."""

    iterations: int = 20_000
    real_batch: int = 256  # real images per class
    lr: float = 1.0  # of the images
    momentum: float = 0.5
    augment: str = (
        "color_crop_cutout_flip_scale_rotate"  # shared by the real and the synthetic images of a class
    )
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
        try:
            Strategy.of(self.augment)
        except ValueError as error:
            raise ValueError(f"augment is {self.augment!r}; {error}") from error

    @property
    def num_iterations(self) -> int:
        return self.iterations

    def iterate(self, state: DistillState, iteration: int, lab: Lab) -> DistillState:
        """One network, looked at once."""
        network, draws = lab.network("match", iteration), lab.stream("iterate", iteration)
        strategy, masks = Strategy.of(self.augment), lab.stream("mask", iteration)
        total, gradients = torch.zeros((), device=lab.device), []
        for label, mine in enumerate(state.tensors["images"].split(self.ipc)):
            real = lab.real.images(lab.real.draw(label, self.real_batch, draws))
            loss, gradient = of_class(
                network, mine, real, strategy.draw(draws), lambda images: self.mask(images, masks)
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
            {"images": images, "velocity": velocity}, {"matching_loss": float(total) / lab.real.num_classes}
        )

    def flops(self, iterations: int, scene: Scene) -> float:
        """Counted work of the first so many iterations."""
        of_real, of_mine = work.looking(scene.kind), work.features_gradient(scene.kind)
        return iterations * (scene.drawn(self.real_batch) * of_real + scene.num_classes * self.ipc * of_mine)


def of_class(
    network: nn.Module,
    mine: Tensor,
    real: Tensor,
    drawn: Drawn,
    mask: Callable[[Tensor], Tensor] = lambda images: images,
) -> tuple[Tensor, Tensor]:
    """Squared distance of the mean features, and its gradient by the synthetic images; mask: what these pass first."""
    with torch.no_grad():
        seen = drawn(real)
        pieces = seen.split(chunk_of(network, seen))
        wanted = torch.cat([features(network, piece) for piece in pieces]).mean(0)
    leaf = mine.detach().requires_grad_()
    loss = (features(network, drawn(mask(leaf))).mean(0) - wanted).square().sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), gradient
