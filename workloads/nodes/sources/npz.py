"""Your own graph from an npz file at PATH with CSR arrays `adj_*` and `attr_*`, and `labels`.

Edges become undirected and unweighted; self-loops are dropped. Optional arrays: `class_names`, and `train_mask`, `val_mask` and
`test_mask` for the split `published`. Files with pickled (object) arrays are rejected; save them without object arrays.

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
        """The option `path` only."""
        return (self.path,)
