"""Checkpoints of a training: how one is made, how training resumes from it, and the check that all ranks agree."""

from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from pruneyard.workloads.checkpoint import Checkpoint
from pruneyard.workloads.interfaces import RuleState, Tensors
from pruneyard.workloads.masks.explored import Explored, PackedMask
from pruneyard.workloads.masks.sparse_index import Mask, SparseIndex, full_mask, is_full
from pruneyard.workloads.training.mask_updater import SparseState
from pruneyard.workloads.training.segment import Segment
from pruneyard.workloads.training.state import Training
from pruneyard.workloads.workload import Context, Metric


def checkpoint_of(training: Training, *, data: str) -> Checkpoint:
    """Returns all that a bit-equal continuation needs. Every rank must call it, because random states are gathered.

    data: fingerprint of the data set.
    """
    random_state = {"cpu": torch.get_rng_state()}
    if training.device.type == "cuda":
        random_state["cuda"] = torch.cuda.get_rng_state(training.device)
    return Checkpoint(
        step=training.step,
        tensors=state_tensors(training),
        state={
            "optimizer": training.optimizer.state_dict(),
            "random": training.backward.ranks.all_gather(random_state),
            "losses": training.losses.held[: training.losses.num].clone(),
        },
        meta={
            "data": data,
            "num_steps": training.num_steps,
            "train_flops": training.train_flops,
            "train_s": training.train_s,
            "metrics": [asdict(metric) for metric in training.history],
            "rule": dict(training.rule.numbers),
            "mean": training.mean.num,
            "due_at": training.update_due_at,
            "execution": dict(training.applied.layers.choices),
            "loss_scale": dict(training.backward.scale.state()),
        },
    )


def state_tensors(training: Training) -> dict[str, Tensor]:
    """Returns all tensors of a training except those of the optimizer, by `group/name`."""
    is_masked = training.applied.layers.is_masked
    groups: dict[str, Tensors] = {
        "network": training.network.state_dict(),
        "rule": training.rule.tensors,
        "mask": _stored(training.applied.masks, is_masked=is_masked),
        "explored": _stored(
            {n: mask for n, mask in training.explored.items() if mask is not training.applied.masks.get(n)},
            is_masked=is_masked,
        ),
        "forward": training.applied.forward,
        "updater": training.applied.tensors,
        "memory": training.memory,
        "mean": training.mean.tensors,
        "moments": training.mean.moment_tensors,
        "spread": {} if training.mean.squares is None else {"squares": training.mean.squares},
    }
    return {f"{group}/{name}": t for group, tensors in groups.items() for name, t in tensors.items()}


def assert_ranks_equal(training: Training) -> None:
    """Raises `RanksDisagreeError` unless all ranks hold the same tensors, including those of the optimizer."""
    training.backward.ranks.assert_ranks_equal(training.step, lambda: {**state_tensors(training), **_optimizer_tensors(training)})


def _optimizer_tensors(training: Training) -> dict[str, Tensor]:
    """Returns the tensors of the optimizer state, by `kind/parameter`."""
    return {
        f"{kind}/{name}": tensor
        for name, parameter in training.network_tensors.parameters.items()
        for kind, tensor in training.optimizer.state.get(parameter, {}).items()
        if isinstance(tensor, Tensor)
    }


def restore(training: Training, checkpoint: Checkpoint, *, data: str) -> None:
    """Restores the state of a checkpoint, whose tensors may be on the CPU.

    The number of ranks may have changed: a rank without a saved random state starts its stream from the beginning. Raises
    `ValueError` for a checkpoint of another budget or of other data.
    """
    if checkpoint.meta["data"] != data:
        found = checkpoint.meta["data"]
        raise ValueError(f"the checkpoint was made on data {found}, but this run uses {data}; give another --out")
    if checkpoint.meta["num_steps"] != training.num_steps:
        found = checkpoint.meta["num_steps"]
        raise ValueError(f"the checkpoint belongs to a run of {found} steps, but this run has {training.num_steps}")
    kinds = ("network", "mask", "forward", "explored", "updater", "rule", "memory", "mean", "moments", "spread")
    groups: dict[str, dict[str, Tensor]] = {kind: {} for kind in kinds}
    for key, tensor in checkpoint.tensors.items():
        group, _, name = key.partition("/")
        groups[group][name] = tensor.to(training.device)
    layers = training.applied.layers
    layers.choices = {name: (int(num), bool(faster)) for name, (num, faster) in checkpoint.meta.get("execution", {}).items()}
    masks = _masks(groups["mask"], layers.shapes)
    for name in [name for name, mask in masks.items() if isinstance(mask, Tensor) and name in layers.indices]:
        layers.restore(name, training.optimizer)
    indices = {
        name: layers.store(name, mask, training.optimizer) for name, mask in masks.items() if isinstance(mask, SparseIndex)
    }
    training.network.load_state_dict(groups["network"])
    training.optimizer.load_state_dict(checkpoint.state["optimizer"])
    tensors = training.applied.masks_of_dense_layers(masks)
    training.apply_masks(SparseState(tensors, groups["updater"], groups["forward"], indices=indices))
    explored = _explored(groups["explored"], layers.shapes)
    training.explored = {name: explored.get(name, mask) for name, mask in training.applied.used.items()}
    training.memory = groups["memory"]
    training.mean = training.mean.restored(
        checkpoint.meta["mean"],
        {n: _with_layout(training, t) for n, t in groups["mean"].items()},
        groups["moments"],
        groups["spread"].get("squares"),
    )
    training.rule = RuleState(
        {n: _with_layout(training, t) for n, t in groups["rule"].items()}, checkpoint.meta["rule"]
    )
    rank = training.backward.ranks.rank
    for random_state in checkpoint.state["random"][rank : rank + 1]:
        torch.set_rng_state(random_state["cpu"])
        if training.device.type == "cuda":
            torch.cuda.set_rng_state(random_state["cuda"], training.device)
    training.update_due_at = checkpoint.meta["due_at"]
    training.backward.scale.restore(checkpoint.meta["loss_scale"])
    training.step = checkpoint.step
    training.losses = training.losses.resumed(checkpoint.state["losses"], step=checkpoint.step)
    training.train_flops = checkpoint.meta["train_flops"]
    training.train_s = checkpoint.meta["train_s"]
    training.history = [Metric(**row) for row in checkpoint.meta["metrics"]]


