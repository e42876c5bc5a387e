"""Holds all that this folder uses of Ray's private interface, so that a new version of Ray is checked here.

The client of Ray Jobs alone is in `jobs.py`: importing it takes half a second, which studies need not wait for.

Ray has no public way to list placement groups and actors without its dashboard, to keep a local cluster on loopback, or to
reset its cached settings and token.
"""

from dataclasses import dataclass
from typing import Any

import ray
from ray._private import ray_constants, services, worker
from ray._private.state import available_resources_per_node, state
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient  # type: ignore[attr-defined]
from ray.core.generated.gcs_pb2 import ActorTableData, PlacementGroupTableData  # type: ignore[attr-defined]

__all__ = [
    "ActorTableData",
    "AuthenticationTokenLoader",
    "GcsClient",
    "PlacementGroupTableData",
    "PrivateName",
    "actor_table",
    "available_resources_per_node",
    "own_job_id",
    "placement_group_table",
    "ray_constants",
    "raylet_socket",
    "reread_environment",
    "services",
]


@dataclass(frozen=True)
class PrivateName:
    """A private or undocumented name of Ray, and the parameters that we call or override it with; None if it is no function."""

    module: str
    name: str
    parameters: tuple[str, ...] | None = None


CHECKED_RAY_VERSIONS = ("2.60.0",)  # in which all private names of the package, of other files too, were as listed

PRIVATE_NAMES = (
    PrivateName("ray._private.ray_constants", "ENABLE_RAY_CLUSTER"),
    PrivateName("ray._private.ray_constants", "ENABLE_RAY_CLUSTERS_ENV_VAR"),
    PrivateName("ray._private.ray_constants", "RAY_ADDRESS_ENVIRONMENT_VARIABLE"),
    PrivateName("ray._private.services", "find_bootstrap_address", ("temp_dir",)),
    PrivateName("ray._private.services", "find_gcs_addresses", ()),
    PrivateName("ray._private.services", "find_gcs_addresses.cache_clear", ()),
    PrivateName("ray._private.state", "available_resources_per_node", ()),
    PrivateName("ray._private.state", "state._connect_and_get_accessor", ()),
    PrivateName("ray._private.worker", "_global_node"),
    PrivateName("ray._raylet", "AuthenticationTokenLoader.has_token", ("self", "ignore_auth_mode")),
    PrivateName("ray._raylet", "AuthenticationTokenLoader.instance", ()),
    PrivateName("ray._raylet", "AuthenticationTokenLoader.reset_cache", ("self",)),
    PrivateName("ray._raylet", "Config.initialize", ("config_list",)),
    PrivateName("ray._raylet", "GcsClient"),
    PrivateName("ray._raylet", "GlobalStateAccessor.get_actor_table", ("self", "job_id", "actor_state_name")),
    PrivateName("ray._raylet", "GlobalStateAccessor.get_placement_group_table", ("self",)),
    PrivateName("ray.core.generated.gcs_pb2", "ActorTableData.FromString"),
    PrivateName("ray.core.generated.gcs_pb2", "ActorTableData.ActorState"),
    PrivateName("ray.core.generated.gcs_pb2", "PlacementGroupTableData.CREATED"),
    PrivateName("ray.core.generated.gcs_pb2", "PlacementGroupTableData.FromString"),
    PrivateName("ray.core.generated.gcs_pb2", "PlacementGroupTableData.REMOVED"),
)


def placement_group_table() -> list[Any]:
    """Returns all placement groups of the cluster that the control service (GCS) knows, removed ones included."""
    accessor: Any = state._connect_and_get_accessor()
    return [PlacementGroupTableData.FromString(entry) for entry in accessor.get_placement_group_table()]


def actor_table() -> list[Any]:
    """Returns all actors of the cluster that the control service (GCS) knows, dead ones included."""
    accessor: Any = state._connect_and_get_accessor()
    # No filter: actors of every job, in every state.
    return [ActorTableData.FromString(entry) for entry in accessor.get_actor_table(None, None)]


def own_job_id() -> str:
    """Returns the id of the Ray job of this driver or worker, in hex."""
    return str(ray.get_runtime_context().get_job_id())


def raylet_socket() -> str | None:
    """Returns the socket of the raylet that this driver is connected to; None for a client of Ray Client."""
    node: Any = worker._global_node
    return None if node is None else str(node.raylet_socket_name)


def reread_environment() -> None:
    """Makes Ray read its settings and its token again: it reads them once, at import, and both may have changed since."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
