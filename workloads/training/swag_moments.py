"""Moments of the weights along a training, and the normal distribution that SWAG defines by them.

Reference: Maddox et al. 2019, A Simple Baseline for Bayesian Uncertainty in Deep Learning (arXiv:1902.02476)

Sums are float64. Of n weight samples it keeps their mean, their variance (mean of squares minus square of the mean, at least
1e-30), and, for each of the last `rank` samples, its deviation from the mean of all samples up to it, in float32. A random
network is mean + sqrt(scale) (sqrt(variance) e1 + D e2 / sqrt(R - 1)), with e1, e2 standard normal and D the R deviations,
so that scale 1/2 gives the published factors 1 / sqrt(2). Entries that are 0 in all samples (outside a mask) stay exactly 0.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pruneyard.workloads.interfaces import Tensors

SMALLEST_VARIANCE = 1e-30
_NUM, _MEAN, _SQUARE, _DEVIATION = "num", "mean", "square", "deviation"


@dataclass(frozen=True, kw_only=True)
class SwagMoments:
    """Moments of `num` weight samples, by parameter name, on the device of the first sample."""

    rank: int = 20  # deviations kept
    num: int = 0
    mean: Tensors = field(default_factory=dict)
    square: Tensors = field(default_factory=dict)  # mean of squares
    deviations: tuple[Tensors, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 2:
            raise ValueError(f"rank is {self.rank}; it must be 2 or more")

    @classmethod
    def of(cls, samples: Iterable[Tensors], *, rank: int = 20) -> "SwagMoments":
        """Returns the moments of samples in their order, each the parameters of a network by name, without buffers."""
        moments = cls(rank=rank)
        for sample in samples:
            moments = moments.with_sample(sample)
        return moments

    @classmethod
    def of_tensors(cls, tensors: Tensors, *, rank: int = 2) -> "SwagMoments":
        """Returns the moments that `tensors` stored; without tensors, those of no samples.

        rank: how many deviations are kept when samples are added, at least as many as are stored.
        """
        groups: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            group, _, name = key.partition("/")
            groups.setdefault(group, {})[name] = tensor
        num_kept = len(groups.keys() - {_NUM, _MEAN, _SQUARE})
        return cls(
            rank=max(rank, num_kept),
            num=int(tensors[_NUM]) if tensors else 0,
            mean=groups.get(_MEAN, {}),
            square=groups.get(_SQUARE, {}),
            deviations=tuple(groups[f"{_DEVIATION}{number}"] for number in range(num_kept)),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Returns all moments as named tensors for a file; empty if there is no sample."""
        if not self.num:
            return {}
        groups = {_MEAN: self.mean, _SQUARE: self.square}
        groups |= {f"{_DEVIATION}{number}": deviation for number, deviation in enumerate(self.deviations)}
        stored = {
            f"{group}/{name}": tensor for group, named in groups.items() for name, tensor in named.items()
        }
        return {_NUM: torch.tensor(self.num), **stored}

    def with_sample(self, sample: Tensors) -> "SwagMoments":
        """Returns the moments with one more sample; writes into neither. Raises `ValueError` for other names or shapes."""
        wide = {name: tensor.detach().double() for name, tensor in sample.items()}
        if self.num and {n: t.shape for n, t in wide.items()} != {n: t.shape for n, t in self.mean.items()}:
            raise ValueError("a weight sample has other names or shapes than the first one; all must have the same")
        mean = {name: self._update_mean(self.mean, name, tensor) for name, tensor in wide.items()}
        square = {name: self._update_mean(self.square, name, tensor**2) for name, tensor in wide.items()}
        deviation = {name: (tensor - mean[name]).float() for name, tensor in wide.items()}
        kept = (*self.deviations, deviation)[-self.rank :]
        return SwagMoments(rank=self.rank, num=self.num + 1, mean=mean, square=square, deviations=kept)

    def _update_mean(self, means: Tensors, name: str, value: Tensor) -> Tensor:
        """Returns the running mean of one parameter after one more value."""
        if not self.num:
            return value.clone()
        mean: Tensor = means[name]
        return mean + (value - mean) / (self.num + 1)

    def variance(self, name: str) -> Tensor:
        """Returns the variance of every entry of one parameter, float64; exactly 0 for entries that are always 0."""
        square = self.square[name]
        variance = (square - self.mean[name] ** 2).clamp(min=SMALLEST_VARIANCE)
        return torch.where(square == 0, 0.0, variance)

    def draw(self, generator: torch.Generator, *, scale: float = 0.5) -> dict[str, Tensor]:
        """Returns random weights by name, float32; scale 0 gives the mean. Raises `ValueError` for fewer than two samples.

        generator: on the CPU, whatever the device of the moments, so that all devices sample the same weights.
        """
        if self.num < 2:
            raise ValueError(f"there are {self.num} weight samples; there must be 2 or more")
        if not 0 <= scale < float("inf"):
            raise ValueError(f"scale is {scale}; it must be 0 or more")
        num_kept = len(self.deviations)
        factors = torch.randn(num_kept, generator=generator, dtype=torch.float64) / (num_kept - 1) ** 0.5
        return {name: self._draw_parameter(name, factors, scale, generator) for name in self.mean}

    def _draw_parameter(self, name: str, factors: Tensor, scale: float, generator: torch.Generator) -> Tensor:
        """Returns one sampled parameter; `factors` are the weights of the deviations, shared by all parameters."""
        mean = self.mean[name]
        noise = torch.randn(mean.shape, generator=generator, dtype=torch.float64).to(mean.device)
        deviation = self.variance(name).sqrt() * noise
        for factor, sampled in zip(factors.tolist(), self.deviations, strict=True):
            deviation = deviation + factor * sampled[name]
        drawn: Tensor = mean + scale**0.5 * deviation
        return drawn.float()
