"""Random split by the job's seed: a fixed number of training nodes per class, optionally more of the rare one.

Nodes of val, calib and test are sampled regardless of class, so class frequencies are close to those of the graph. Jobs with
the same seed share their split, whatever else differs.

Reference: Shchur et al., Pitfalls of graph neural network evaluation, arXiv 1811.05868: splits drawn anew for every seed
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pruneyard.workloads.nodes.graph import Graph, Nodes
from pruneyard.workloads.nodes.splitting import cut, extra_of, shuffled

__all__ = ["Drawn"]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Options of the random split. 20, 500 and 1,000 are from CALIRARE's code; it adds 10 nodes per class (`per_class: 30`)."""

    per_class: int = 20
    extra_minority: int = 0  # more training nodes of the rare class
    num_val: int = 500
    num_calib: int = 500
    num_test: int = 1000

    def __post_init__(self) -> None:
        for name in ("per_class", "num_val", "num_test"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("extra_minority", "num_calib"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")

    def split(self, graph: Graph, *, minority: int, seed: int) -> Mapping[str, Nodes]:
        """See `pruneyard.workloads.nodes.splitting.NodeSplitter`."""
        counts = np.bincount(graph.labels, minlength=graph.num_classes)
        if counts.min() < self.per_class:
            smallest = int(counts.argmin())
            raise ValueError(
                f"per_class is {self.per_class}; class {graph.classes[smallest]!r} has {counts[smallest]} nodes, the most allowed"
            )
        order = shuffled(np.arange(len(graph)), seed=seed, part="train")
        labels = graph.labels[order]
        # From the start of one order for all classes, so a larger `per_class` keeps the nodes of a smaller one.
        first = [order[labels == label][: self.per_class] for label in range(graph.num_classes)]
        rest = order[~np.isin(order, np.concatenate(first))]
        extra = extra_of(rest, graph, minority=minority, num=self.extra_minority)
        train = np.sort(np.concatenate([*first, extra]))
        # `calib` is last, so `num_calib` changes neither val nor test.
        sizes = {"val": self.num_val, "test": self.num_test, "calib": self.num_calib}
        return {"train": train, **cut(rest[~np.isin(rest, extra)], sizes, seed=seed)}
