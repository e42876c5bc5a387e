"""A graph of your own: PATH, an npz file with CSR parts `adj_*` and `attr_*`, and `labels`.

Edges lose direction and weight, loops are dropped. Optional arrays: `class_names`, and `train_mask`, `val_mask` and
`test_mask` for the split `published`. Files with pickled (object) arrays are refused: write them anew without.

Reference: the npz form of attributed graphs used with Bojchevski and Guennemann, Deep Gaussian embedding of graphs (ICLR 2018)
"""

from dataclasses import dataclass
from typing import ClassVar

from pruneyard.workloads.nodes.graph_files import GraphFile
from pruneyard.workloads.plugins import Settings

__all__ = ["Npz"]


@dataclass(frozen=True, kw_only=True)
class Npz(GraphFile):
    examples: ClassVar[tuple[Settings, ...]] = ({"path": "graph.npz"},)
    path: str  # relative to one of the folders, or absolute

    @property
    def candidates(self) -> tuple[str, ...]:
        """The path alone."""
        return (self.path,)
