"""Keeps what a step computes of a layer that is stored sparse, from which the dense gradient of its weight follows by rows."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Captured(Protocol):
    """One use of a weight `(outputs, inputs)` in a step."""

    def add_rows(self, total: Tensor, first: int, last: int) -> None:
        """Adds its part of the rows from `first` up to `last` of the dense gradient to `total (last - first, inputs)`."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class CapturedProduct:
    """A product with the weight: `columns (inputs, rows)` and the gradient `at_outputs (outputs, rows)`."""

    columns: Tensor
    at_outputs: Tensor

    def add_rows(self, total: Tensor, first: int, last: int) -> None:
        """See `Captured`."""
        total.addmm_(self.at_outputs[first:last], self.columns.t())


@dataclass(frozen=True, eq=False, kw_only=True)
class CapturedLookup:
    """A lookup of rows of the weight: their numbers `codes (n,)` and the gradient `at_rows (n, inputs)`."""

    codes: Tensor
    at_rows: Tensor

    def add_rows(self, total: Tensor, first: int, last: int) -> None:
        """See `Captured`."""
        inside = ((self.codes >= first) & (self.codes < last)).nonzero().squeeze(1)
        total.index_add_(0, self.codes[inside] - first, self.at_rows[inside])
