"""Mean probabilities within each architecture, and a learned weight for each of them (AWARE-NET).

Reference: AWARE-NET: Adaptive Weighted Averaging for Robust Ensemble Network in Deepfake Detection (2025)

Members may have different architectures: give several stages' runs by `over: all`. Only the abstract was read; this reading is
unverified: the weights are a softmax of one number for each architecture, trained by gradient descent on the NLL of the weighted
mean of probabilities on `val`, from equal weights. Nothing but these numbers is trained. Members are of one architecture if their
models have the same settings.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruneyard.workloads.merge.context import MergeContext
from pruneyard.workloads.merge.member import Member
from pruneyard.workloads.merge.merger import MergedOutputs, UseOfVal
from pruneyard.workloads.plugins import Settings

__all__ = ["AwareNet"]


@dataclass(frozen=True, kw_only=True)
class AwareNet:
    """Two-tier ensemble.

    steps, lr: of Adam for the weights of architectures, over all rows of `val` at once.
    """

    merges_weights: ClassVar[bool] = False
    order_matters: ClassVar[bool] = False
    keeps_copies: ClassVar[bool] = True

    examples: ClassVar[tuple[Settings, ...]] = ({"steps": 20},)

    steps: int = 300
    lr: float = 0.05

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be 1 or more")
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"lr is {self.lr}; it must be a finite number above 0")

    @property
    def use_of_val(self) -> UseOfVal:
        """Returns `fit`: the weights of architectures are fitted on `val`."""
        return "fit"

    def merge(self, members: Sequence[Member], context: MergeContext) -> MergedOutputs:
        """Returns the weighted mean of the members' probabilities."""
        named = [json.dumps(dict(member.blueprint.model), sort_keys=True) for member in members]
        architectures = sorted(set(named))
        # (A, M): the mean over the members of each architecture
        tier = torch.tensor([[float(name == one) / named.count(one) for name in named] for one in architectures]).double()
        probabilities = torch.stack([context.member_logits(member, "val") for member in members]).double().softmax(2)
        by_architecture = torch.einsum("am,mnk->ank", tier, probabilities)
        weights = self.learned(by_architecture, context.splits["val"].labels.cpu(), context)
        shares = (weights @ tier).tolist()
        return MergedOutputs(
            combine=lambda logits: mixed(logits, shares),
            numbers={"num_architectures": float(len(architectures))},
            shares={member.run_key: share for member, share in zip(members, shares, strict=True)},
        )

    def learned(self, probabilities: Tensor, labels: Tensor, context: MergeContext) -> Tensor:
        """Returns the weights (A,) of architectures with probabilities (A, N, K) for labels (N,)."""
        logits = torch.zeros(len(probabilities), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=self.lr)
        of_label = probabilities[:, torch.arange(len(labels)), labels]
        for _ in range(self.steps):
            context.stop_if_asked()
            optimizer.zero_grad()
            (-(logits.softmax(0) @ of_label).clamp(min=1e-300).log().mean()).backward()
            optimizer.step()
        return logits.detach().softmax(0)


def mixed(logits: Tensor, shares: Sequence[float]) -> Tensor:
    """Returns the log-probabilities (N, K) of the mixture of members with logits (M, N, K)."""
    weights = torch.tensor(list(shares), dtype=torch.float64).log()
    mixture: Tensor = (logits.double().log_softmax(2) + weights[:, None, None]).logsumexp(0)
    return mixture.float()
