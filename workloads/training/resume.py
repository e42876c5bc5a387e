"""A training as a checkpoint holds it, how one goes on from there, and that all ranks hold the same."""

from dataclasses import asdict

import torch
from torch import Tensor

from pruneyard.workloads.checkpoint import Checkpoint
from pruneyard.workloads.interfaces import RuleState, Tensors
from pruneyard.workloads.training.mask_updater import SparseState
from pruneyard.workloads.training.segment import Segment
from pruneyard.workloads.training.state import Training
from pruneyard.workloads.workload import Context, Metric


def checkpoint_of(training: Training, *, data: str) -> Checkpoint:
    """All that a bit-equal continuation needs; `data` is the fingerprint of the data set. Every rank must ask."""
    random_state = {"cpu": torch.get_rng_state()}
    if training.device.type == "cuda":
        random_state["cuda"] = torch.cuda.get_rng_state(training.device)
    return Checkpoint(
        step=training.step,
        tensors=state_tensors(training),
        state={
            "optimizer": training.optimizer.state_dict(),
            "random": training.backward.ranks.gathered(random_state),
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
            "due_at": training.due_at,
            "loss_scale": dict(training.backward.scale.state()),
        },
    )


def state_tensors(training: Training) -> dict[str, Tensor]:
    """Its tensors, by group and name: all but the optimizer's."""
    groups: dict[str, Tensors] = {
        "network": training.network.state_dict(),
        "rule": training.rule.tensors,
        "mask": training.sparse.masks,
        "explored": training.explored,
        "forward": training.sparse.forward,
        "updater": training.sparse.tensors,
        "memory": training.memory,
        "mean": training.mean.tensors,
        "moments": training.mean.moment_tensors,
    }
    return {f"{group}/{name}": t for group, tensors in groups.items() for name, t in tensors.items()}


def assert_ranks_equal(training: Training) -> None:
    """Raises `RanksDisagreeError` unless all ranks hold the same tensors, the optimizer's included."""
    training.backward.ranks.assert_ranks_equal(training.step, lambda: {**state_tensors(training), **_momenta(training)})


def _momenta(training: Training) -> dict[str, Tensor]:
    return {
        f"{kind}/{name}": tensor
        for name, parameter in training.prober.parameters.items()
        for kind, tensor in training.optimizer.state.get(parameter, {}).items()
        if isinstance(tensor, Tensor)
    }


def restore(training: Training, checkpoint: Checkpoint, *, data: str) -> None:
    """Stands where `checkpoint` was taken; its tensors may be on the CPU.

    It may be one of another number of ranks: a rank that it does not know draws from the beginning of its own stream. Raises
    `ValueError` when it belongs to another budget or other data.
    """
    if checkpoint.meta["data"] != data:
        found = checkpoint.meta["data"]
        raise ValueError(f"the checkpoint was made on data {found}, this run has {data}; give another --out")
    if checkpoint.meta["num_steps"] != training.num_steps:
        found = checkpoint.meta["num_steps"]
        raise ValueError(f"the checkpoint is of a run of {found} steps, this run has {training.num_steps}")
    kinds = ("network", "mask", "forward", "explored", "updater", "rule", "memory", "mean", "moments")
    groups: dict[str, dict[str, Tensor]] = {kind: {} for kind in kinds}
    for key, tensor in checkpoint.tensors.items():
        group, _, name = key.partition("/")
        groups[group][name] = tensor.to(training.device)
    training.network.load_state_dict(groups["network"])
    training.optimizer.load_state_dict(checkpoint.state["optimizer"])
    training.apply_masks(SparseState(groups["mask"], groups["updater"], groups["forward"]))
    training.explored = {name: groups["explored"][name] for name in training.sparse.used}
    training.memory = groups["memory"]
    training.mean = training.mean.restored(
        checkpoint.meta["mean"],
        {n: _laid_out(training, t) for n, t in groups["mean"].items()},
        groups["moments"],
    )
    training.rule = RuleState(
        {n: _laid_out(training, t) for n, t in groups["rule"].items()}, checkpoint.meta["rule"]
    )
    rank = training.backward.ranks.rank
    for random_state in checkpoint.state["random"][rank : rank + 1]:
        torch.set_rng_state(random_state["cpu"])
        if training.device.type == "cuda":
            torch.cuda.set_rng_state(random_state["cuda"], training.device)
    training.due_at = checkpoint.meta["due_at"]
    training.backward.scale.restore(checkpoint.meta["loss_scale"])
    training.step = checkpoint.step
    training.losses = training.losses.continued(checkpoint.state["losses"], step=checkpoint.step)
    training.train_flops = checkpoint.meta["train_flops"]
    training.train_s = checkpoint.meta["train_s"]
    training.history = [Metric(**row) for row in checkpoint.meta["metrics"]]


def resume_from_parent(training: Training, segment: Segment, *, data: str, interval: int, context: Context) -> None:
    """Brings a fresh training to where the segment's run ended; its rates and other numbers stay its own.

    interval: steps between two evaluations; losses that one at the run's end has told of are not told again. Raises
    `ValueError` where the run left no checkpoint, or is of another budget, other data, or no shorter than the segment.
    """
    if len(segment.artifacts) != 1:
        raise ValueError(f"segment.runs is {list(segment.runs)}; only a study that holds that run can go on from it")
    folder = context.checkpoints_of(segment.artifacts[0])
    begun = training.backward.ranks.from_first(lambda: folder.load(torch.device("cpu")))
    if begun is None:
        raise ValueError(f"segment.runs is {list(segment.runs)}, which left no checkpoint in {segment.artifacts[0]}")
    segment.check(begun, num_steps=training.num_steps)
    own = [{name: value for name, value in group.items() if name != "params"} for group in training.optimizer.param_groups]
    restore(training, begun, data=data)
    for group, numbers in zip(training.optimizer.param_groups, own, strict=True):
        group.update(numbers)
    training.history = []
    if training.step % interval == 0:
        training.losses.num = 0


def _laid_out(training: Training, tensor: Tensor) -> Tensor:
    """In the memory layout of the network's tensors: other layouts round differently."""
    last = training.recipe.budget.channels_last and tensor.ndim == 4
    return tensor.contiguous(memory_format=torch.channels_last) if last else tensor
