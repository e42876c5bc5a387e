"""Evaluation of a synthetic set: new networks are trained on it alone and tested on held-out real images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pruneyard.workloads.data.batches import DeviceSplit, split_rows
from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill.augment import Strategy, check_transforms
from pruneyard.workloads.distill.matching import choose_chunk_size, chunked_gradient
from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT, renamed
from pruneyard.workloads.metrics.classification import standard_metrics
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.plugins import Plugin, name_of
from pruneyard.workloads.seeding import fork_rng, global_stream, stream, stream_seed

EVAL_BATCH_SIZE = 1000  # real rows per forward pass


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The training recipe of evaluation networks. The defaults are those of DC, DSA and DM, except the number of networks.

    networks: number of networks per architecture, each with its own random initialisation and batches.
    architectures: additional architectures besides the job's `model`, to measure how well the set transfers to them. Their
        metrics have the split `test@NAME`, the second of a name `test@NAME-2`.
    augment: names of transforms joined by underscores (color, crop, cutout, flip, scale, rotate); one is sampled per batch,
        with parameters per image; empty for none.
    always: transforms of `augment` that are applied to every batch, in addition to a sampled one of the others;
        flip_color_cutout in IDC and Acc-DD.
    cutmix: share of batches that are mixed by CutMix.
    milestones: shares of the epochs after which the learning rate is multiplied by `decay`.
    max_steps: maximum number of steps of one network; a large set is trained for fewer epochs to stay below it.
    dd_ranking: whether to measure, at the end, how much of the result is due to the images, and how much to augmentation and
        labels; see `pruneyard.workloads.distill.separation`. It needs `max_steps`, because networks are also trained on the
        whole set.
    labels: stored: the labels of the set; views: the distiller's teacher predicts every augmented and mixed batch, and its
        probabilities are the targets, as published for RDED; SRe2L stores one such label per view.
    learned_rate: whether networks are trained with the learning rate that the distiller learned instead of `lr`, as published for
        MTT; it has the same milestones.
    temperature: divides the logits of teacher and network if labels is views; the cross-entropy, which equals the divergence
        up to a constant, is multiplied by its square. Published: 20, or 30 for SRe2L on CIFAR; whether the papers multiply
        by the square is unverified.
    """

    revision: ClassVar[int] = 2

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
    dd_ranking: bool = field(default=False, metadata=renamed("separate", NEUTRAL_BY_DEFAULT))
    labels: Literal["stored", "views"] = field(default="stored", metadata=NEUTRAL_BY_DEFAULT)
    temperature: float = field(default=1.0, metadata=NEUTRAL_BY_DEFAULT)
    learned_rate: bool = field(default=False, metadata=NEUTRAL_BY_DEFAULT)

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
        if self.dd_ranking and self.max_steps is None:
            raise ValueError(
                "dd_ranking is true without max_steps; give max_steps, such as 5000: networks are trained on the whole set"
            )
        if self.labels not in ("stored", "views"):
            raise ValueError(f"labels is {self.labels!r}; it must be stored or views")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")
        if self.temperature != 1 and self.labels == "stored":
            raise ValueError(
                f"temperature is {self.temperature} with stored labels, whose temperature the method sets; give labels: views"
            )
        for name in ("augment", "always"):
            check_transforms(name, getattr(self, name))

    @property
    def architecture_names(self) -> list[str]:
        """Names of `architectures` in metrics: those of the models, the second of a name with a number, as `convnet-2`."""
        names = [name_of(model) for model in self.architectures]
        before = [names[:place].count(name) for place, name in enumerate(names)]
        return [f"{name}-{num + 1}" if num else name for name, num in zip(names, before, strict=True)]

    @property
    def strategy(self) -> Strategy:
        """The augmentation of batches."""
        return Strategy.of(self.augment, always=Strategy.of(self.always).names)

    def for_images(self, num: int) -> "Evaluation":
        """Returns the recipe for a set of `num` training images: fewer epochs if `max_steps` requires it, at least one."""
        if self.max_steps is None:
            return self
        per_epoch = -(-num // self.batch_size)
        return replace(self, epochs=max(1, min(self.epochs, self.max_steps // per_epoch)))

    def rate(self, epoch: int) -> float:
        """Returns the learning rate of an epoch, counted from 0. The first epoch is before every milestone."""
        return self.lr * self.decay ** sum(epoch >= max(1, round(share * self.epochs)) for share in self.milestones)


def train_network(
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
    """Trains network number `index` on the set; returns it in eval mode on the device of the images.

    label: returns target probabilities (B, K) of an augmented batch, softened by the temperature; None: the targets of the set.
    """
    assert (label is not None) == (evaluation.labels == "views"), "label must be given if labels is views, and only then"
    # The stream does not depend on the set, so all sets are evaluated with the same initial weights and orders.
    name = f"evaluate/{name_of(model)}/{index}"
    images, targets = synthetic.training_images(), synthetic.targets(num_classes)
    evaluation = evaluation.for_images(len(images))
    with global_stream(seed, name):
        network = model.build(image_shape=tuple(images.shape[1:]), num_classes=num_classes)
    network = network.to(images.device).train()
    parameters = list(network.parameters())
    scaled = network if evaluation.temperature == 1 else _TemperatureScaled(network, evaluation.temperature)
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
        generator = stream(seed, name, epoch)
        for group in optimizer.param_groups:
            group["lr"] = evaluation.rate(epoch)
        order = torch.randperm(len(images), generator=generator).to(images.device)
        with fork_rng(images.device, stream_seed(seed, f"{name}/dropout", epoch)):
            for rows in split_rows(order, evaluation.batch_size):
                batch, batch_targets = images[rows], targets[rows]
                if evaluation.augment:
                    batch = strategy.sample(generator, num=len(rows))(batch)
                if evaluation.cutmix and float(torch.rand((), generator=generator)) < evaluation.cutmix:
                    batch, batch_targets = cutmix(batch, batch_targets, generator)
                if label is not None:
                    # The teacher sees the augmented and mixed batch. Targets that sum to T^2 multiply the cross-entropy by it.
                    batch_targets = label(batch) * evaluation.temperature**2
                chunk = choose_chunk_size(network, batch)
                gradients = chunked_gradient(scaled, parameters, batch, batch_targets, chunk=chunk)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    # Set by hand: `chunked_gradient` adds up chunks without touching `.grad`.
                    parameter.grad = gradient
                optimizer.step()
    return network.eval()


class _TemperatureScaled(nn.Module):
    """A network whose logits are divided by a temperature."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, images: Tensor) -> Tensor:
        """Returns scaled logits (B, K) of images (B, C, H, W)."""
        logits: Tensor = self.network(images) / self.temperature
        return logits


def cutmix(images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Replaces a rectangle of each image by that of another image, and the same share of its target; one box for all images.

    Reference: Yun et al. 2019, CutMix (arXiv:1905.04899), with its share drawn from Beta(1, 1), which is uniform. As in the
    released code, boxes are rounded down to an even number of pixels; 0.299 of an image of 32 x 32 is replaced on average.
    """
    kept_share, *places = torch.rand(3, generator=generator).tolist()
    spans = []
    for place, side in zip(places, images.shape[2:], strict=True):
        half, centre = int(side * (1 - kept_share) ** 0.5) // 2, int(place * side)
        # The centre is any pixel, so the box may reach beyond the image and is clipped.
        spans.append(slice(max(centre - half, 0), min(centre + half, side)))
    rows, columns = spans
    others = torch.randperm(len(images), generator=generator).to(images.device)
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[others][:, :, rows, columns]
    # Counted from the clipped box, not taken from `kept_share`.
    share = 1 - mixed[0, 0, rows, columns].numel() / images[0, 0].numel()
    return mixed, share * targets + (1 - share) * targets[others]


@torch.no_grad()
def predict_logits(network: nn.Module, split: DeviceSplit) -> np.ndarray:
    """Returns the logits (N, K) float32 of a network on the rows of a split."""
    return torch.cat([network(images).float() for images, _ in split.batches(EVAL_BATCH_SIZE)]).cpu().numpy()


def mean_metrics(logits: Sequence[np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Returns the mean of each standard metric over networks and, if there are several, the SD of their accuracies."""
    each = [standard_metrics(outputs, labels) for outputs in logits]
    means = {name: float(np.mean([metrics[name] for metrics in each])) for name in each[0]}
    accuracies = [metrics["accuracy"] for metrics in each]
    return {**means, "accuracy_sd": float(np.std(accuracies, ddof=1))} if len(each) > 1 else means
