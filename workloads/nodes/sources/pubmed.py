"""Papers on diabetes in 3 topics, word weights: who cites whom.

Classes stand in the order of the npz file, which need not be Planetoid's: name the rare class, or look its number up.

Reference: Namata et al., Query-driven active surveying for collective classification, MLG 2012
"""

from dataclasses import dataclass

from pruneyard.workloads.nodes.planetoid import PlanetoidGraph

__all__ = ["PubMed"]


@dataclass(frozen=True, kw_only=True)
class PubMed(PlanetoidGraph):
    """Its words carry weights (TF-IDF); dividing by their sum is what `normalize` does."""
