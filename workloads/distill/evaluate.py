"""What a synthetic set is worth: fresh networks trained on it alone, looked at on real images they have never seen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill.augment import Strategy
from pruneyard.workloads.distill.matching import chunk_of, chunked_gradient
from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT
from pruneyard.workloads.metrics.classification import standard_metrics
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.plugins import Plugin, name_of
from pruneyard.workloads.seeding import global_stream, stream

ROWS = 1000  # real rows per forward pass


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How the networks are trained; the defaults are those of DC, DSA and DM but for the number of networks.

    networks: of each architecture, every one initialised and trained with draws of its own.
    architectures: others than the job's `model`, for how well the set serves them.
    augment: names of transforms joined by underscores (color, crop, cutout, flip, scale, rotate), one drawn per batch with
        parameters per image; empty for none. always: those of them that every batch passes, beside one of the others:
        flip_color_cutout in IDC and Acc-DD. cutmix: share of batches that are mixed by CutMix.
    milestones: shares of the epochs after which the rate is multiplied by `decay`.
    max_steps: of one network; a set so large that its epochs have more is trained for fewer epochs.
    separate: whether to tell the worth of the images from that of augmentation and labels, at the end; see
        `pruneyard.workloads.distill.separation`. It needs a `max_steps`, since networks are also trained on the whole set.
    labels: stored: those of the set; views: every batch, augmented and mixed, is shown to the distiller's teacher, and its
        probabilities are the targets, as published for RDED, and as those mean who store one label per view (SRe2L).
    temperature: divides the logits of teacher and network alike, where labels are of views; their cross-entropy, the
        divergence but for a constant, is multiplied by its square. Published: 20, or 30 for SRe2L on CIFAR; whether they
        multiply is unverified.
    """

    networks: int = 3
    architectures: tuple[Annotated[ModelBuilder, Plugin("models")], ...] = ()
    epochs: int = 1000
    batch_size: int = 256
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    milestones: tuple[float, ...] = (0.5,)
    decay: float = 0.1
    augment: str = "color_crop_cutout_flip_scale_rotate"
    cutmix: float = 0.0
    always: str = field(default="", metadata=NEUTRAL_BY_DEFAULT)
    max_steps: int | None = field(default=None, metadata=NEUTRAL_BY_DEFAULT)
    separate: bool = field(default=False, metadata=NEUTRAL_BY_DEFAULT)
    labels: Literal["stored", "views"] = field(default="stored", metadata=NEUTRAL_BY_DEFAULT)
    temperature: float = field(default=1.0, metadata=NEUTRAL_BY_DEFAULT)

    def __post_init__(self) -> None:
        for name in ("networks", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; it must be above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must lie in [0, 1)")
        if not 0 <= self.cutmix <= 1:
            raise ValueError(f"cutmix is {self.cutmix}; it must lie in [0, 1], a share of the batches")
        if list(self.milestones) != sorted(self.milestones) or not all(0 < m < 1 for m in self.milestones):
            raise ValueError(f"milestones is {list(self.milestones)}; it must rise and lie in (0, 1), shares of the epochs")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps is {self.max_steps}; it must be 1 or more")
        if self.separate and self.max_steps is None:
            raise ValueError("separate is true without max_steps; networks of the whole set must end, so give some thousands")
        if self.labels not in ("stored", "views"):
            raise ValueError(f"labels is {self.labels!r}; it must be stored or views")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")
        if self.temperature != 1 and self.labels == "stored":
            raise ValueError(f"temperature is {self.temperature} with stored labels, which have the method's; give labels: views")
        for name in ("augment", "always"):
            try:
                Strategy.of(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"{name} is {getattr(self, name)!r}; {error}") from error

    @property
    def strategy(self) -> Strategy:
        """What batches pass."""
        return Strategy.of(self.augment, always=Strategy.of(self.always).names)

    def for_images(self, num: int) -> "Evaluation":
        """Of a set of so many training images: with as many epochs as there is time for, one at least."""
        if self.max_steps is None:
            return self
        per_epoch = -(-num // self.batch_size)
        return replace(self, epochs=max(1, min(self.epochs, self.max_steps // per_epoch)))

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return self.lr * self.decay ** sum(epoch >= round(share * self.epochs) for share in self.milestones)


def trained(
    synthetic: SyntheticSet,
    *,
    model: ModelBuilder,
    evaluation: Evaluation,
    num_classes: int,
    seed: int,
    index: int,
    between_epochs: Callable[[], None] = lambda: None,
    label: Callable[[Tensor], Tensor] | None = None,
) -> nn.Module:
    """The network of this number, trained on the set, in evaluation mode on the device of its images.

    label: probabilities (B, K) of a batch as the network is shown it, at the temperature; None: the targets of the set.
    """
    assert (label is not None) == (evaluation.labels == "views"), "labels of views are asked for, and no others"
    name = f"evaluate/{name_of(model)}/{index}"
    images, targets = synthetic.training_images(), synthetic.targets(num_classes)
    evaluation = evaluation.for_images(len(images))
    with global_stream(seed, name):
        network = model.build(image_shape=tuple(images.shape[1:]), num_classes=num_classes)  # type: ignore[arg-type]
    network = network.to(images.device).train()
    parameters = list(network.parameters())
    asked = network if evaluation.temperature == 1 else _Cooled(network, evaluation.temperature)
    optimizer = torch.optim.SGD(
        parameters,
        lr=evaluation.lr,
        momentum=evaluation.momentum,
        weight_decay=evaluation.weight_decay,
        fused=True,
    )
    strategy = evaluation.strategy
    for epoch in range(evaluation.epochs):
        between_epochs()
        draws = stream(seed, name, epoch)
        for group in optimizer.param_groups:
            group["lr"] = evaluation.rate(epoch)
        order = torch.randperm(len(images), generator=draws).to(images.device)
        for rows in order.split(evaluation.batch_size):
            batch, wanted = images[rows], targets[rows]
            if evaluation.augment:
                batch = strategy.draw(draws, num=len(rows))(batch)
            if evaluation.cutmix and float(torch.rand((), generator=draws)) < evaluation.cutmix:
                batch, wanted = cutmix(batch, wanted, draws)
            if label is not None:
                wanted = label(batch) * evaluation.temperature**2
            gradients = chunked_gradient(asked, parameters, batch, wanted, chunk=chunk_of(network, batch))
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
    return network.eval()


class _Cooled(nn.Module):
    """A network whose logits are divided by a temperature."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        logits: Tensor = self.network(images) / self.temperature
        return logits


def cutmix(images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A rectangle of each image comes from another one, and as large a share of its target; one rectangle for all.

    Reference: Yun et al. 2019, CutMix (arXiv:1905.04899), with its share drawn from Beta(1, 1), which is uniform.
    """
    height, width = images.shape[2:]
    kept, across, down = torch.rand(3, generator=generator).tolist()
    tall, wide = (round(side * (1 - kept) ** 0.5) for side in (height, width))
    top, left = round(down * height) - tall // 2, round(across * width) - wide // 2
    rows = slice(max(top, 0), max(min(top + tall, height), 0))
    columns = slice(max(left, 0), max(min(left + wide, width), 0))
    others = torch.randperm(len(images), generator=generator).to(images.device)
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[others][:, :, rows, columns]
    share = 1 - mixed[0, 0, rows, columns].numel() / (height * width)
    return mixed, share * targets + (1 - share) * targets[others]


@torch.no_grad()
def logits(network: nn.Module, split: DeviceSplit) -> np.ndarray:
    """Outputs (N, K) float32 on the rows of a split."""
    return torch.cat([network(images).float() for images, _ in split.batches(ROWS)]).cpu().numpy()


def mean_metrics(of_networks: Sequence[np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Standard metrics, each the mean over networks, and `accuracy_sd`, their spread (0 for one network)."""
    each = [standard_metrics(outputs, labels) for outputs in of_networks]
    means = {name: float(np.mean([metrics[name] for metrics in each])) for name in each[0]}
    accuracies = [metrics["accuracy"] for metrics in each]
    return {**means, "accuracy_sd": float(np.std(accuracies, ddof=1)) if len(each) > 1 else 0.0}
