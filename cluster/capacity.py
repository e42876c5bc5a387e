"""Returns what the nodes of the joined cluster offer."""

from collections.abc import Mapping

import ray


def node_resources() -> tuple[Mapping[str, float], ...]:
    """Returns the resources of each live node by Ray's names: `CPU`, `GPU`, and `memory` in bytes."""
    # ray.nodes() also lists dead nodes.
    return tuple(node["Resources"] for node in ray.nodes() if node["Alive"])
