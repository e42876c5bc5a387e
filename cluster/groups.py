"""Placement groups of this driver's job that outlived what reserved them."""

from typing import Any

import ray
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]
from ray.util.placement_group import PlacementGroup, remove_placement_group


def remove_orphaned_groups() -> list[str]:
    """Removes every group of this job whose actor is dead, and returns their ids.

    Ray removes a group when its job ends; a run of Ray Train that was killed keeps its places until then, since Train's own
    remedy asks a dashboard, which may be off. This asks the control service alone.
    """
    found = [
        group
        for group in _groups()
        if group.creator_actor_dead  # also of what the driver itself reserved, which has no actor
        and not ray.ActorID(group.creator_actor_id).is_nil()
        and group.state != PlacementGroupTableData.REMOVED
    ]
    for group in found:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
    return [group.placement_group_id.hex() for group in found]


def any_ranks_placed() -> bool:
    """Whether some trial of this job holds cores or GPUs for its ranks; the trial's own process holds neither."""
    return any(
        group.state == PlacementGroupTableData.CREATED
        and any(bundle.unit_resources.keys() & {"CPU", "GPU"} for bundle in group.bundles)
        for group in _groups()
    )


def _groups() -> list[Any]:
    """Of this job."""
    job = ray.get_runtime_context().get_job_id()
    accessor: Any = state._connect_and_get_accessor()
    groups = [PlacementGroupTableData.FromString(entry) for entry in accessor.get_placement_group_table()]
    return [group for group in groups if group.creator_job_id.hex() == job]
