"""A coefficient for each layer and member, learned from what members compute on unlabelled rows.

Reference: Expert Merging: Model Merging with Unsupervised Expert Alignment and Importance-Guided Layer Chunking (2025)

The network is the start that all members share, plus the members' updates of each layer times their coefficients. These start
at 1 / members, the uniform soup, and are trained by Adam so that logits and features, the inputs of the last layer, are those
of every member in turn. Labels are not read. Only the abstract was read; this is unverified: the distance of logits is the
KL divergence from the member to the merge, that of features the squared error over the mean square of the member's, and the
regulariser the mean squared distance of the coefficients from their start. Training rows are used, not augmented. Buffers are
those of the uniform soup. Left out: several coefficients for chunks of important layers (Expert Merging++), and weights for
tasks, of which there is one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pruneyard.workloads.data.batches import UNCHANGED
from pruneyard.workloads.merge.averages import weighted_mean
from pruneyard.workloads.merge.context import MergeContext, masked, parameter_names
from pruneyard.workloads.merge.member import Member
from pruneyard.workloads.merge.merger import MergedNetwork, WeightMerger
from pruneyard.workloads.networks.last_layer import last_layer
from pruneyard.workloads.plugins import Settings

__all__ = ["ExpertMerging"]

WeightsAt = Callable[[Tensor], dict[str, Tensor]]
"""Maps coefficients (members, layers) to parameters and buffers."""


@dataclass(frozen=True, kw_only=True)
class ExpertMerging(WeightMerger):
    """Learned coefficients by layer.

    steps, lr: of Adam.
    features: weight of the distance of features, beside that of logits.
    regulariser: weight of the distance of the coefficients from 1 / members.
    """

    keeps_copies: ClassVar[bool] = False  # only roughly: Adam takes steps on the gradients of rounding errors
    examples: ClassVar[tuple[Settings, ...]] = ({"steps": 5},)

    steps: int = 100
    lr: float = 0.01
    features: float = 1.0
    regulariser: float = 0.1

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}; it must be 0 or more")
        for name in ("lr", "features", "regulariser"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a finite number, 0 or more")

    def merge(self, members: Sequence[Member], context: MergeContext) -> MergedNetwork:
        """Returns the network with the learned coefficients."""
        masks = context.masks_of(members)
        start = masked(context.start(), masks)
        uniform = context.refreshed(masked(weighted_mean([member.weights for member in members]), masks))
        names = parameter_names(context.network)
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
        place = {name: layers.index(name.rpartition(".")[0]) for name in names}
        start = {name: tensor.to(context.device) for name, tensor in start.items()}
        updates = {
            name: torch.stack([member.weights[name].to(context.device) - start[name] for member in members]) for name in names
        }
        buffers = {name: tensor.to(context.device) for name, tensor in uniform.items() if name not in updates}

        def weights_at(coefficients: Tensor) -> dict[str, Tensor]:
            moved = {n: start[n] + torch.tensordot(coefficients[:, place[n]], updates[n], 1) for n in names}
            return {**buffers, **moved}

        coefficients = self._learned(weights_at, members, context, num_layers=len(layers))
        weights = {name: tensor.detach().cpu() for name, tensor in weights_at(coefficients).items()}
        spread = float((coefficients - 1 / len(members)).square().mean().sqrt())
        return MergedNetwork(weights=weights, masks=masks, numbers={"coefficient_shift": spread})

    def _learned(
        self, weights_at: WeightsAt, members: Sequence[Member], context: MergeContext, *, num_layers: int
    ) -> Tensor:
        """Returns the coefficients (members, layers)."""
        even = torch.full((len(members), num_layers), 1 / len(members), device=context.device)
        coefficients = even.clone().requires_grad_()
        # A larger epsilon than Adam's own, so that gradients of rounding errors move nothing.
        optimizer = torch.optim.Adam([coefficients], lr=self.lr, eps=1e-4)
        rows, generator = context.splits["train"], context.generator("expert_merging")
        for _ in range(self.steps):
            chosen = torch.randint(len(rows), (min(context.batch_size, len(rows)),), generator=generator)
            images, _ = rows.batch(chosen, UNCHANGED, generator)
            logits, features = called(weights_at(coefficients), images, context)
            distance = self.regulariser * (coefficients - even).square().mean()
            for member in members:
                with torch.no_grad():
                    wanted, wanted_features = called(member.weights, images, context)
                distance = distance + divergence(wanted, logits) / len(members)
                error = (features - wanted_features).square().mean() / wanted_features.square().mean().clamp(min=1e-12)
                distance = distance + self.features * error / len(members)
            optimizer.zero_grad()
            distance.backward()
            optimizer.step()
        return coefficients.detach()


def called(weights: Mapping[str, Tensor], images: Tensor, context: MergeContext) -> tuple[Tensor, Tensor]:
    """Returns the logits (B, K) of the network with these weights, and its features (B, F)."""
    seen: list[Tensor] = []
    layer: nn.Module = last_layer(context.network)
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        logits = context.call(weights, images)
    finally:
        handle.remove()
    return logits, seen[0].flatten(1)


def divergence(wanted: Tensor, logits: Tensor) -> Tensor:
    """Returns the mean KL divergence of the softmax of `logits` (B, K) from that of `wanted` (B, K)."""
    return nn.functional.kl_div(logits.log_softmax(1), wanted.log_softmax(1), log_target=True, reduction="batchmean")
