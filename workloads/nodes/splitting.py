"""Protocol of node splits (train, val, calib, test), and the random choices that they share."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from pruneyard.workloads.nodes.graph import Graph, Nodes
from pruneyard.workloads.seeding import stream_seed

SPLITS = ("train", "val", "calib", "test")


class NodeSplitter(Protocol):
    """Protocol of a frozen dataclass in `workloads/nodes/splits`."""

    def split(self, graph: Graph, *, minority: int, seed: int) -> Mapping[str, Nodes]:
        """Returns disjoint, sorted node ids of each of `SPLITS`. Raises `ValueError`, naming a field, if nodes do not suffice."""
        ...


def shuffled(nodes: Nodes, *, seed: int, part: str) -> Nodes:
    """Returns the nodes in a random order determined by the job's seed and `part`."""
    order: Nodes = np.random.default_rng(stream_seed(seed, f"nodes/split/{part}")).permutation(nodes)
    return order


def cut(nodes: Nodes, sizes: Mapping[str, int], *, seed: int) -> dict[str, Nodes]:
    """Samples `sizes[name]` nodes for each name regardless of class. Raises `ValueError` if there are too few."""
    wanted = sum(sizes.values())
    if wanted > len(nodes):
        named = " + ".join(f"num_{name} {size}" for name, size in sizes.items())
        raise ValueError(f"{named} add up to {wanted} nodes, but only {len(nodes)} are left after those for training")
    # Sorted and shuffled again: training nodes were taken class by class from the start of the order of `nodes`.
    order = shuffled(np.sort(nodes), seed=seed, part="rest")
    # The last boundary is the end of `order[:wanted]`, which `split` would turn into an additional empty part.
    parts = np.split(order[:wanted], np.cumsum(list(sizes.values()))[:-1])
    return {name: np.sort(part) for name, part in zip(sizes, parts, strict=True)}


def extra_of(nodes: Nodes, graph: Graph, *, minority: int, num: int) -> Nodes:
    """Returns the first `num` minority nodes among `nodes`. Raises `ValueError` if there are fewer."""
    found = nodes[graph.labels[nodes] == minority]
    if num > len(found):
        raise ValueError(
            f"extra_minority is {num}, but only {len(found)} nodes of that class are not in train yet"
        )
    chosen: Nodes = found[:num]
    return chosen
