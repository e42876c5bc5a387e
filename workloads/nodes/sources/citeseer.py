"""CiteSeer citation graph: about 3,300 papers in 6 topics, 3,703 words.

Classes have the order of the npz file, which may differ from Planetoid's. Give the rare class by name, or look up its number.

Reference: Giles, Bollacker and Lawrence, CiteSeer: an automatic citation indexing system, ACM DL 1998
"""

from dataclasses import dataclass

from pruneyard.workloads.nodes.planetoid import PlanetoidGraph

__all__ = ["CiteSeer"]


@dataclass(frozen=True, kw_only=True)
class CiteSeer(PlanetoidGraph):
    """The CiteSeer graph. `AI` is the rarest class: 249 papers, 7.5%."""
