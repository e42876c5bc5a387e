"""Synthetic graph with one rare class: a stochastic block model sampled from a seed; needs no download.

Two nodes of the same class are linked with probability `degree_within` / (size of the class), two nodes of different classes with
`degree_between` / (number of nodes). Every class has its own words: a node has each of them with probability 0.2 and every
other word with probability 0.05.

Reference: Holland, Laskey and Leinhardt, Stochastic blockmodels: first steps, Social Networks 5, 1983
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import sparse

from pruneyard.workloads import plugins
from pruneyard.workloads.fields import renamed
from pruneyard.workloads.nodes.graph import Graph, GraphSource, rows_summing_to_one, undirected
from pruneyard.workloads.seeding import stream_seed

__all__ = ["BlockModel"]

OWN_WORD, OTHER_WORD = 0.2, 0.05


@dataclass(frozen=True, kw_only=True)
class BlockModel(GraphSource):
    """A stochastic block model. Class 0 is the rare class; the other classes have equal shares of the rest."""

    num_nodes: int = 600
    num_classes: int = 3
    minority_fraction: float = field(default=0.1, metadata=renamed("rare_share"))
    degree_within: float = 3.0
    degree_between: float = 1.5
    words_per_class: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("num_nodes", 10), ("num_classes", 2), ("words_per_class", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 < self.minority_fraction < 1:
            raise ValueError(f"minority_fraction is {self.minority_fraction}; it must lie in (0, 1)")
        for name in ("degree_within", "degree_between"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")

    def inputs(self) -> tuple[Path, ...]:
        return ()

    def load(self) -> Graph:  # type: ignore[override]
        """Samples the order of labels, edges and words, each from its own random stream."""
        labels, num = self._labels(), self.num_nodes
        # (N, N): memory grows with the square of the number of nodes.
        own = labels[:, None] == labels
        sizes = np.bincount(labels, minlength=self.num_classes)
        # Where `own` is true both nodes have the same class, so the size of the row's class is that of both.
        chance = np.where(own, self.degree_within / sizes[labels][:, None], self.degree_between / num)
        # Every pair is sampled once, above the diagonal; `undirected` adds the other direction.
        edges = np.triu(self._stream("edges").random((num, num)) < chance, k=1)
        of_class = np.arange(self.num_classes * self.words_per_class) // self.words_per_class
        likely = np.where(labels[:, None] == of_class, OWN_WORD, OTHER_WORD)
        words = self._stream("words").random(likely.shape) < likely
        return Graph(
            name=plugins.name_of(self),
            classes=("rare", *(f"common{place}" for place in range(1, self.num_classes))),
            adjacency=undirected(sparse.csr_array(edges)),
            features=rows_summing_to_one(sparse.csr_array(words.astype(np.float32))),
            labels=labels,
        )

    def _labels(self) -> np.ndarray:
        # At least one node, or the graph would lack its class 0.
        num_rare = max(1, round(self.minority_fraction * self.num_nodes))
        rest = 1 + np.arange(self.num_nodes - num_rare) % (self.num_classes - 1)
        return self._stream("labels").permutation(np.concatenate([np.zeros(num_rare, dtype=np.int64), rest]))

    def _stream(self, name: str) -> np.random.Generator:
        return np.random.default_rng(stream_seed(self.seed, f"block-model/{name}"))
