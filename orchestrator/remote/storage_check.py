"""Checks whether an object store can hold results, from this machine and from every node of the joined cluster."""

import time
from collections.abc import Iterator
from uuid import uuid4

import ray

from pruneyard.cluster.findings import ANSWER_TIMEOUT_S, Finding
from pruneyard.reports.objects import ObjectPath
from pruneyard.reports.storage import StorageError

PROBE = ".pruneyard-doctor-"
CONDITIONS = "it overwrites existing objects (If-None-Match is ignored), so two drivers in one folder cannot exclude each other"


def check_store(place: ObjectPath) -> str:
    """Writes, reads and deletes a probe; returns a description. Raises `StorageError` if the store cannot hold results."""
    probe = place / f"{PROBE}{uuid4().hex}"
    started = time.perf_counter()
    probe.write_bytes(b"probe")
    try:
        if probe.read_bytes() != b"probe":
            raise StorageError(f"{place}: what was written is not what is read; use another store")
        took_ms = (time.perf_counter() - started) * 1e3
        # The object exists by now, so a store that heeds conditions refuses this put.
        if probe.put_if(b"again", tag=None) is not None:
            raise StorageError(f"{place}: {CONDITIONS}; use another store, or start one driver only")
    finally:
        probe.unlink()
    return f"{place} is writable and heeds conditions, a write and a read take {took_ms:.0f} ms"


def _store_error(place: ObjectPath) -> str:
    """Checks the store from a node; returns the error, or an empty string."""
    try:
        check_store(place)
    except (StorageError, FileNotFoundError, ImportError) as error:
        return str(error)
    return ""


def check_store_on_nodes(place: ObjectPath) -> Iterator[Finding]:
    """Checks the store from every node, each with a probe of its own, and yields the findings."""
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    # Without CPUs, so that the check does not wait for trials that hold all of them.
    task = ray.remote(num_cpus=0, max_retries=0)(_store_error)
    asked = {node: task.options(label_selector={"ray.io/node-id": node}).remote(place) for node in nodes}
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_TIMEOUT_S)
    wrong = {
        node: ray.get(answer) if answer in ready else f"no answer within {ANSWER_TIMEOUT_S:.0f} s"
        for node, answer in asked.items()
    }
    for node, reason in wrong.items():
        if reason:
            advice = (
                "the environment of every node must hold AWS_ENDPOINT_URL and credentials, as this one's does"
            )
            yield Finding(
                name="storage", good=False, text=f"node {node[:8]} ({nodes[node]}): {reason}; {advice}"
            )
    if not any(wrong.values()):
        yield Finding(
            name="storage",
            good=True,
            text=f"{place} is written and read from {len(nodes)} nodes and from here",
        )
