"""Outputs of several members sampled from one finished run: MC-dropout passes, or SWAG samples of its weights.

Images are float32 regardless of the training precision. All splits are evaluated in one call, by the same members.
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
from pruneyard.workloads.training.swag_moments import SwagMoments

BATCH_SIZE = 256  # dropout masks depend on it


class MemberSampler(Protocol):
    """Protocol of the ways to sample members from a network."""

    def logits(self, network: nn.Module, batches: list[Tensor], *, seed: int) -> Tensor:
        """Returns logits (M, N, C), float32 on the CPU, of normalised batches on the network's device."""
        ...


@dataclass(frozen=True, kw_only=True)
class DropoutPasses:
    """Samples `num` dropout passes of the network. See `pruneyard.workloads.calibrate.mc_dropout`."""

    num: int

    def logits(self, network: nn.Module, batches: list[Tensor], *, seed: int) -> Tensor:
        """Returns the logits of all passes. Raises `ValueError` for a network without dropout."""
        return mc_dropout_logits(network, batches, self.num, seed=seed)


@dataclass(frozen=True, kw_only=True)
class WeightSamples:
    """Samples `num` networks from the weight moments of a training run. See `pruneyard.workloads.calibrate.swag`.

    Batch-norm statistics are computed over the same epoch of training batches as those of the finished network.
    """

    num: int
    moments: SwagMoments
    rows: DeviceSplit  # training rows
    batch_size: int
    augment: Augmentation
    seed: int  # of the training run

    @classmethod
    def of(cls, run: FinishedRun, num: int, *, data: Dataset, device: torch.device) -> "WeightSamples":
        """Creates the sampler of a run. Raises `ValueError` if the run stored no moments."""
        if MOMENTS_FILE not in run.tensors:
            raise ValueError(
                f"swag_samples is {num}, but {run.run_key} has no {MOMENTS_FILE}; train it with average.swag_rank of at least 2"
            )
        held = {name: tensor.to(device) for name, tensor in run.tensors[MOMENTS_FILE]().items()}
        return cls(
            num=num,
            moments=SwagMoments.of_tensors(held),
            rows=DeviceSplit(data.train, mean=data.mean, std=data.std, device=device),
            batch_size=min(run.spec["budget"]["batch_size"], len(data.train)),
            augment=Augmentation(**run.spec["augment"]),
            seed=run.spec["seed"],
        )

    def logits(self, network: nn.Module, batches: list[Tensor], *, seed: int) -> Tensor:
        """Returns the logits of all sampled networks. Raises `ValueError` for moments of fewer than two weight vectors."""

        def training_batches() -> Iterator[Tensor]:
            # The stream with which the training run computed its own statistics, so the batches are the same.
            generator = stream(self.seed, "refresh", self.moments.num)
            order = torch.randperm(len(self.rows), generator=generator)
            for rows in order[: len(order) // self.batch_size * self.batch_size].split(self.batch_size):
                yield self.rows.batch(rows, self.augment, generator)[0]

        return swag_logits(network, self.moments, batches, passing=training_batches, num_draws=self.num, seed=seed)


def member_logits(
    run: FinishedRun, sampler: MemberSampler, splits: Mapping[str, Split], *, seed: int, device: torch.device
) -> dict[str, NDArray[np.floating]]:
    """Returns logits (M, N, C) by split of the members sampled from one run.

    Raises `ValueError` for images of another shape than the network's.
    """
    finished = run.network()
    # `to` moves a module in place, so a copy is moved.
    network = deepcopy(finished.network).to(device)
    batches = {name: _batches(split, finished.blueprint, device) for name, split in splits.items()}
    # One call for all splits: each call would sample new members.
    every = [batch for of_split in batches.values() for batch in of_split]
    logits = sampler.logits(network, every, seed=seed).numpy()
    ends = np.cumsum([len(split) for split in splits.values()])
    return dict(zip(splits, np.split(logits, ends[:-1], axis=1), strict=True))


def member_outputs(
    members: Sequence[Mapping[str, NDArray[np.floating]]], splits: Mapping[str, Split]
) -> dict[str, Outputs]:
    """Returns outputs by split: the mean of all members of all runs, with equal weights, and their uncertainty."""
    return {
        name: outputs_of_members(
            np.concatenate([of_run[name] for of_run in members]), labels=split.labels, row_ids=split.row_ids
        )
        for name, split in splits.items()
    }


def own_splits(run: FinishedRun, stored: Mapping[str, Outputs], data: Dataset) -> dict[str, Split]:
    """Returns the in-distribution rows that a run predicted. Raises `ValueError` if its data set has changed since."""
    held = {"val": data.val, "calib": data.calib, "test": data.test}
    found = {name: split for name, split in held.items() if name in stored}
    for name, split in found.items():
        predicted = stored[name]
        if not (np.array_equal(split.row_ids, predicted.row_ids) and np.array_equal(split.labels, predicted.labels)):
            raise ValueError(
                f"{run.run_key} predicted other rows of {name} than its data set has now; they must be equal"
            )
    return found


def _batches(split: Split, blueprint: Blueprint, device: torch.device) -> list[Tensor]:
    rows = DeviceSplit(split, mean=blueprint.mean, std=blueprint.std, device=device)
    if rows.image_shape != blueprint.image_shape:
        raise ValueError(
            f"inputs have the shape {rows.image_shape}; the network expects {blueprint.image_shape}"
        )
    return [images for images, _ in rows.batches(BATCH_SIZE)]
