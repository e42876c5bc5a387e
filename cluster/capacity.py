"""What the nodes of the cluster that this process has joined offer."""

from collections.abc import Mapping

import ray


def node_resources() -> tuple[Mapping[str, float], ...]:
    """Of each node that is alive: amounts by Ray's names, `CPU`, `GPU`, `memory` in bytes."""
    return tuple(node["Resources"] for node in ray.nodes() if node["Alive"])
