"""Keeps the crops of real images that are easiest for a teacher, labelled with its probabilities (RDED).

Reference: Sun et al. 2024, On the Diversity and Realism of Distilled Dataset (arXiv:2312.03526)

The first iterations train the teacher, one epoch each. Then each of `crops` rounds samples a random crop of every candidate
image of every class. The crops with the lowest cross-entropy are kept, at most one per image, and factor x factor of them are
stitched to one stored image. As in the released code, crops are squares of 0.08 to 1 of the area, and a crop that fills only a
part of a stored image is evaluated by the teacher in a frame of zeros, the mean colour. Small crops of small images may show
none of the object (see `min_scale`): most of a digit is missing in a twelfth of its image.

Published students are trained on the teacher's labels of every augmented view at temperature 20: `evaluation: {labels: views,
temperature: 20.0}`. By default each stored image has one soft label at `temperature`, the mean over its crops.
Memory: the state contains the teacher, and five numbers per candidate.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill.crops import WHOLE, crop_and_resize, random_boxes
from pruneyard.workloads.distill.distiller import DistillContext, DistillState
from pruneyard.workloads.distill.initial_images import class_labels, to_pixels
from pruneyard.workloads.distill.teacher import EVAL_BATCH_SIZE, Teacher, soft_labels
from pruneyard.workloads.fields import renamed

__all__ = ["RDED"]


@dataclass(frozen=True, kw_only=True)
class RDED:
    """Selection of crops; only the teacher is trained. Before the first round the set consists of random whole images."""

    revision: ClassVar[int] = 2

    ipc: int  # images per class
    candidates: int = 300  # real images per class, or all if there are fewer
    crops: int = 5  # number of random crops per candidate
    min_scale: float = field(default=0.08, metadata=renamed("smallest_crop"))  # of a crop, as a share of the image's area
    max_aspect_ratio: float = field(default=1.0, metadata=renamed("stretch"))  # of a crop's sides; 1: squares
    factor: int = 1  # crops along each side of a stored image
    temperature: float = 1.0  # of soft labels
    teacher: Teacher = Teacher()

    def __post_init__(self) -> None:
        for name in ("ipc", "candidates", "crops", "factor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.candidates < self.per_class:
            raise ValueError(f"candidates is {self.candidates}; it must be at least ipc * factor^2 = {self.per_class}")
        if not 0 < self.min_scale <= 1:
            raise ValueError(f"min_scale is {self.min_scale}; it must lie in (0, 1], a share of the area")
        if not self.max_aspect_ratio >= 1:
            raise ValueError(f"max_aspect_ratio is {self.max_aspect_ratio}; it must be 1 or more")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")

    @property
    def per_class(self) -> int:
        """Number of crops that are kept per class."""
        return self.ipc * self.factor**2

    @property
    def num_iterations(self) -> int:
        return self.teacher.epochs + self.crops

    def start(self, context: DistillContext) -> DistillState:
        """Returns candidates whose crops are whole images.

        Raises `ValueError` if a class has too few rows, or if the factor does not divide the sides of the images.
        """
        if any(side % self.factor for side in context.real.split.image_shape[1:]):
            raise ValueError(f"factor is {self.factor}; it must divide the sides of {context.real.split.image_shape[1:]}")
        generator = context.stream("candidates")
        rows_of_class = [
            context.real.sample_rows(label, self.candidates, generator) for label in range(context.real.num_classes)
        ]
        smallest = min(map(len, rows_of_class))
        if smallest < self.per_class:
            fix = "lower ipc or factor"
            raise ValueError(f"a class has {smallest} training rows, but {self.per_class} crops are needed; {fix}")
        rows = torch.cat(rows_of_class)
        # Infinite, so that the first round replaces the whole image of every candidate.
        loss = torch.full((len(rows),), torch.inf, device=context.device)
        crops = {"rows": rows.to(context.device), "boxes": loss.new_tensor(WHOLE).repeat(len(rows), 1), "loss": loss}
        return DistillState(crops | self.teacher.start(context))

    def iterate(self, state: DistillState, iteration: int, context: DistillContext) -> DistillState:
        """Trains the teacher for an epoch, or tries one more crop of every candidate."""
        crops = {name: state.tensors[name] for name in ("rows", "boxes", "loss")}
        if iteration < self.teacher.epochs:
            after, loss = self.teacher.train_epoch(state.tensors, iteration, context)
            return DistillState(crops | after, {"teacher_loss": loss})
        generator = context.stream("crops", iteration - self.teacher.epochs)
        boxes = random_boxes(len(crops["rows"]), smallest=self.min_scale, stretch=self.max_aspect_ratio, generator=generator)
        boxes = boxes.to(context.device)
        losses = self._losses(state, boxes, context)
        better = losses < crops["loss"]
        new = {"loss": torch.where(better, losses, crops["loss"])}
        new["boxes"] = torch.where(better[:, None], boxes, crops["boxes"])
        easiest = new["loss"][self._select_easiest(new["loss"], crops["rows"], context)]
        return DistillState({**state.tensors, **new}, {"crop_loss": float(easiest.mean())})

    def synthetic_set(self, state: DistillState, context: DistillContext) -> SyntheticSet:
        """Returns the easiest crops so far, stitched."""
        tensors = state.tensors
        chosen = self._select_easiest(tensors["loss"], tensors["rows"], context)
        cells = self._downscale(crop_and_resize(context.real.images(tensors["rows"][chosen]), tensors["boxes"][chosen]))
        # (N, row, column, C, h, w) to (N, C, row, h, column, w).
        grid = cells.unflatten(0, (-1, self.factor, self.factor)).permute(0, 3, 1, 4, 2, 5)
        images = grid.reshape(-1, *context.real.split.image_shape)
        hard = SyntheticSet(
            images=to_pixels(images, context),
            labels=class_labels(context.real.num_classes, self.ipc).to(context.device),
            soft_labels=torch.zeros(0, context.real.num_classes, device=context.device),
            mean=context.real.mean,
            std=context.real.std,
            factor=self.factor,
        )
        teacher = self.teacher.network(tensors, context)
        crop_labels = soft_labels(teacher, hard.training_images(), temperature=self.temperature)
        # Training images list the same cell of all images before the next cell, so the first axis is the cell.
        return replace(hard, soft_labels=crop_labels.unflatten(0, (self.factor**2, -1)).mean(0))

    @torch.no_grad()
    def _losses(self, state: DistillState, boxes: Tensor, context: DistillContext) -> Tensor:
        """Returns the teacher's cross-entropy (R,) on a crop of each candidate, as large as a cell, in the middle of zeros."""
        network, losses = self.teacher.network(state.tensors, context), []
        for rows, part in zip(state.tensors["rows"].split(EVAL_BATCH_SIZE), boxes.split(EVAL_BATCH_SIZE), strict=True):
            cells = self._downscale(crop_and_resize(context.real.images(rows), part))
            inputs = _in_the_middle_of_zeros(cells, context.real.split.image_shape[1:])
            losses.append(functional.cross_entropy(network(inputs), context.real.split.labels[rows], reduction="none"))
        return torch.cat(losses)

    def _downscale(self, crops: Tensor) -> Tensor:
        """Downscales crops to cells of a stored image, by the means of factor x factor pixels."""
        return functional.avg_pool2d(crops, self.factor)

    def _select_easiest(self, loss: Tensor, rows: Tensor, context: DistillContext) -> Tensor:
        """Returns the indices of the candidates that are kept, class after class, the easiest first."""
        # Stable: before the first round all losses are equal, and the choice must be the same at every call.
        order = loss.argsort(stable=True)
        labels = context.real.split.labels[rows[order]]
        return torch.cat([order[labels == label][: self.per_class] for label in range(context.real.num_classes)])


def _in_the_middle_of_zeros(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """Pads images (N, C, h, w) to a height and width; an odd pixel goes below and to the right."""
    (tall, wide), (height, width) = size, images.shape[2:]
    top, left = (tall - height) // 2, (wide - width) // 2
    return functional.pad(images, (left, wide - width - left, top, tall - height - top))
