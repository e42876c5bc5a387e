"""Describes the resources of a cluster and who holds them: nodes, placement groups and actors, as the GCS knows them."""

from collections.abc import Mapping
from typing import Any

import ray

from pruneyard.cluster.ray_internals import (
    ActorTableData,
    PlacementGroupTableData,
    actor_table,
    available_resources_per_node,
    own_job_id,
    placement_group_table,
)

COUNTED = ("CPU", "GPU", "memory")  # the resources that trials request; Ray also lists one resource per node address
GIB = 2**30
MOST_LINES = 12  # of each of the three
_GONE = (ActorTableData.ActorState.DEAD, PlacementGroupTableData.REMOVED)


def describe_usage() -> list[str]:
    """Returns one line per node, with the cause for dead ones, and per placement group and actor that holds or waits for some.

    Plain tasks are not listed: they hold what is neither free nor held by groups and actors.
    """
    own = own_job_id()
    return [
        *_cut([_node(node) for node in ray.nodes()], "nodes"),
        *_cut([_group(group, own) for group in placement_group_table() if group.state not in _GONE], "placement groups"),
        *_cut(
            [
                _actor(actor, own)
                for actor in actor_table()
                # The resources of an actor inside a placement group are already listed with the group.
                if actor.state not in _GONE and not actor.placement_group_id and _amounts(actor.required_resources)
            ],
            "actors",
        ),
    ]


def format_amounts(resources: Mapping[str, float]) -> str:
    """Returns resources as text such as `2 CPUs and 1 GPUs`; memory is given in bytes and shown in GiB."""
    units = {"CPU": "CPUs", "GPU": "GPUs", "memory": "GiB"}
    listed = [f"{_number(kind, amount)} {units[kind]}" for kind, amount in _amounts(resources).items()]
    return " and ".join(listed) or "no CPUs or GPUs"


def _cut(lines: list[str], what: str) -> list[str]:
    return [*lines[:MOST_LINES], *([f"and {len(lines) - MOST_LINES} more {what}"] if len(lines) > MOST_LINES else [])]


def short_id(node_id: str) -> str:
    """Returns the first eight characters of a node id."""
    return node_id[:8]


def _node(node: Mapping[str, Any]) -> str:
    name = f"node {short_id(node['NodeID'])} ({node['NodeManagerAddress']})"
    if not node["Alive"]:
        return f"{name} is dead: {node['DeathReasonMessage'] or 'no cause was left'}"
    # A second table, read later than the list of nodes: a node may be missing from it.
    free = available_resources_per_node().get(node["NodeID"], {})
    has = {kind: amount for kind in COUNTED if (amount := node["Resources"].get(kind, 0.0))}
    # A head that runs no trials is started with no CPUs, and still offers memory.
    if not has.keys() & {"CPU", "GPU"}:
        return f"{name} has neither CPUs nor GPUs for trials"
    listed = ", ".join(
        f"{_number(kind, free.get(kind, 0.0))} of {format_amounts({kind: amount})}" for kind, amount in has.items()
    )
    return f"{name} has {listed} free"


def _group(group: Any, own: str) -> str:
    bundles = [
        f"{format_amounts(bundle.unit_resources)}{f' on {short_id(bundle.node_id.hex())}' if bundle.node_id else ''}"
        for bundle in group.bundles
    ]
    does = "holds" if group.state == PlacementGroupTableData.CREATED else "waits for"
    name = f"placement group {short_id(group.placement_group_id.hex())} of {_whose(group.creator_job_id, own)}"
    return f"{name} {does} {', '.join(bundles)}"


def _actor(actor: Any, own: str) -> str:
    does = "holds" if actor.state == ActorTableData.ActorState.ALIVE else "waits for"
    where = f" on {short_id(actor.node_id.hex())}" if actor.node_id else ""
    name = f"actor {actor.name or actor.class_name} of {_whose(actor.job_id, own)}"
    return f"{name} {does} {format_amounts(actor.required_resources)}{where}"


def _whose(job: bytes, own: str) -> str:
    return "this study" if job.hex() == own else f"job {job.hex()}"


def _amounts(resources: Mapping[str, float]) -> dict[str, float]:
    return {kind: resources[kind] for kind in COUNTED if resources.get(kind)}


def _number(kind: str, amount: float) -> str:
    return f"{amount / GIB:.1f}" if kind == "memory" else f"{amount:g}"
