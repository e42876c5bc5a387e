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
"""The renderers of clusters that wait for studies."""


class JobRenderer(Protocol):
    """A function that renders the manifest of a job."""

    def __call__(self, profile: Profile, study: Study) -> str: ...


JOBS: dict[str, JobRenderer] = {
    "kuberay-job": kuberay.job,
    "skypilot": skypilot.task,
    "slurm": slurm.script,
}
"""The renderers of jobs that run one study on a cluster of their own."""

FORMATS = (*CLUSTERS, *JOBS)
