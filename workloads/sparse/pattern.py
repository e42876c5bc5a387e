"""The base class of mask patterns: which weights are active together, and how the active ones of a layer are spread.

A pattern divides a weight into cells, whose entries are active or inactive together, and the cells into groups. All groups of a
layer have the same number of active cells. Methods choose cells by the sum of the scores of their entries; all cells of a layer
are of the same size, so that sums rank them as means do.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pruneyard.workloads.masks.groups import drop_and_grow_in_groups, keep_largest_in_groups, random_cells
from pruneyard.workloads.masks.masks import keep_largest_overall
from pruneyard.workloads.plugins import table_of


@dataclass(frozen=True, kw_only=True)
class LayerMove:
    """The input of one layer's drop and grow; masks and scores have the shape of the weight."""

    mask: Tensor
    drop_scores: Tensor  # the active cells with the smallest sums are dropped
    grow_scores: Tensor  # the inactive cells with the largest sums are grown
    drop_fraction: float  # share of the active cells that is moved
    count: int  # active weights of the layer at the density of the method
    layer: str
    is_last: bool  # whether it is the last prunable layer, all of whose outputs must stay
    generator: torch.Generator

    def __post_init__(self) -> None:
        # Scores that broadcast to the weight, such as a sum, would rank nothing without anybody noticing.
        for name, scores in (("drop scores", self.drop_scores), ("grow scores", self.grow_scores)):
            if scores.shape != self.mask.shape:
                wanted = f"they must have that of its weight, {tuple(self.mask.shape)}"
                raise ValueError(f"{name} of {self.layer} have the shape {tuple(scores.shape)}; {wanted}")


@dataclass(frozen=True, kw_only=True)
class Pattern(ABC):
    """A pattern of masks: a frozen dataclass in `workloads/sparse/patterns`."""

    @abstractmethod
    def refusal(self, shape: tuple[int, ...]) -> str:
        """Returns what about a weight of this shape does not fit the pattern; empty if it fits."""

    @abstractmethod
    def divide(self, tensor: Tensor) -> Tensor:
        """Maps a tensor (outputs, inputs, *kernel) to the entries of its cells, (groups, cells, entries)."""

    @abstractmethod
    def join(self, entries: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Maps the entries of cells (groups, cells, entries) to a contiguous tensor of a weight's shape; undoes `divide`."""

    @property
    def density(self) -> float | None:
        """The density that the pattern gives every layer; None if the method is free to choose it."""
        return None

    @property
    def reads_gradient(self) -> bool:
        """True if masks move as the pattern says only where grow scores are gradients."""
        return False

    @property
    def is_balanced(self) -> bool:
        """True if layers are divided into several groups, so that no threshold can be shared by layers."""
        return False

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Returns the number of groups of a weight, of cells in a group, and of entries in a cell."""
        groups, cells, entries = self.divide(torch.empty(shape, device="meta")).shape
        return groups, cells, entries

    def whole_counts(self, counts: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """Returns the active weights of each layer in the pattern that are nearest to `counts`.

        A layer has whole cells, equally many in each group and at least one, so its count is a multiple of groups times entries.
        Counts are rounded down, then up in the order of their remainders while that brings the sum nearer.

        Raises `ValueError` that names all layers whose shapes do not fit.
        """
        if misfits := [f"{name} {self.refusal(shapes[name])}" for name in counts if self.refusal(shapes[name])]:
            raise ValueError(
                f"method.pattern is {self}, which does not fit: {'; '.join(misfits)}. "
                "Choose another one, keep these layers dense with keep_dense, or exclude them with prunable"
            )
        sizes = {name: self.sizes(shapes[name]) for name in counts}
        if self.density is not None:
            return {name: round(self.density * math.prod(size)) for name, size in sizes.items()}
        steps = {name: groups * entries for name, (groups, _, entries) in sizes.items()}
        whole = {name: max(step, counts[name] // step * step) for name, step in steps.items()}
        for name in sorted(counts, key=lambda name: (whole[name] - counts[name]) / steps[name]):
            if 0 < steps[name] <= 2 * (sum(counts.values()) - sum(whole.values())) and whole[name] < counts[name]:
                whole[name] += steps[name]
        return whole

    def random_mask(self, shape: tuple[int, ...], count: int, *, generator: torch.Generator) -> Tensor:
        """Returns a random mask with `count` active weights on the CPU; all masks of the pattern are equally likely."""
        groups, cells, entries = self.sizes(shape)
        chosen = random_cells((groups, cells), count // (groups * entries), generator=generator)
        return self._mask(chosen, shape)

    def keep_largest(
        self,
        scores: Mapping[str, Tensor],
        among: Mapping[str, Tensor],
        *,
        scope: Literal["layer", "global"],
        counts: Mapping[str, int],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Returns masks of the cells with the largest sums of scores among the active ones: `counts[name]` weights of each layer.

        With `scope: global` one threshold is shared by all layers, and only the sum of the counts matters. Counts that are
        no multiple are rounded up.
        """
        sums, active = self._sums(scores), {name: self._cells(mask) for name, mask in among.items()}
        sizes = {name: self.sizes(tuple(mask.shape)) for name, mask in among.items()}
        if scope == "global":
            total = math.ceil(sum(counts.values()) / next(iter(sizes.values()))[2])
            found = keep_largest_overall(sums, active, count=total, generator=generator)
        else:
            found = {}
            for name, (groups, _, entries) in sizes.items():
                per_group = torch.full((groups,), math.ceil(counts[name] / (groups * entries)), device=active[name].device)
                found[name] = keep_largest_in_groups(
                    sums[name], active[name], counts=per_group, generator=generator, layer=name
                )
        return {name: self._mask(cells, tuple(among[name].shape)) for name, cells in found.items()}

    def drop_and_grow(self, move: LayerMove) -> Tensor:
        """Returns the mask after the active cells of smallest drop score were dropped, and each group grew as many as it lost."""
        cells = self._cells(move.mask)
        sums = self._sums({"drop": move.drop_scores, "grow": move.grow_scores})
        moved = drop_and_grow_in_groups(
            cells,
            drop_scores=sums["drop"],
            grow_scores=sums["grow"],
            num_moved=math.floor(move.drop_fraction * int(torch.count_nonzero(cells))),
            generator=move.generator,
            layer=move.layer,
        )
        return self._mask(moved, tuple(move.mask.shape))

    def _cells(self, mask: Tensor) -> Tensor:
        """Returns the mask (groups, cells) of a weight's mask in this pattern."""
        return self.divide(mask)[:, :, 0]

    def _mask(self, cells: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Returns the mask of a weight's shape with these active cells (groups, cells)."""
        return self.join(cells[:, :, None].expand(-1, -1, self.sizes(shape)[2]), shape)

    def _sums(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the sum of the scores of each cell, (groups, cells) for each tensor."""
        divided = {name: self.divide(tensor) for name, tensor in scores.items()}
        return {name: parts[:, :, 0] if parts.shape[2] == 1 else parts.sum(2) for name, parts in divided.items()}

    def __str__(self) -> str:
        """Returns the table of the pattern in a spec."""
        return f"{{{', '.join(f'{key}: {value}' for key, value in table_of(self).items())}}}"
