"""Finds the placement groups of this driver's job, and removes those that outlived the actor that reserved them."""

from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group

from pruneyard.cluster.ray_internals import PlacementGroupTableData, own_job_id, placement_group_table


def remove_orphaned_groups() -> list[str]:
    """Removes every placement group of this job whose actor is dead; returns the ids of the groups.

    Ray removes a group only when its job ends, so a killed run of Ray Train would keep its resources until then. Train's own
    cleanup asks the dashboard, which may be off; this function asks the control service (GCS) alone.
    """
    orphaned = [
        group
        for group in _groups_of_this_job()
        if group.creator_actor_dead  # also true of groups that the driver itself reserved, which have no actor
        and not ray.ActorID(group.creator_actor_id).is_nil()
        and group.state != PlacementGroupTableData.REMOVED
    ]
    for group in orphaned:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
    return [group.placement_group_id.hex() for group in orphaned]


def any_trial_placed() -> bool:
    """Returns whether some trial of this job holds the resources that it requested, whether or not its process has started."""
    return any(group.state == PlacementGroupTableData.CREATED for group in _groups_of_this_job())


def any_ranks_placed() -> bool:
    """Returns whether some trial of this job holds CPUs or GPUs for its ranks; the trial's own process holds neither."""
    return any(
        group.state == PlacementGroupTableData.CREATED
        and any(bundle.unit_resources.keys() & {"CPU", "GPU"} for bundle in group.bundles)
        for group in _groups_of_this_job()
    )


def _groups_of_this_job() -> list[Any]:
    job = own_job_id()
    # The table holds the groups of every job of the cluster; those of other studies are not ours to remove.
    return [group for group in placement_group_table() if group.creator_job_id.hex() == job]
