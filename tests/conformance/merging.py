"""Members of a merge, and the context that a merging method gets: small networks on the embedded digits."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruneyard.testing.finished_networks import MakeMask, finished_of
from pruneyard.testing.trainings import digits
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.batches import device_splits
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.merge.context import MergeContext
from pruneyard.workloads.merge.inputs import Members
from pruneyard.workloads.merge.job import MergeJob
from pruneyard.workloads.merge.member import Member
from pruneyard.workloads.merge.merger import Merger
from pruneyard.workloads.networks.finished import FinishedNetwork
from pruneyard.workloads.parents import FinishedRun
from pruneyard.workloads.workload import Context, Progress

MLP = {"name": "mlp", "width": 12, "depth": 2}
RESNET = {"name": "resnet20"}  # whose norms have running statistics
SHAPE = (1, 8, 8)


def start_of(model: dict[str, Any] = MLP) -> dict[str, Tensor]:
    """Returns the parameters and buffers that all members start from."""
    return dict(finished_of(model, SHAPE, None, seed=0).network.state_dict())


def members_of(
    count: int, mask: MakeMask | None = None, *, model: dict[str, Any] = MLP, spread: float = 0.3, same_masks: bool = True
) -> list[Member]:
    """Returns members that differ from one start by noise, each under the same mask, or under one of its own."""
    start, members = start_of(model), []
    for number in range(count):
        base = finished_of(model, SHAPE, mask, seed=0 if same_masks else number)
        generator = torch.Generator().manual_seed(100 + number)
        weights = {
            name: tensor + spread * tensor.std(correction=0).nan_to_num() * torch.randn(tensor.shape, generator=generator)
            if name.endswith("weight")
            else tensor
            for name, tensor in start.items()
        }
        network = FinishedNetwork.of(base.blueprint, weights=weights, masks=base.masks)
        members.append(Member(run_key=f"{number:016x}", network=network, spec=SPEC, read_start=lambda: start))
    return members


SPEC = {"budget": {"epochs": 1, "steps": None, "batch_size": 16}}


def copies_of(member: Member, count: int) -> list[Member]:
    """Returns members with the same network and other run keys."""
    return [
        Member(run_key=f"{number:016x}", network=member.network, spec=member.spec, read_start=member.read_start)
        for number in range(count)
    ]


def context_of(members: Sequence[Member], **fields: Any) -> MergeContext:
    """Returns the context of these members on 96 training rows of the digits."""
    device = torch.device("cpu")
    options: dict[str, Any] = {"seed": 3, "batch_size": 32} | fields
    data, blueprint = digits(), members[0].blueprint
    of_network = replace(data, mean=blueprint.mean, std=blueprint.std)
    return MergeContext(members=members, splits=device_splits(of_network, device), device=device, **options)


def run_job(
    method: Merger, members: Sequence[Member], folder: Path, *, should_stop: Callable[[], bool] = lambda: False, **fields: Any
) -> Progress:
    """Returns the report of a whole job on these members."""
    by_key = {member.run_key: member for member in members}

    def open_run(artifact: str) -> FinishedRun:
        member = by_key[artifact]
        return FinishedRun(
            run_key=member.run_key,
            kind="sparse",
            spec=member.spec,
            num_extra=0,
            predictions=dict,
            network=lambda: member.network,
            source=Digits,
            data_fingerprint=lambda: None,
            initial_weights=member.read_start,
        )

    keys = tuple(by_key)
    job = MergeJob(input=Members(runs=keys, artifacts=keys), data=Digits(), method=method, seed=3, batch_size=32, **fields)
    context = Context(
        checkpoints=CheckpointFolder(folder), load_data=lambda _: digits(), open_run=open_run, should_stop=should_stop
    )
    (progress,) = job.run(context)
    return progress
