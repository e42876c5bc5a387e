"""One embedding table for each field of a click log, and a multilayer perceptron on the looked-up rows.

Inputs are the codes of the fields: whole numbers in float features that are not normalised, as the source `clicks` gives
them. A code beyond the rows of its table is taken modulo their number (the hashing trick). Rows start as normal numbers of
standard deviation 0.1. The tables are prunable besides the linear layers.

Reference: Naumov et al. 2019, Deep Learning Recommendation Model for Personalization and Recommendation (arXiv:1906.00091)
"""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn

from pruneyard.workloads.masks.choice import choose_prunable
from pruneyard.workloads.plugins import Settings

__all__ = ["Recommender"]

INITIAL_SD = 0.1


@dataclass(frozen=True, kw_only=True)
class Recommender:
    rows: tuple[int, ...] = (2000, 1000, 1000, 500, 200, 100, 50, 10)  # of each table; one number: of all
    size: int = 16  # numbers in a row of a table
    width: int = 64  # units of the hidden layer
    examples: ClassVar[tuple[Settings, ...]] = ({"rows": [3], "size": 2, "width": 4},)

    def __post_init__(self) -> None:
        for name, value in (("rows", min(self.rows, default=0)), ("size", self.size), ("width", self.width)):
            if value < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """See `pruneyard.workloads.networks.builder.ModelBuilder`. Raises `ValueError` for another number of fields."""
        num_fields = prod(image_shape)
        if len(self.rows) not in (1, num_fields):
            raise ValueError(f"rows is {list(self.rows)}; it must be one number, or one for each of {num_fields} fields")
        rows = self.rows * num_fields if len(self.rows) == 1 else self.rows
        network = nn.Sequential()
        network.add_module("tables", _Tables(rows, self.size))
        network.add_module("hidden", nn.Linear(num_fields * self.size, self.width))
        network.add_module("relu", nn.ReLU())
        network.add_module("classifier", nn.Linear(self.width, num_classes))
        choose_prunable(network, ("*", "tables.*"))
        return network


class _Tables(nn.ModuleList):
    """Codes (B, fields) to the rows of the tables (B, fields * size)."""

    def __init__(self, rows: tuple[int, ...], size: int) -> None:
        super().__init__(nn.Embedding(num, size) for num in rows)
        self.rows = rows
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=INITIAL_SD)

    def forward(self, codes: Tensor) -> Tensor:
        by_field = codes.flatten(1).long().unbind(1)
        found = [table(column % num) for table, column, num in zip(self, by_field, self.rows, strict=True)]
        return torch.cat(found, dim=1)
