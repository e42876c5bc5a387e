"""The coefficient of a control variate, estimated from batches: by their losses, or by their gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pruneyard.workloads.interfaces import Probe, Tensors

RESOLUTION = 1e-6  # a smaller spread relative to the mean is float32 rounding


class LossCovariance:
    """Cov(l, ls) / Var(ls) over batches: l the loss at the new weights, ls at the snapshot (AGENT as published)."""

    def __init__(self, snapshot: Tensors) -> None:
        self.snapshot = snapshot
        self.losses: list[Tensor] = []
        self.of_snapshot: list[Tensor] = []

    def observe(self, batch: Probe, *, loss: Tensor, gradient: Tensors) -> None:
        """Adds a batch, by one more forward pass, at the snapshot."""
        self.losses.append(loss)
        self.of_snapshot.append(batch.loss_at(self.snapshot))

    def coefficient(self) -> float | None:
        """Returns the coefficient in [0, 1], or None if the losses of the snapshot do not vary."""
        if len(self.losses) < 2:
            return None
        new, old = (torch.stack(losses).double().cpu() for losses in (self.losses, self.of_snapshot))
        apart, spread = new - new.mean(), old - old.mean()
        variance = float(spread @ spread) / (len(old) - 1)  # the sample covariance has the same divisor
        if not variance > (RESOLUTION * float(old.mean())) ** 2:
            return None
        return clip_to_unit(float(apart @ spread) / (len(old) - 1) / variance)


class GradientCovariance:
    """tr Cov(g, gs) / tr Var(gs) over batches and active weights: the minimiser of tr Var(g + c (mu - gs)).

    With rho^2 = (tr Cov)^2 / (tr Var(g) tr Var(gs)) it leaves 1 - rho^2 of tr Var(g).
    """

    def __init__(self, snapshot: Tensors, masks: Tensors) -> None:
        self.snapshot, self.masks = snapshot, masks
        self.num = 0
        self.sums: tuple[list[Tensor], list[Tensor]] = ([], [])
        self.products: list[Tensor] = []  # of each batch: <g, gs>, <gs, gs>, <g, g>

    def observe(self, batch: Probe, *, loss: Tensor, gradient: Tensors) -> None:
        """Adds a batch, by one more forward and backward pass, at the snapshot."""
        _, of_snapshot = batch.gradient_at(self.snapshot)
        names = [name for name in gradient if name in of_snapshot]
        new, old = (self._active(tensors, names) for tensors in (gradient, of_snapshot))
        self.products.append(torch.stack([inner(new, old), inner(old, old), inner(new, new)]))
        if not self.num:
            self.sums = [torch.zeros_like(t) for t in new], [torch.zeros_like(t) for t in old]
        for sums, tensors in zip(self.sums, (new, old), strict=True):
            torch._foreach_add_(sums, tensors)
        self.num += 1

    def coefficient(self) -> float | None:
        """Returns the coefficient in [0, 1], or None if the gradients of the snapshot do not vary."""
        if self.num < 2:
            return None
        covariance, variance, _ = self.traces()
        mean_square = float(torch.stack(self.products)[:, 1].mean())
        if not variance > RESOLUTION * mean_square:
            return None
        return clip_to_unit(covariance / variance)

    def traces(self) -> tuple[float, float, float]:
        """Returns tr Cov(g, gs), tr Var(gs) and tr Var(g): sample covariances over batches."""
        new, old = self.sums
        of_means = torch.stack([inner(new, old), inner(old, old), inner(new, new)]) / self.num
        traces = (torch.stack(self.products).sum(0) - of_means) / (self.num - 1)
        covariance, variance, own = traces.tolist()
        return covariance, variance, own

    def _active(self, tensors: Tensors, names: Sequence[str]) -> list[Tensor]:
        return [tensors[n] * self.masks[n] if n in self.masks else tensors[n] for n in names]


def inner(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Returns the inner product, summed in float64 because a variance is a small difference of large sums."""
    return torch.stack([(a * b).sum(dtype=torch.float64) for a, b in zip(first, second, strict=True)]).sum()


def clip_to_unit(coefficient: float) -> float | None:
    """Returns the coefficient clipped to [0, 1], or None if it is NaN."""
    return min(max(coefficient, 0.0), 1.0) if coefficient == coefficient else None
