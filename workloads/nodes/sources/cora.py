"""2,708 papers on machine learning in 7 topics, 1,433 words: who cites whom.

Classes stand in the order of the npz file, which need not be Planetoid's: name the rare class, or look its number up.

Reference: McCallum et al., Automating the construction of internet portals, Information Retrieval 3, 2000
"""

from dataclasses import dataclass

from pruneyard.workloads.nodes.planetoid import PlanetoidGraph

__all__ = ["Cora"]


@dataclass(frozen=True, kw_only=True)
class Cora(PlanetoidGraph):
    """`Theory` is the class of 351 papers, 13%, of which Planetoid's own files are said to make number 0."""
