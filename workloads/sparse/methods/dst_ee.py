"""Grow where the gradient is large or the weight was rarely active (DST-EE).

Reference: Huang et al. 2022, Dynamic Sparse Training via Balancing the Exploration-Exploitation Trade-off (arXiv:2211.16667)

The grow score of an inactive weight is |g| + c ln(t) / (N + eps): g is its gradient, N how often it was active, c
`exploration`. Its form is quoted from secondary sources, without access to the authors' text and code. Unverified decisions
made here:
- t is the training step of the update, so the bonus is zero at step 1; the logarithm is natural.
- N counts updates, not steps. The initial masks count as one, and every update adds one for each weight that is then active.
- Weights that were just dropped may grow again; ties are broken at random.
- All else is RigL: magnitude drop, its schedule, ERK, and updates that replace the optimizer's step.
- The values of c and eps: no published best c was found; 1e-3 is the middle of the range 1e-5 to 1e-1 worth sweeping.
`gradient_scale: layer_mean` is ours, not the paper's: it divides |g| by its mean over the layer, so that one c means
the same in every layer and at any time. Counters are 16 bits per prunable weight and stop at 32,767.

Whether the bonus acts is reported over all updates: `bonus_share` is the share of the grown weights that are not among equally
many candidates with the largest gradient, `seen_grown` the share of the grown weights that were active before, and
`seen_candidates` that of the candidates: the weights that are inactive after the drop.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pruneyard.workloads.interfaces import MEASURED
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext

__all__ = ["DSTEE"]

MAX_VISITS = torch.iinfo(torch.int16).max


@dataclass(frozen=True, kw_only=True)
class DSTEE(RigL):
    """RigL with an exploration bonus for weights that were rarely active."""

    updates_indices: ClassVar[bool] = False  # visits are counted for every weight
    exploration: float = 1e-3  # c, weight of the bonus, at least 0; 0 is RigL
    epsilon: float = 1.0  # added to the number of visits, above 0
    gradient_scale: Literal["raw", "layer_mean"] = (
        "raw"  # layer_mean: in units of the layer's mean |g| (ours)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.exploration < math.inf:
            raise ValueError(f"exploration is {self.exploration}; it must be a finite number of at least 0")
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"epsilon is {self.epsilon}; it must be a finite number above 0")
        if self.gradient_scale not in ("raw", "layer_mean"):
            raise ValueError(f"gradient_scale is {self.gradient_scale!r}; it must be raw or layer_mean")

    def start(self, weights: Mapping[str, Tensor], *, generator: torch.Generator) -> SparseState:
        """Returns RigL's initial masks and visit counters that count them once."""
        masks = super().start(weights, generator=generator).masks
        return SparseState(masks, {f"visits/{name}": mask.to(torch.int16) for name, mask in masks.items()})

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        """Returns moved masks and counters with one more visit for each weight that is then active."""
        masks = super().update(state, context).masks
        visits = {name: state.tensors[f"visits/{name}"] for name in masks}
        counted = {f"visits/{name}": seen + (masks[name] & (seen < MAX_VISITS)) for name, seen in visits.items()}
        return SparseState(masks, {**counted, **self._growth_so_far(state, masks, context)})

    def _growth_so_far(self, state: SparseState, masks: Mapping[str, Tensor], context: UpdateContext) -> dict[str, Tensor]:
        """Returns the counts of grown weights and candidates, and the shares that are reported.

        A weight that is dropped and grown again in one update is left out: the masks do not show it.
        """
        new = {"grown": 0, "by_bonus": 0, "seen_grown": 0, "candidates": 0, "seen_candidates": 0}
        for name, mask in masks.items():
            before, seen = state.masks[name], state.tensors[f"visits/{name}"] > 0
            grown, candidates = mask & ~before, ~(mask & before)
            num = int(grown.sum())
            gradient = context.gradients[name].abs().where(candidates, torch.tensor(-1.0, device=mask.device))
            by_gradient = torch.zeros_like(mask).flatten()
            by_gradient[gradient.flatten().topk(num).indices] = True
            new["grown"] += num
            new["by_bonus"] += int((grown & ~by_gradient.view_as(mask)).sum())
            new["seen_grown"] += int((grown & seen).sum())
            new["candidates"] += int(candidates.sum())
            new["seen_candidates"] += int((candidates & seen).sum())
        total = {name: int(state.tensors.get(f"growth/{name}", torch.zeros(()))) + count for name, count in new.items()}
        shares = {
            "bonus_share": total["by_bonus"] / max(1, total["grown"]),
            "seen_grown": total["seen_grown"] / max(1, total["grown"]),
            "seen_candidates": total["seen_candidates"] / max(1, total["candidates"]),
        }
        counts = {f"growth/{name}": torch.tensor(count) for name, count in total.items()}
        return {**counts, **{f"{MEASURED}{name}": torch.tensor(share) for name, share in shares.items()}}

    def grow_scores(self, name: str, state: SparseState, context: UpdateContext) -> Tensor:
        """Returns gradient magnitude plus exploration bonus, in the shape of the weight."""
        gradient = super().grow_scores(name, state, context)
        if self.gradient_scale == "layer_mean":
            gradient = gradient / gradient.mean().clamp(min=torch.finfo(gradient.dtype).tiny)
        bonus = self.exploration * math.log(max(1, context.step))
        return gradient + bonus / (state.tensors[f"visits/{name}"] + self.epsilon)
