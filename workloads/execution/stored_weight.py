"""Holds what a mask update reads of a weight that is stored sparse."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class StoredWeight:
    """The active entries of a weight `(outputs, inputs)` in row-major order.

    values: `(num_active,)`.
    gradient: of the values, `(num_active,)`; zeros if the loss does not depend on the weight.
    gradient_rows: maps the first row and the row after the last one to these rows of the dense gradient, `(rows, inputs)`; only
        at updates of a method that grows by gradient.
    """

    values: Tensor
    gradient: Tensor
    gradient_rows: Callable[[int, int], Tensor]
