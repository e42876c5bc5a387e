"""What a finished run says when its network is not one but many: passes with dropout, or weights drawn from its moments.

Rows are shown in float32, whatever the precision of the training, all of them to the same members, one call for all splits.
Dimensions: M members, N rows, C outputs.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pruneyard.workloads.calibrate.mc_dropout import mc_dropout_logits
from pruneyard.workloads.calibrate.outputs import Outputs, outputs_of_members
from pruneyard.workloads.calibrate.swag import swag_logits
from pruneyard.workloads.data.batches import Augmentation, DeviceSplit
from pruneyard.workloads.data.dataset import Dataset, Split
from pruneyard.workloads.networks.finished import Blueprint
from pruneyard.workloads.parents import FinishedRun
from pruneyard.workloads.seeding import stream
from pruneyard.workloads.training.evaluation import MOMENTS_FILE
from pruneyard.workloads.training.swag_moments import Swag

BATCH_SIZE = 256  # what dropout draws depends on it


class Drawing(Protocol):
    """How members come to be."""

    def logits(self, network: nn.Module, batches: list[Tensor], *, seed: int) -> Tensor:
        """(M, N, C) float32 on the CPU, of normalised batches that lie where the network does."""
        ...


@dataclass(frozen=True, kw_only=True)
class DropoutPasses:
    """The network as it is with its dropout layers drawing, so many times. See `pruneyard.workloads.calibrate.mc_dropout`."""

    num: int

    def logits(self, network: nn.Module, batches: list[Tensor], *, seed: int) -> Tensor:
        """Raises `ValueError` for a network without dropout."""
        return mc_dropout_logits(network, batches, self.num, seed=seed)


@dataclass(frozen=True, kw_only=True)
class WeightDraws:
    """So many networks whose weights are drawn from a training's moments. See `pruneyard.workloads.calibrate.swag`.

    Running statistics are those of an epoch of training batches, the very ones that the finished network's are of.
    """

    num: int
    moments: Swag
    rows: DeviceSplit  # trained on
    batch_size: int
    augment: Augmentation
    seed: int  # of the training

    @classmethod
    def of(cls, run: FinishedRun, num: int, *, data: Dataset, device: torch.device) -> "WeightDraws":
        """Raises `ValueError` for a run that left no moments."""
        if MOMENTS_FILE not in run.tensors:
            raise ValueError(
                f"samples is {num}, but {run.run_key} left no {MOMENTS_FILE}; train it with average.deviations of 2 or more"
            )
        held = {name: tensor.to(device) for name, tensor in run.tensors[MOMENTS_FILE]().items()}
        return cls(
            num=num,
            moments=Swag.of_tensors(held),
            rows=DeviceSplit(data.train, mean=data.mean, std=data.std, device=device),
            batch_size=min(run.spec["budget"]["batch_size"], len(data.train)),
            augment=Augmentation(**run.spec["augment"]),
            seed=run.spec["seed"],
        )

    def logits(self, network: nn.Module, batches: list[Tensor], *, seed: int) -> Tensor:
        """Raises `ValueError` for moments of fewer than two samples."""

        def passing() -> Iterator[Tensor]:
            generator = stream(self.seed, "refresh", self.moments.num)
            order = torch.randperm(len(self.rows), generator=generator)
            for rows in order[: len(order) // self.batch_size * self.batch_size].split(self.batch_size):
                yield self.rows.batch(rows, self.augment, generator)[0]

        return swag_logits(network, self.moments, batches, passing=passing, num_draws=self.num, seed=seed)


def members_of(
    run: FinishedRun, drawing: Drawing, splits: Mapping[str, Split], *, seed: int, device: torch.device
) -> dict[str, NDArray[np.floating]]:
    """Logits (M, N, C) by split of the members drawn from one run.

    Raises `ValueError` for images that are not of the network's shape.
    """
    finished = run.network()
    network = deepcopy(finished.network).to(device)
    batches = {name: _batches(split, finished.blueprint, device) for name, split in splits.items()}
    every = [batch for of_split in batches.values() for batch in of_split]
    logits = drawing.logits(network, every, seed=seed).numpy()
    ends = np.cumsum([len(split) for split in splits.values()])
    return dict(zip(splits, np.split(logits, ends[:-1], axis=1), strict=True))


def redrawn(
    members: Sequence[Mapping[str, NDArray[np.floating]]], splits: Mapping[str, Split]
) -> dict[str, Outputs]:
    """Outputs by split of the mean of all members of some runs, with their uncertainty; those of sibling runs count alike."""
    return {
        name: outputs_of_members(
            np.concatenate([of_run[name] for of_run in members]), labels=split.labels, row_ids=split.row_ids
        )
        for name, split in splits.items()
    }


def own_splits(run: FinishedRun, stored: Mapping[str, Outputs], data: Dataset) -> dict[str, Split]:
    """The rows that a run predicted, unknown ones aside. Raises `ValueError` where its data have others by now."""
    held = {"val": data.val, "calib": data.calib, "test": data.test}
    found = {name: split for name, split in held.items() if name in stored}
    for name, split in found.items():
        said = stored[name]
        if not (np.array_equal(split.row_ids, said.row_ids) and np.array_equal(split.labels, said.labels)):
            raise ValueError(
                f"{run.run_key} predicted other rows of {name} than its data have now; they must be the same"
            )
    return found


def _batches(split: Split, blueprint: Blueprint, device: torch.device) -> list[Tensor]:
    rows = DeviceSplit(split, mean=blueprint.mean, std=blueprint.std, device=device)
    if rows.image_shape != blueprint.image_shape:
        raise ValueError(
            f"images are {rows.image_shape} (C, H, W); the network wants {blueprint.image_shape}"
        )
    return [images for images, _ in rows.batches(BATCH_SIZE)]
