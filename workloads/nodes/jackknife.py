"""How sure a network is of a node: what the networks that lack one training node each would say, without training them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pruneyard.workloads.nodes.curvature import Product, conjugate_gradients, solve_dense
from pruneyard.workloads.nodes.flat import gradients_of_each, hessian_products
from pruneyard.workloads.nodes.gauss_newton import gauss_newton_products, solve_by_rows


@dataclass(frozen=True, kw_only=True)
class Jackknife:
    """coverage: of the intervals; damping: added to the diagonal of the curvature.

    curvature: `hessian`, as in the released code, is not positive definite where training has not come far, and then refused;
    `gauss_newton` is what is left of it for a network taken as linear in its parameters, and never is refused.
    max_dense: the size up to which a matrix is built, (P, P) of the Hessian, (2n, 2n) of n training nodes for Gauss-Newton;
    beyond it come conjugate gradients, to `tolerance`.

    Reference: Alaa and van der Schaar, Discriminative jackknife (ICML 2020); Koh and Liang, Understanding black-box
    predictions via influence functions (ICML 2017). coverage and damping are those of CALIRARE's code (arXiv 2307.09858)
    """

    coverage: float = 0.9
    damping: float = 1e-2
    curvature: Literal["gauss_newton", "hessian"] = "gauss_newton"
    max_dense: int = 1000
    tolerance: float = 1e-4
    max_iterations: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.coverage < 1:
            raise ValueError(f"coverage is {self.coverage}; it must lie in (0, 1)")
        if not self.damping > 0:
            raise ValueError(f"damping is {self.damping}; it must be above 0")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance is {self.tolerance}; it must lie in (0, 1)")
        for name, least in (("max_dense", 0), ("max_iterations", 1)):
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
        """(n, P): to first order, where the parameters move when node k is left out of the loss.

        The loss is the sum of `parts` (n,), each of its own row of `logits` (n, 2) at parameters (P,), and l2 / 2 times their
        squared length. Where `at` is its minimum, the shift is (curvature + damping)^-1 times the gradient of node k's part;
        the weights of the others stay, so with equal weights that is the gradient of its loss over n. `between` is called
        between iterations. Raises `CurvatureError`.
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
            small = 2 * len(parts(logits(at))) <= self.max_dense
            return solve_by_rows(logits, parts, at, diagonal=diagonal) if small else solved(of_gauss_newton)
        if len(at) <= self.max_dense:
            return solve_dense(of_hessian, gradients_of_each(lambda vector: parts(logits(vector)), at))
        return solved(of_hessian)

    def intervals(self, without: Tensor, *, own: Tensor, labels: Tensor) -> "Intervals":
        """Of M nodes, from `without: (K, M)`: P(class 1) of each by the network without the k-th of K training nodes.

        own, labels: (K,), what the network without a training node says of that node itself, and its label. Quantiles are
        interpolated linearly.
        """
        residuals = (labels.to(own.dtype) - own).abs()[:, None]
        tail = (1 - self.coverage) / 2
        return Intervals(
            lower=quantile(without - residuals, tail), upper=quantile(without + residuals, 1 - tail)
        )


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Of P(class 1) of every node, (N,) each; they may reach beyond 0 and 1."""

    lower: Tensor
    upper: Tensor

    @property
    def middle(self) -> Tensor:
        """(N,), of the interval as it is."""
        return (self.lower + self.upper) / 2

    @property
    def clipped(self) -> "Intervals":
        """The parts inside [0, 1]."""
        return Intervals(lower=self.lower.clamp(0, 1), upper=self.upper.clamp(0, 1))

    def at(self, nodes: Tensor) -> "Intervals":
        """Those of some nodes."""
        return Intervals(lower=self.lower[nodes], upper=self.upper[nodes])


def quantile(values: Tensor, share: float) -> Tensor:
    """(N,), of each column of `values: (K, N)`, linear between order statistics; differentiable, of any size."""
    ordered = values.sort(dim=0).values
    place = share * (len(values) - 1)
    below = int(place)
    above = min(below + 1, len(values) - 1)
    return torch.lerp(ordered[below], ordered[above], place - below)
