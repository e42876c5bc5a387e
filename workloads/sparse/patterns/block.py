"""Blocks of a weight's matrix are active together, as block-sparse kernels need.

Reference: Gray, Radford and Kingma 2017, GPU Kernels for Block-Sparse Weights (OpenAI)

The matrix (outputs, inputs) of a convolution is its weight flattened from the second dimension on, as in the export format `bsr`,
which runs square blocks with sides of 32, 16, 8, 4 or 2. Blocks are dropped and grown by the sums of the scores of their entries.
Decisions made here, unverified:
- `drop_fraction` is a share of the active blocks.
- A layer whose matrix cannot be divided into blocks is refused, not padded: padded blocks would count weights that do not exist.
With blocks of one weight, `shape: [1, 1]`, this is `unstructured`.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.sparse.pattern import Pattern

__all__ = ["Block"]


@dataclass(frozen=True, kw_only=True)
class Block(Pattern):
    """One group, whose cells are blocks."""

    examples: ClassVar[tuple[Settings, ...]] = ({"shape": [4, 4]}, {"shape": [1, 8]}, {"shape": [1, 1]})

    shape: tuple[int, int]  # rows (outputs) and columns (inputs times kernel) of a block

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise ValueError(f"shape is {list(self.shape)}; it must be at least [1, 1]")

    def refusal(self, shape: tuple[int, ...]) -> str:
        """Returns which size of the matrix is no multiple of a block's; empty if both are."""
        matrix = shape[0], _num_columns(shape)
        sizes = zip(("rows", "columns"), matrix, self.shape, strict=True)
        return " and ".join(f"has {size} {name}, no multiple of {side}" for name, size, side in sizes if size % side)

    def divide(self, tensor: Tensor) -> Tensor:
        """Returns the blocks row by row, (1, blocks, rows * columns)."""
        height, width = self.shape
        rows = len(tensor) // height
        blocks = tensor.reshape(rows, height, -1, width).transpose(1, 2)
        return blocks.reshape(1, -1, height * width)

    def join(self, entries: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Returns the tensor of the weight's shape."""
        height, width = self.shape
        blocks = entries.reshape(shape[0] // height, _num_columns(shape) // width, height, width)
        return blocks.transpose(1, 2).reshape(shape)


def _num_columns(shape: tuple[int, ...]) -> int:
    """Returns the number of columns of the matrix of a weight."""
    columns = 1
    for size in shape[1:]:
        columns *= size
    return columns
