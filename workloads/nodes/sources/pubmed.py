"""PubMed citation graph: diabetes papers in 3 topics, TF-IDF word weights.

Classes have the order of the npz file, which may differ from Planetoid's. Give the rare class by name, or look up its number.

Reference: Namata et al., Query-driven active surveying for collective classification, MLG 2012
"""

from dataclasses import dataclass

from pruneyard.workloads.nodes.planetoid import PlanetoidGraph

__all__ = ["PubMed"]


@dataclass(frozen=True, kw_only=True)
class PubMed(PlanetoidGraph):
    """The PubMed graph. Features are TF-IDF weights; `normalize` divides them by their sum."""
