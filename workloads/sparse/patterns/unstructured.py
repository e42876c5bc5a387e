"""Any weights of a layer may be active: no pattern.

Reference: the neutral member
"""

from dataclasses import dataclass

from torch import Tensor

from pruneyard.workloads.sparse.pattern import Pattern

__all__ = ["Unstructured"]


@dataclass(frozen=True, kw_only=True)
class Unstructured(Pattern):
    """One group, whose cells are the weights."""

    def refusal(self, shape: tuple[int, ...]) -> str:
        """Returns an empty text: every weight fits."""
        return ""

    def divide(self, tensor: Tensor) -> Tensor:
        """Returns the flattened tensor, (1, weights, 1)."""
        return tensor.reshape(1, -1, 1)

    def join(self, entries: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Returns the tensor of the weight's shape."""
        return entries.reshape(shape)
