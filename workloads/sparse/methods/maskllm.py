"""Learn which N of every M frozen weights to keep, by Gumbel softmax over the patterns (MaskLLM).

Reference: Fang et al. 2024, MaskLLM: Learnable Semi-Structured Sparsity for Large Language Models (arXiv:2409.17481)

Every group of M adjacent weights has a number, its gate, for each of the patterns with N active ones. With Gumbel noise G a
pattern has the probability softmax((scale * gate + G) / temperature). Gates are trained by Adam on the gradient of the loss
through it. Over the training the temperature falls and the scale rises, linearly, so that sampled patterns become certain; the
finished network has the patterns of largest gates. Gates start at random plus a prior, which favours patterns that share
weights with the mask by magnitude. A small reward on the squares of the kept weights keeps gradients alive. The weights come
from an earlier run or a file (`initial`). Written from the abstract and the authors' code, whose defaults these are.
Decisions made here, unverified where these leave them open:
- The network computes with the most probable pattern of the sample, and the gradient is that of the probabilities at it
  (straight through). The code computes with the mean of the patterns by probability, which is no mask.
- Groups are those of `nm`, and so are the layers that stay dense. Gates are float32 numbers of the search: for 2:4, one and a
  half times as many as weights, and as many again for the probabilities and each of Adam's two means.
- A network that is evaluated during training is the sampled one.
- The code's rate 5e-4 is for 2000 steps; its weight decay of gates is left out. No parameter of the network is trained.
The optimizer of the recipe is not used; `schedule` neither. With n = m it is dense training.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.sparse.mask_search import MaskSearch
from pruneyard.workloads.sparse.methods.nm import NM
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext

__all__ = ["MaskLLM"]

SPREAD = 0.01  # standard deviation of the gates at the start
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam


@dataclass(frozen=True, kw_only=True)
class MaskLLM(MaskSearch):
    """Learnable N:M sparsity."""

    dense_settings: ClassVar[Settings] = {"n": 4}

    n: int = 2  # active weights of every group
    m: int = 4  # size of a group
    lr: float = 5e-4
    temperature: tuple[float, float] = (4.0, 0.05)  # at the start and at the end
    scale: tuple[float, float] = (100.0, 500.0)  # of the gates, at the start and at the end
    prior: float = 3.0  # by how many standard deviations a gate starts higher for each weight shared with the mask by magnitude
    weight_reg: float = 1e-5  # reward on the squares of the kept weights
    keep_dense: tuple[str, ...] = ()  # layer names, shell patterns, or `first`; outside the density

    def __post_init__(self) -> None:
        super().__post_init__()
        NM(n=self.n, m=self.m)  # checks both
        for name in ("temperature", "scale"):
            values = getattr(self, name)
            if len(values) != 2 or not all(0 < value < math.inf for value in values):
                raise ValueError(f"{name} is {list(values)}; it must be two finite numbers above 0, for the start and the end")
        for name in ("prior", "weight_reg"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a finite number of at least 0")

    @property
    def target_density(self) -> float:
        """Active share of the weights in groups."""
        return self.n / self.m

    @property
    def kinds(self) -> tuple[str, ...]:
        """The gates, the probabilities of the sample, Adam's means of gradients and of their squares; all (groups, patterns)."""
        return "gate", "soft", "mean", "square"

    @property
    def by_magnitude(self) -> NM:
        """The method that keeps the largest weights of each group."""
        return NM(n=self.n, m=self.m, keep_dense=self.keep_dense)

    def counts(self, weights: Mapping[str, Tensor]) -> dict[str, int]:
        """Returns the number of active weights of each layer with groups; empty if `n` equals `m`."""
        return self.by_magnitude.counts(weights)

    def patterns(self, like: Tensor) -> Tensor:
        """Returns the patterns (patterns, m) of N ones in M places, with the dtype and device of a tensor."""
        chosen = list(itertools.combinations(range(self.m), self.n))
        table = torch.zeros((len(chosen), self.m), dtype=like.dtype, device=like.device)
        return table.scatter_(1, torch.tensor(chosen, device=like.device), 1.0)

    def start(self, weights: Mapping[str, Tensor], *, generator: torch.Generator) -> SparseState:
        """Returns the gates and a first sample."""
        tensors: dict[str, Tensor] = {}
        forward: dict[str, Tensor] = {}
        for name in self.counts(weights):
            largest = self.grouped(self.by_magnitude.choose_masks(weights[name]).float())
            shared = largest @ self.patterns(largest).t()  # (groups, patterns)
            noise = torch.randn(shared.shape, generator=generator).to(shared)
            gate = SPREAD * (noise + self.prior * shared)
            forward[name], soft = self.sample(gate, weights[name], progress=0.0, generator=generator)
            zeros = torch.zeros_like(gate)
            tensors |= {f"gate/{name}": gate, f"soft/{name}": soft, f"mean/{name}": zeros, f"square/{name}": zeros.clone()}
        return SparseState({}, tensors, forward=forward)

    def search(
        self, own: dict[str, Tensor], gradient: Tensor, *, lr: float, name: str, state: SparseState, context: UpdateContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns a mask sampled from the trained gates, after the last step the most probable one."""
        weight, step = context.weights[name], context.step
        by_entry = self.grouped(gradient - self.weight_reg * weight.square()).to(own["gate"].dtype)
        slope = self.slope(own["soft"], by_entry, progress=step // self.every * self.every / context.num_steps)
        number = step // self.every + 1
        mean = BETAS[0] * own["mean"] + (1 - BETAS[0]) * slope
        square = BETAS[1] * own["square"] + (1 - BETAS[1]) * slope.square()
        size = (square / (1 - BETAS[1] ** number)).sqrt() + EPSILON
        gate = own["gate"] - lr * (mean / (1 - BETAS[0] ** number)) / size
        if step == context.num_steps - 1:
            mask, soft = self.mask_of(gate.argmax(dim=1), weight), own["soft"]
        else:
            mask, soft = self.sample(gate, weight, progress=(step + 1) / context.num_steps, generator=context.generator)
        return mask, {"gate": gate, "soft": soft, "mean": mean, "square": square}

    def slope(self, soft: Tensor, by_entry: Tensor, *, progress: float) -> Tensor:
        """Returns the gradient of the loss by the gates, (groups, patterns).

        soft: probabilities (groups, patterns) of the sample; by_entry: the gradient by the entries of the mask, (groups, m).
        """
        by_pattern = by_entry @ self.patterns(by_entry).t()
        centred = by_pattern - (soft * by_pattern).sum(dim=1, keepdim=True)
        return self.at(self.scale, progress) / self.at(self.temperature, progress) * soft * centred

    def sample(
        self, gate: Tensor, weight: Tensor, *, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Returns a sampled mask in the shape of the weight, and the probabilities of its patterns."""
        uniform = torch.rand(gate.shape, generator=generator).clamp_(min=torch.finfo(torch.float32).tiny)
        gumbel = -(-uniform.log()).clamp_(min=torch.finfo(torch.float32).tiny).log()
        scaled = self.at(self.scale, progress) * gate + gumbel.to(gate)
        soft = (scaled / self.at(self.temperature, progress)).softmax(dim=1)
        return self.mask_of(scaled.argmax(dim=1), weight), soft

    def mask_of(self, chosen: Tensor, weight: Tensor) -> Tensor:
        """Returns the mask in the shape of a weight from the pattern (groups,) of each group."""
        by_input = weight.movedim(1, -1).shape
        return self.patterns(weight)[chosen].bool().reshape(by_input).movedim(-1, 1).contiguous()

    def grouped(self, tensor: Tensor) -> Tensor:
        """Returns a tensor of a weight's shape as groups along its inputs, (groups, m)."""
        return tensor.movedim(1, -1).reshape(-1, self.m)

    @staticmethod
    def at(ends: tuple[float, float], progress: float) -> float:
        """Returns the value on the line between two ends, at a progress in [0, 1]."""
        return ends[0] + (ends[1] - ends[0]) * progress