def resume_from_parent(training: Training, segment: Segment, *, data: str, interval: int, context: Context) -> None:
    """Restores the state at the end of the segment's run into a fresh training, which keeps its own optimizer options.

    interval: steps between two evaluations; losses that the evaluation at the end of the run has reported are dropped. Raises
    `ValueError` if the run has no checkpoint, has another budget or other data, or ended at or after the end of the segment.
    """
    if len(segment.artifacts) != 1:
        raise ValueError(f"segment.runs is {list(segment.runs)}; only a study that contains it can resume it")
    folder = context.open_checkpoints(segment.artifacts[0])
    checkpoint = training.backward.ranks.broadcast_from_rank_0(lambda: folder.load(torch.device("cpu")))
    if checkpoint is None:
        raise ValueError(f"segment.runs is {list(segment.runs)}, which has no checkpoint in {segment.artifacts[0]}")
    segment.check(checkpoint, num_steps=training.num_steps)
    groups = training.optimizer.param_groups
    own_options = [{name: value for name, value in group.items() if name != "params"} for group in groups]
    restore(training, checkpoint, data=data)
    for group, options in zip(training.optimizer.param_groups, own_options, strict=True):
        group.update(options)
    training.history = []
    if training.step % interval == 0:
        training.losses.num = 0


def _stored(masks: Mapping[str, Explored], *, is_masked: bool) -> dict[str, Tensor]:
    """Returns the tensors of masks in a checkpoint.

    They are the mask itself, the compressed rows of an index as `NAME:starts` and `NAME:columns`, packed bits as `NAME:bits`, or,
    of a mask of ones unless every weight stays masked, nothing as `NAME:full`.
    """
    tensors: dict[str, Tensor] = {}
    for name, mask in masks.items():
        match mask:
            case SparseIndex():
                tensors |= {f"{name}:starts": mask.starts, f"{name}:columns": mask.columns}
            case PackedMask():
                tensors[f"{name}:bits"] = mask.bits
            case _ if is_full(mask) and not is_masked:
                tensors[f"{name}:full"] = mask.new_empty(0)
            case _:
                tensors[name] = mask
    return tensors


def _masks(tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Mask]:
    """Returns the masks from the tensors of `_stored`."""
    masks: dict[str, Mask] = {}
    for key, tensor in tensors.items():
        name, _, part = key.partition(":")
        if part == "starts":
            masks[name] = SparseIndex.of_rows(tensor, tensors[f"{name}:columns"], tuple(shapes[name]))
        elif part == "full":
            masks[name] = full_mask(tuple(shapes[name]), tensor.device)
        elif not part:
            masks[name] = tensor
    return masks


def _explored(tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Explored]:
    """Returns what `_masks` does, packed bits included."""
    packed = {name: tensor for key, tensor in tensors.items() if (name := key.removesuffix(":bits")) != key}
    masks = _masks({key: tensor for key, tensor in tensors.items() if not key.endswith(":bits")}, shapes)
    return masks | {name: PackedMask(tuple(shapes[name]), bits.cpu().clone()) for name, bits in packed.items()}


def _with_layout(training: Training, tensor: Tensor) -> Tensor:
    """Returns a tensor in the memory layout of the network's tensors, because other layouts round differently."""
    last = training.recipe.budget.channels_last and tensor.ndim == 4
    return tensor.contiguous(memory_format=torch.channels_last) if last else tensor
