"""Jackknife intervals for node probabilities, from influence-function estimates of leave-one-out networks.

The leave-one-out networks are never trained: their parameters are estimated to first order.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT
from pruneyard.workloads.nodes.curvature import Product, conjugate_gradients, solve_dense
from pruneyard.workloads.nodes.flat import gradients_of_each, hessian_products
from pruneyard.workloads.nodes.gauss_newton import gauss_newton_products, solve_by_rows


@dataclass(frozen=True, kw_only=True)
class Jackknife:
    """Options of the jackknife intervals.

    coverage: target coverage of the intervals. damping: added to the diagonal of the curvature.
    curvature: `hessian` (as in the released code) may not be positive definite early in training and then raises an error;
    `gauss_newton` linearises the network in its parameters and is always positive definite.
    max_dense: largest size of an explicit matrix, (P, P) for the Hessian and (2n, 2n) for n training nodes with Gauss-Newton;
    larger systems use conjugate gradients up to `tolerance`.
    retrained: number of training nodes whose estimated networks are compared with networks that are trained on without them for
    `retrain_steps` steps, as `train/loo_slope` and `train/loo_correlation`; see `pruneyard.workloads.nodes.leave_one_out`.

    Reference: Alaa and van der Schaar, Discriminative jackknife (ICML 2020); Koh and Liang, Understanding black-box
    predictions via influence functions (ICML 2017). coverage and damping are those of CALIRARE's code (arXiv 2307.09858)
    """

    coverage: float = 0.9
    damping: float = 1e-2
    curvature: Literal["gauss_newton", "hessian"] = "gauss_newton"
    max_dense: int = 1000
    tolerance: float = 1e-4
    max_iterations: int = 1000
    retrained: int = field(default=0, metadata=NEUTRAL_BY_DEFAULT)
    retrain_steps: int = field(default=300, metadata=NEUTRAL_BY_DEFAULT)

    def __post_init__(self) -> None:
        if not 0 < self.coverage < 1:
            raise ValueError(f"coverage is {self.coverage}; it must lie in (0, 1)")
        if not self.damping > 0:
            raise ValueError(f"damping is {self.damping}; it must be above 0")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance is {self.tolerance}; it must lie in (0, 1)")
        for name, least in (("max_dense", 0), ("max_iterations", 1), ("retrained", 0), ("retrain_steps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")

    def shifts(
        self,
        logits: Callable[[Tensor], Tensor],
        parts: Callable[[Tensor], Tensor],
        at: Tensor,
        *,
        l2: float,
        between: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Returns the first-order changes (n, P) of the parameters when each training node k is left out of the loss.

        The loss is the sum of `parts` (n,), each a function of its own row of `logits` (n, 2) at parameters (P,), plus l2 / 2
        times the squared parameter norm. If `at` is its minimum, the shift is (curvature + damping)^-1 times the gradient of
        node k's part. The weights of the other nodes do not change; with equal weights the part is the node's loss divided by
        n. `between` is called between iterations. Raises `CurvatureError`.
        """
        diagonal = l2 + self.damping

        def solved(product: Product) -> Tensor:
            gradients = gradients_of_each(lambda vector: parts(logits(vector)), at)
            return conjugate_gradients(
                product,
                gradients,
                tolerance=self.tolerance,
                max_iterations=self.max_iterations,
                between=between,
            )

        def of_hessian(directions: Tensor) -> Tensor:
            found = hessian_products(lambda vector: parts(logits(vector)).sum(), at, directions)
            return found + diagonal * directions

        def of_gauss_newton(directions: Tensor) -> Tensor:
            return gauss_newton_products(logits, parts, at, directions) + diagonal * directions

        if self.curvature == "gauss_newton":
            # Two logits per training node.
            small = 2 * len(parts(logits(at))) <= self.max_dense
            # The matrix of the small system grows with the labelled nodes, not with the parameters.
            return solve_by_rows(logits, parts, at, diagonal=diagonal) if small else solved(of_gauss_newton)
        if len(at) <= self.max_dense:
            return solve_dense(of_hessian, gradients_of_each(lambda vector: parts(logits(vector)), at))
        return solved(of_hessian)

    def intervals(self, without: Tensor, *, own: Tensor, labels: Tensor) -> "Intervals":
        """Returns the intervals of M nodes from `without: (K, M)`: P(class 1) by the network without the k-th training node.

        own, labels: (K,), the P(class 1) that the network without a training node gives that node itself, and its label.
        Quantiles are interpolated linearly.
        """
        # (K, 1): the residual of node k moves the probabilities of all M nodes by the network without k.
        residuals = (labels.to(own.dtype) - own).abs()[:, None]
        tail = (1 - self.coverage) / 2
        return Intervals(
            lower=quantile(without - residuals, tail), upper=quantile(without + residuals, 1 - tail)
        )


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Lower and upper ends of P(class 1) of every node, (N,) each; they may lie outside [0, 1]."""

    lower: Tensor
    upper: Tensor

    @property
    def middle(self) -> Tensor:
        """Centres (N,) of the unclipped intervals."""
        return (self.lower + self.upper) / 2

    @property
    def clipped(self) -> "Intervals":
        """The intervals clipped to [0, 1]."""
        return Intervals(lower=self.lower.clamp(0, 1), upper=self.upper.clamp(0, 1))

    def at(self, nodes: Tensor) -> "Intervals":
        """Returns the intervals of some nodes."""
        return Intervals(lower=self.lower[nodes], upper=self.upper[nodes])


def quantile(values: Tensor, share: float) -> Tensor:
    """Returns the quantile (N,) of each column of `values: (K, N)`, linear between order statistics; differentiable.

    Unlike `torch.quantile`, it has no limit on the number of elements.
    """
    ordered = values.sort(dim=0).values
    place = share * (len(values) - 1)
    below = int(place)
    # At a share of 1 there is no next value.
    above = min(below + 1, len(values) - 1)
    return torch.lerp(ordered[below], ordered[above], place - below)
