"""The split that the graph's file defines, such as Planetoid's public one; the seed samples additional nodes.

The file has it as `train_mask`, `val_mask` and `test_mask`. Calib nodes are sampled from the nodes in none of them.

Reference: Yang, Cohen and Salakhutdinov, Revisiting semi-supervised learning with graph embeddings (ICML 2016)
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pruneyard.workloads.nodes.graph import Graph, Nodes
from pruneyard.workloads.nodes.splitting import cut, extra_of, shuffled

__all__ = ["Published"]


@dataclass(frozen=True, kw_only=True)
class Published:
    extra_minority: int = 0  # more training nodes of the rare class, from those in no split
    num_calib: int = 500

    def __post_init__(self) -> None:
        for name in ("extra_minority", "num_calib"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")

    def split(self, graph: Graph, *, minority: int, seed: int) -> Mapping[str, Nodes]:
        """See `pruneyard.workloads.nodes.splitting.NodeSplitter`."""
        named = graph.published
        for name in ("train", "val", "test"):
            if len(named.get(name, ())) == 0:
                raise ValueError(
                    f"the file of {graph.name} has no {name}_mask, or an empty one; use the split `drawn`"
                )
        # These masks come from a file that anyone may have written, so overlaps are possible.
        held = np.concatenate([named["train"], named["val"], named["test"]])
        if len(np.unique(held)) < len(held):
            raise ValueError(f"train_mask, val_mask and test_mask of {graph.name} share nodes; they must not")
        rest = shuffled(np.setdiff1d(np.arange(len(graph)), held), seed=seed, part="train")
        extra = extra_of(rest, graph, minority=minority, num=self.extra_minority)
        train = np.sort(np.concatenate([named["train"], extra]))
        return {
            **named,
            "train": train,
            **cut(rest[~np.isin(rest, extra)], {"calib": self.num_calib}, seed=seed),
        }
