"""About 3,300 papers in 6 topics, 3,703 words: who cites whom.

Classes stand in the order of the npz file, which need not be Planetoid's: name the rare class, or look its number up.

Reference: Giles, Bollacker and Lawrence, CiteSeer: an automatic citation indexing system, ACM DL 1998
"""

from dataclasses import dataclass

from pruneyard.workloads.nodes.planetoid import PlanetoidGraph

__all__ = ["CiteSeer"]


@dataclass(frozen=True, kw_only=True)
class CiteSeer(PlanetoidGraph):
    """`AI` is the rarest class: 249 papers, 7.5%."""
