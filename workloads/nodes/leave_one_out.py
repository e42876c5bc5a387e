"""Compares the estimated leave-one-out networks of the jackknife with networks that are trained on without the node.

Estimates are exact only where the loss is quadratic in the parameters, which is nearly so for one layer and not for two.
Reference: Koh and Liang, Understanding black-box predictions via influence functions (ICML 2017); Basu, Pope and Feizi, Influence
functions in deep learning are fragile (ICLR 2021).
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

RATE = 0.01  # of Adam, decaying to 0


def compare_with_retrained(
    probabilities: Callable[[Tensor], Tensor],
    parts: Callable[[Tensor], Tensor],
    at: Tensor,
    shifts: Tensor,
    *,
    l2: float,
    steps: int,
    between: Callable[[], None],
) -> Mapping[str, float]:
    """Returns `loo_slope` and `loo_correlation` of the changes of all probabilities, for the nodes whose shifts are given.

    probabilities: of all nodes (N,) at parameters (P,). parts: the loss of each training node (n,), whose sum plus l2 / 2 times
    the squared norm is minimised. shifts: (K, P), of the first K training nodes. The slope is that of the estimated change over
    the change after training on from `at` for `steps` steps without the node, through the origin: below 1, estimates are too
    small. Changes are taken from a network that is trained on as long with all nodes, since `at` need not be a minimum.
    """
    num = len(parts(at))

    def trained_on(kept: Tensor) -> Tensor:
        vector = at.detach().clone().requires_grad_()
        solver = torch.optim.Adam([vector], lr=RATE)
        for step in range(steps):
            between()
            for group in solver.param_groups:
                group["lr"] = RATE * (1 - step / steps)
            solver.zero_grad()
            ((kept * parts(vector)).sum() + l2 / 2 * vector.square().sum()).backward()
            solver.step()
        with torch.no_grad():
            return probabilities(vector)

    everyone = torch.ones(num, dtype=at.dtype, device=at.device)
    base, own = trained_on(everyone), probabilities(at.detach())
    true, estimated = [], []
    for k, shift in enumerate(shifts):
        without = everyone.clone()
        without[k] = 0
        true.append(trained_on(without) - base)
        estimated.append(probabilities(at.detach() + shift) - own)
    both = torch.stack([torch.cat(estimated), torch.cat(true)]).detach().double()
    squares = float(both[1].square().sum())
    return {
        "loo_slope": float((both[0] * both[1]).sum()) / squares if squares else float("nan"),
        "loo_correlation": float(torch.corrcoef(both)[0, 1]),
    }
