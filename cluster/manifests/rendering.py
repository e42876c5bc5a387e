"""Chooses a manifest by the name of its format."""

from collections.abc import Callable
from typing import Protocol

from pruneyard.cluster.manifests import kuberay, ray_up, skypilot, slurm
from pruneyard.cluster.manifests.nodes import Study
from pruneyard.cluster.profile import Profile

CLUSTERS: dict[str, Callable[[Profile], str]] = {
    "kuberay-cluster": kuberay.cluster,
    "ray-up-cloud": ray_up.cloud,
    "ray-up-on-premise": ray_up.on_premise,
}
"""Clusters that wait for studies."""


class JobRenderer(Protocol):
    """What renders a job's manifest."""

    def __call__(self, profile: Profile, study: Study) -> str: ...


JOBS: dict[str, JobRenderer] = {
    "kuberay-job": kuberay.job,
    "skypilot": skypilot.task,
    "slurm": slurm.script,
}
"""One study that brings its cluster."""

FORMATS = (*CLUSTERS, *JOBS)
