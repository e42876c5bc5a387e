"""N of every M adjacent inputs of an output are active, such as 2:4.

Reference: Mishra et al. 2021, Accelerating Sparse Deep Neural Networks (arXiv:2104.08378)

Groups lie along the dimension that is summed over: input channels of a convolution, inputs of a linear layer, as in the method
`nm`. The density is N / M in every layer; `density` must say the same, and `distribution` has no effect. Decisions made here,
unverified:
- Weights are dropped by magnitude in the whole layer, then every group grows until N are active, as SRigL does with neurons.
- Gradual pruning goes through N of M in whole steps: 4:4, 3:4, 2:4.
- A layer whose inputs are no multiple of M is refused, not padded.
With M equal to the inputs of a linear layer this is `constant_fan_in`.
"""

from dataclasses import dataclass

from torch import Tensor

from pruneyard.workloads.masks.input_groups import by_input_groups, check_nm, from_input_groups
from pruneyard.workloads.sparse.pattern import Pattern

__all__ = ["NMGroups"]


@dataclass(frozen=True, kw_only=True)
class NMGroups(Pattern):
    """Groups of M weights."""

    n: int = 2  # active weights of every group
    m: int = 4  # size of a group

    def __post_init__(self) -> None:
        check_nm(self.n, self.m)

    @property
    def density(self) -> float:
        """N / M."""
        return self.n / self.m

    @property
    def is_balanced(self) -> bool:
        """True: every group has N."""
        return True

    def refusal(self, shape: tuple[int, ...]) -> str:
        """Returns that the inputs are no multiple of M; empty if they are."""
        return f"has {shape[1]} inputs, no multiple of {self.m}" if shape[1] % self.m else ""

    def divide(self, tensor: Tensor) -> Tensor:
        """Returns the groups, (groups, M, 1)."""
        return by_input_groups(tensor, self.m)[:, :, None]

    def join(self, entries: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Returns the tensor of the weight's shape."""
        return from_input_groups(entries, shape)
