"""Keep the crops of real images that a teacher finds easiest, with the teacher's probabilities as labels (RDED).

Reference: Sun et al. 2024, On the Diversity and Realism of Distilled Dataset (arXiv:2312.03526)

The first iterations train the teacher, an epoch each; then each of `crops` rounds cuts a random crop from every candidate
image of every class. The crops with the lowest cross-entropy are kept, at most one of an image (U), and factor x factor of
them are stitched to one stored image. The scale and the shape of crops are unverified (U).

Published students ask the teacher about every augmented view and compare at temperature 20: `evaluation: {labels: views,
temperature: 20.0}`. By default each stored image has one soft label, the mean over its crops, as it is at `temperature`.
Memory: the state holds the teacher, and five numbers per candidate.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.data.multi_formation import decode
from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill.crops import WHOLE, cut, random_boxes
from pruneyard.workloads.distill.distiller import DistillState, Lab
from pruneyard.workloads.distill.starting import labels_of, pixels
from pruneyard.workloads.distill.teacher import ROWS, Teacher, soft_labels

__all__ = ["RDED"]


@dataclass(frozen=True, kw_only=True)
class RDED:
    """Nothing is optimised but the teacher. Before the first round the set is random whole images."""

    ipc: int  # images per class
    candidates: int = 300  # real images per class, or all where there are fewer
    crops: int = 5  # of each candidate
    smallest_crop: float = 0.5  # share of an image's area
    stretch: float = 4 / 3  # largest ratio of a crop's sides
    factor: int = 1  # crops along each side of a stored image
    temperature: float = 1.0  # of soft labels
    teacher: Teacher = Teacher()

    def __post_init__(self) -> None:
        for name in ("ipc", "candidates", "crops", "factor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.candidates < self.per_class:
            raise ValueError(f"candidates is {self.candidates}; it must be at least ipc * factor^2 = {self.per_class}")
        if not 0 < self.smallest_crop <= 1:
            raise ValueError(f"smallest_crop is {self.smallest_crop}; it must lie in (0, 1], a share of the area")
        if not self.stretch >= 1:
            raise ValueError(f"stretch is {self.stretch}; it must be 1 or more")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")

    @property
    def per_class(self) -> int:
        """Crops that are kept of a class."""
        return self.ipc * self.factor**2

    @property
    def num_iterations(self) -> int:
        return self.teacher.epochs + self.crops

    def start(self, lab: Lab) -> DistillState:
        """Candidates with their whole images. Raises `ValueError` for too few in a class, or a factor that leaves pixels."""
        if any(side % self.factor for side in lab.real.split.image_shape[1:]):
            raise ValueError(f"factor is {self.factor}; it must divide the sides of {lab.real.split.image_shape[1:]}")
        draws = lab.stream("candidates")
        drawn = [lab.real.draw(label, self.candidates, draws) for label in range(lab.real.num_classes)]
        if min(map(len, drawn)) < self.per_class:
            raise ValueError(f"a class has {min(map(len, drawn))} training rows; {self.per_class} crops are wanted")
        rows = torch.cat(drawn)
        loss = torch.full((len(rows),), torch.inf, device=lab.device)
        own = {"rows": rows.to(lab.device), "boxes": loss.new_tensor(WHOLE).repeat(len(rows), 1), "loss": loss}
        return DistillState(own | self.teacher.start(lab))

    def iterate(self, state: DistillState, iteration: int, lab: Lab) -> DistillState:
        """An epoch of the teacher, or one more crop of every candidate."""
        held = {name: state.tensors[name] for name in ("rows", "boxes", "loss")}
        if iteration < self.teacher.epochs:
            after, loss = self.teacher.after(state.tensors, iteration, lab)
            return DistillState(held | after, {"teacher_loss": loss})
        draws = lab.stream("crops", iteration - self.teacher.epochs)
        boxes = random_boxes(len(held["rows"]), smallest=self.smallest_crop, stretch=self.stretch, generator=draws)
        boxes = boxes.to(lab.device)
        found = self._losses(state, boxes, lab)
        better = found < held["loss"]
        new = {"loss": torch.where(better, found, held["loss"])}
        new["boxes"] = torch.where(better[:, None], boxes, held["boxes"])
        easiest = new["loss"][self._chosen(new["loss"], held["rows"], lab)]
        return DistillState({**state.tensors, **new}, {"crop_loss": float(easiest.mean())})

    def synthetic_set(self, state: DistillState, lab: Lab) -> SyntheticSet:
        """The easiest crops so far, stitched."""
        held = state.tensors
        chosen = self._chosen(held["loss"], held["rows"], lab)
        cells = self._shrunk(cut(lab.real.images(held["rows"][chosen]), held["boxes"][chosen]))
        grid = cells.unflatten(0, (-1, self.factor, self.factor)).permute(0, 3, 1, 4, 2, 5)
        images = grid.reshape(-1, *lab.real.split.image_shape)
        views = soft_labels(self.teacher.network(held, lab), decode(images, self.factor), temperature=self.temperature)
        return SyntheticSet(
            images=pixels(images, lab),
            labels=labels_of(lab.real.num_classes, self.ipc).to(lab.device),
            soft_labels=views.unflatten(0, (self.factor**2, -1)).mean(0),
            mean=lab.real.mean,
            std=lab.real.std,
            factor=self.factor,
        )

    @torch.no_grad()
    def _losses(self, state: DistillState, boxes: Tensor, lab: Lab) -> Tensor:
        """The teacher's cross-entropy (R,) on a crop of each candidate, as a student will see it."""
        network, losses = self.teacher.network(state.tensors, lab), []
        size = lab.real.split.image_shape[1:]
        for rows, part in zip(state.tensors["rows"].split(ROWS), boxes.split(ROWS), strict=True):
            cells = self._shrunk(cut(lab.real.images(rows), part))
            seen = functional.interpolate(cells, size=size, mode="bilinear", align_corners=False)
            losses.append(functional.cross_entropy(network(seen), lab.real.split.labels[rows], reduction="none"))
        return torch.cat(losses)

    def _shrunk(self, crops: Tensor) -> Tensor:
        """To cells of a stored image: the means of factor x factor pixels."""
        return functional.avg_pool2d(crops, self.factor)

    def _chosen(self, loss: Tensor, rows: Tensor, lab: Lab) -> Tensor:
        """Places among candidates of those that are kept, class after class, easiest first."""
        order = loss.argsort(stable=True)
        labels = lab.real.split.labels[rows[order]]
        return torch.cat([order[labels == label][: self.per_class] for label in range(lab.real.num_classes)])
