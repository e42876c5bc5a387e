"""Base class of methods that train dense and prune by the values of weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from pruneyard.workloads.masks.index_pruning import Candidates, keep_largest_index, keep_largest_indices
from pruneyard.workloads.masks.sparse_index import Mask, SparseIndex, dense_mask
from pruneyard.workloads.sparse.updater import DenseStart, PatternedDensities, in_module_order
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext

Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class ValuePruning(PatternedDensities, DenseStart):
    """A method that keeps the weights with the largest scores, which are functions of their values.

    Layers that are to be stored sparse are pruned to indices, without a mask: see `PrunesToIndices` in
    `pruneyard.workloads.training.mask_updater`. A subclass that overrides `update` gets and returns masks, unless it sets
    `gives_indices` itself.
    """

    gives_indices: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "gives_indices" not in cls.__dict__ and cls.__dict__.keys() & {"start", "update"}:
            cls.gives_indices = False

    @property
    def prunes_to_indices(self) -> bool:
        """True without a pattern, whose cells are chosen on masks."""
        return self.gives_indices and not self.is_patterned

    def target_counts(self, state: SparseState, context: UpdateContext) -> dict[str, int]:
        """Returns `counts`, for which no weight that is stored sparse is made dense."""
        active: Mapping[str, Mask] = {**state.masks, **state.indices}
        shapes = {name: active[name].shape if name in active else context.weights[name].shape for name in context.weights}
        return self.counts({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})

    def pruned(
        self,
        state: SparseState,
        context: UpdateContext,
        *,
        counts: Mapping[str, int],
        scope: Literal["layer", "global"],
        score: Score = torch.abs,
        is_elementwise: bool = True,
    ) -> SparseState:
        """Returns the state with `counts[name]` weights of each layer kept, or so many in sum with `scope: global`.

        score: maps values to scores of the same shape; `is_elementwise` says whether one depends on its own value alone.
        """
        unordered: Mapping[str, Mask] = {**state.masks, **state.indices}
        active = dict(in_module_order(unordered, context))
        sparse = {name for name in active if self.prunes_to_indices and context.can_be_index(name, counts[name])}

        def candidates(name: str) -> Candidates:
            is_index = isinstance(active[name], SparseIndex)
            values = context.stored[name].values if is_index else context.weights[name].detach().flatten()
            return Candidates(name=name, mask=active[name], values=values, score=score, is_elementwise=is_elementwise)

        def kept(names: list[str]) -> dict[str, Tensor]:
            masks = {name: dense_mask(active[name]) for name in names}
            scores = {name: score(context.weights[name]) for name in masks}
            return self.pattern.keep_largest(scores, masks, scope=scope, counts=counts, generator=context.generator)

        if not sparse:
            return SparseState(kept(list(active)), state.tensors)
        masks: dict[str, Tensor] = {}
        indices: dict[str, SparseIndex] = {}
        if scope == "global":
            total = sum(counts.values())
            found = keep_largest_indices({n: candidates(n) for n in active}, count=total, generator=context.generator)
            indices = {name: index for name, index in found.items() if name in sparse}
            masks = {name: index.mask() for name, index in found.items() if name not in sparse}
            return SparseState(masks, state.tensors, indices=indices)
        for name in active:  # one after another, in the order in which masks would be chosen
            if name in sparse:
                indices[name] = keep_largest_index(candidates(name), count=counts[name], generator=context.generator)
            else:
                masks |= kept([name])
        return SparseState(masks, state.tensors, indices=indices)
