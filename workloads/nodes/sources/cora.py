"""Cora citation graph: 2,708 machine learning papers in 7 topics, 1,433 words.

Classes have the order of the npz file, which may differ from Planetoid's. Give the rare class by name, or look up its number.

Reference: McCallum et al., Automating the construction of internet portals, Information Retrieval 3, 2000
"""

from dataclasses import dataclass

from pruneyard.workloads.nodes.planetoid import PlanetoidGraph

__all__ = ["Cora"]


@dataclass(frozen=True, kw_only=True)
class Cora(PlanetoidGraph):
    """The Cora graph. Class `Theory` has 351 papers, 13%; it is said to be number 0 in Planetoid's own files."""
