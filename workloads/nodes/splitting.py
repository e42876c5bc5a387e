"""What decides which nodes are trained on, held out and tested: the protocol, and draws that its members share."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from pruneyard.workloads.nodes.graph import Graph, Nodes
from pruneyard.workloads.seeding import stream_seed

SPLITS = ("train", "val", "calib", "test")


class NodeSplitter(Protocol):
    """A frozen dataclass in `workloads/nodes/splits`."""

    def split(self, graph: Graph, *, minority: int, seed: int) -> Mapping[str, Nodes]:
        """Disjoint node ids of each of `SPLITS`, sorted. Raises `ValueError`, naming a field, where nodes do not suffice."""
        ...


def shuffled(nodes: Nodes, *, seed: int, part: str) -> Nodes:
    """In an order that is a function of the job's seed: what is chosen for `part` is taken from its start."""
    order: Nodes = np.random.default_rng(stream_seed(seed, f"nodes/split/{part}")).permutation(nodes)
    return order


def cut(nodes: Nodes, sizes: Mapping[str, int], *, seed: int) -> dict[str, Nodes]:
    """So many of `nodes` for each name, whatever their class, by chance. Raises `ValueError` where there are too few."""
    wanted = sum(sizes.values())
    if wanted > len(nodes):
        named = " + ".join(f"num_{name} {size}" for name, size in sizes.items())
        raise ValueError(f"{named} are {wanted} nodes; {len(nodes)} are left beside those for training")
    order = shuffled(
        np.sort(nodes), seed=seed, part="rest"
    )  # anew: an order that classes were picked from is short of them
    parts = np.split(order[:wanted], np.cumsum(list(sizes.values()))[:-1])
    return {name: np.sort(part) for name, part in zip(sizes, parts, strict=True)}


def extra_of(nodes: Nodes, graph: Graph, *, minority: int, num: int) -> Nodes:
    """The first `num` nodes of the minority class among `nodes`. Raises `ValueError` where there are fewer."""
    found = nodes[graph.labels[nodes] == minority]
    if num > len(found):
        raise ValueError(
            f"extra_minority is {num}; {len(found)} nodes of that class are not in train already"
        )
    chosen: Nodes = found[:num]
    return chosen
