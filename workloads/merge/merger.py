"""The protocol of a merging method, and what it returns: the weights of one network, or a rule that combines outputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from pruneyard.workloads.interfaces import Tensors
from pruneyard.workloads.merge.context import MergeContext
from pruneyard.workloads.merge.member import Member

UseOfVal = Literal["none", "choose", "fit"]
"""Nothing; a choice among a few networks; or numbers that are fitted to the rows."""


@dataclass(frozen=True, kw_only=True)
class MergedNetwork:
    """One network of the members' architecture.

    weights: all parameters and buffers by name. The job sets weights outside `masks` to 0 and refreshes running statistics.
    masks: by parameter name; a prunable weight without one is dense.
    numbers: results of the method by name, which are recorded as metrics of `train`.
    shares: how much of each member is in the network, by run key, if the method chooses it.
    """

    weights: Tensors
    masks: Mapping[str, Tensor]
    numbers: Mapping[str, float] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MergedOutputs:
    """A prediction from the outputs of all members; there is no single network.

    combine: returns log-probabilities (N, K) for the logits of all members (M, N, K).
    numbers, shares: as in `MergedNetwork`.
    """

    combine: Callable[[Tensor], Tensor]
    numbers: Mapping[str, float] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)


class Merger(Protocol):
    """A frozen dataclass in `workloads/merge/methods`."""

    merges_weights: ClassVar[bool]  # whether it returns a network, so that all members must have one architecture
    order_matters: ClassVar[bool]  # whether the result depends on the order of the members by more than rounding
    keeps_copies: ClassVar[bool]  # whether a merge of copies of one network is that network, but for rounding

    @property
    def use_of_val(self) -> UseOfVal:
        """Returns what the rows of `val` are used for. If numbers are fitted to them, `val` is not evaluated."""
        ...

    def merge(self, members: Sequence[Member], context: MergeContext) -> MergedNetwork | MergedOutputs:
        """Returns the merge of at least one member. Raises `ValueError` for members that the method cannot merge."""
        ...


@dataclass(frozen=True, kw_only=True)
class WeightMerger:
    """Base class of methods that return a network, without use of `val` or of the order of members unless they say so."""

    merges_weights: ClassVar[bool] = True
    order_matters: ClassVar[bool] = False
    keeps_copies: ClassVar[bool] = True

    @property
    def use_of_val(self) -> UseOfVal:
        """Returns `none`: the rows of `val` are not used."""
        return "none"
