"""Answers what a merging method can ask for: outputs of networks on the data, refreshed norms, the common start, common masks."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pruneyard.workloads.data.batches import Augmentation, DeviceSplit
from pruneyard.workloads.interfaces import Tensors
from pruneyard.workloads.merge.member import Member, joined_masks
from pruneyard.workloads.metrics.classification import standard_metrics
from pruneyard.workloads.networks.shared_tensors import state_once, with_later_names
from pruneyard.workloads.networks.statistics import cumulative_statistics
from pruneyard.workloads.seeding import fork_rng, stream, stream_seed

EVALUATION_BATCH = 1000  # rows per forward pass; results do not depend on it beyond rounding


def never() -> None:
    """Does nothing: the default of `MergeContext.stop_if_asked`."""


@dataclass(kw_only=True)
class MergeContext:
    """The data of a merge and the networks of its members.

    splits: train, val, calib and test on the device, those that have rows.
    union: whether members may have different masks.
    refresh: whether running statistics of norms are computed anew for merged weights.
    batch_size, augment: of the training rows with which they are computed, and with which coefficients are learned.
    given_start: the start that the spec names; empty if it names none.
    stop_if_asked: raises `InterruptedJobError` if the job is to stop; called before every forward pass.
    flops: of the forward and backward passes on training rows so far; evaluations are not counted.
    known_logits: those of members that were computed before, by run key and split.
    """

    members: Sequence[Member]
    splits: Mapping[str, DeviceSplit]
    device: torch.device
    seed: int
    union: bool = False
    refresh: bool = True
    batch_size: int = 128
    augment: Augmentation = Augmentation()
    given_start: Tensors = field(default_factory=dict)
    stop_if_asked: Callable[[], None] = never
    flops: float = 0.0
    _networks: dict[str, nn.Module] = field(default_factory=dict)
    known_logits: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    @property
    def num_extra(self) -> int:
        """Number of outputs beyond the classes."""
        return self.members[0].num_extra

    @property
    def network(self) -> nn.Module:
        """A network with the architecture of the first member, on the device; its weights do not matter."""
        return self.network_of(self.members[0])

    def network_of(self, member: Member) -> nn.Module:
        """Returns a network with the architecture of a member, on the device and in evaluation mode."""
        key = str(member.blueprint.table)
        if key not in self._networks:
            self._networks[key] = copy.deepcopy(member.network.network).to(self.device).eval()
        return self._networks[key]

    def generator(self, name: str, index: int = 0) -> torch.Generator:
        """Returns a new generator on the CPU, which depends on the job's seed and the name alone."""
        return stream(self.seed, f"merge/{name}", index)

    def masks_of(self, members: Sequence[Member]) -> dict[str, Tensor]:
        """Returns the masks that cover these members. Raises `ValueError` if they differ and the job does not allow that."""
        return joined_masks(members, union=self.union)

    def start(self) -> dict[str, Tensor]:
        """Returns the parameters and buffers that all members started from.

        Raises `ValueError` if they are not known, differ, or do not fit.
        """
        found = [self.given_start] if self.given_start else [member.read_start() for member in self.members]
        first = found[0]
        remedy = "train all members with one `initial`, or give `start`"
        if first is None or any(start is None for start in found):
            raise ValueError(f"start is missing: the method needs the weights that all members started from; {remedy}")
        for member, start in zip(self.members, found, strict=False):
            if start.keys() != first.keys() or any(not torch.equal(first[name], start[name]) for name in first):  # type: ignore
                raise ValueError(f"start differs between {self.members[0].run_key} and {member.run_key}; {remedy}")
        wrong = [name for name, w in self.members[0].weights.items() if name not in first or first[name].shape != w.shape]
        if wrong:
            raise ValueError(f"start has no {', '.join(wrong)} of the shape that the members have; {remedy}")
        return {name: first[name] for name in self.members[0].weights}

    def logits(self, weights: Tensors, split: str) -> Tensor:
        """Returns the logits (N, K) of the first member's architecture with these weights, float32 on the CPU."""
        return self.logits_on(weights, self.splits[split])

    def logits_on(self, weights: Tensors, rows: DeviceSplit) -> Tensor:
        """Returns the same on other rows."""
        return self._logits(self.network, weights, rows)

    def member_logits_on(self, member: Member, rows: DeviceSplit) -> Tensor:
        """Returns the logits (N, K) of a member on other rows."""
        return self._logits(self.network_of(member), member.weights, rows)

    def member_logits(self, member: Member, split: str) -> Tensor:
        """Returns the logits (N, K) of a member, computed once."""
        key = member.run_key, split
        if key not in self.known_logits:
            self.known_logits[key] = self.member_logits_on(member, self.splits[split])
        return self.known_logits[key]

    def member_metrics(self, member: Member, split: str) -> dict[str, float]:
        """Returns the standard metrics of a member on a split."""
        return self.metrics(self.member_logits(member, split), split)

    def metrics(self, logits: Tensor, split: str) -> dict[str, float]:
        """Returns the standard metrics of logits (N, K) on a split."""
        labels = self.splits[split].labels.cpu().numpy()
        return standard_metrics(logits.numpy(), labels, num_extra=self.num_extra)

    def call(self, weights: Tensors, images: Tensor) -> Tensor:
        """Returns the logits (B, K) of the network with these weights in evaluation mode, differentiable by the weights."""
        self.stop_if_asked()
        self.flops += 3 * len(images) * self.members[0].network.forward_flops
        on_device = {name: tensor.to(self.device) for name, tensor in weights.items()}
        return functional_call(self.network, on_device, (images,))  # type: ignore[no-any-return]

    @torch.no_grad()
    def refreshed(self, weights: Tensors) -> dict[str, Tensor]:
        """Returns the weights with running statistics that are means over one epoch of augmented training batches.

        Those of the members belong to other activations. Other tensors are unchanged, as are networks without such norms.
        """
        network = self.network
        if not self.refresh or not _has_statistics(network):
            return dict(weights)
        self._load(network, weights)
        generator = self.generator("refresh")
        rows = self.splits["train"]
        order = torch.randperm(len(rows), generator=generator)
        whole = max(1, len(rows) // self.batch_size) * self.batch_size
        network.train()
        try:
            with fork_rng(self.device, stream_seed(self.seed, "merge/refresh-forward")), cumulative_statistics(network):
                for batch in order[:whole].split(self.batch_size):
                    self.stop_if_asked()
                    self.flops += len(batch) * self.members[0].network.forward_flops
                    network(rows.batch(batch, self.augment, generator)[0])
        finally:
            network.eval()
        return {name: tensor.detach().cpu().clone() for name, tensor in state_once(network).items()}

    @torch.no_grad()
    def _logits(self, network: nn.Module, weights: Tensors, rows: DeviceSplit) -> Tensor:
        self._load(network, weights)
        logits = []
        for images, _ in rows.batches(EVALUATION_BATCH):
            self.stop_if_asked()
            logits.append(network(images).float())
        return torch.cat(logits).cpu()

    def _load(self, network: nn.Module, weights: Tensors) -> None:
        network.load_state_dict(with_later_names(network, weights), strict=True)


def masked(weights: Tensors, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns weights that are 0 outside the masks."""
    return {name: torch.where(masks[name], tensor, 0.0) if name in masks else tensor for name, tensor in weights.items()}


def parameter_names(network: nn.Module) -> list[str]:
    """Returns the names of all parameters, in module order."""
    return [name for name, _ in network.named_parameters()]


def _has_statistics(network: nn.Module) -> bool:
    """Returns whether a network has norms with running statistics."""
    return any(getattr(module, "track_running_stats", False) for module in network.modules())
