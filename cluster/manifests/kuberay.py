"""KubeRay manifests: a `RayCluster` to submit to, or a `RayJob` that starts its own cluster and deletes it afterwards.

Reference: the custom resource definitions of KubeRay 1.7.0.
"""

from collections.abc import Mapping
from typing import Any

from pruneyard.cluster.manifests.nodes import (
    DASHBOARD_PORT,
    GCS_PORT,
    STOP_WAIT_S,
    Study,
    environment,
    need_package,
    pip_install,
    run_command,
)
from pruneyard.cluster.manifests.written import Block, yaml_documents
from pruneyard.cluster.profile import Head, Profile, Workers

SPEC_FOLDER = "/etc/pruneyard"
INSTANCE = "app.kubernetes.io/instance"
OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
KEPT_S = 3600  # a finished RayJob's cluster, for its logs


def cluster(profile: Profile) -> str:
    """Returns a `RayCluster` and its network policy."""
    profile.need("storage.claim", format_name="kuberay-cluster")
    head = [
        "Apply, wait for the head, and reach it through a tunnel; the token is made by the operator:",
        f"  kubectl -n {profile.kubernetes.namespace} apply -f FILE",
        f"  kubectl -n {profile.kubernetes.namespace} port-forward svc/{profile.name}-head-svc {DASHBOARD_PORT} &",
        f"  export RAY_AUTH_TOKEN=$(kubectl -n {profile.kubernetes.namespace} get secret {profile.name} "
        "-o jsonpath='{.data.auth_token}' | base64 -d)",
        f"  pruneyard submit SPEC --address http://127.0.0.1:{DASHBOARD_PORT} --follow",
        *_slow_start(profile),
    ]
    resource = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": _metadata(profile, queue=True),
        "spec": _cluster_spec(profile),
    }
    return yaml_documents([_network_policy(profile), resource], head=head)


def job(profile: Profile, study: Study) -> str:
    """Returns a `RayJob`, its spec in a config map, and its network policy."""
    profile.need("storage.claim", format_name="kuberay-job")
    need_package(profile, format_name="kuberay-job")
    namespace = profile.kubernetes.namespace
    head = [
        f"kubectl -n {namespace} apply -f FILE",
        f"kubectl -n {namespace} logs -f job/{profile.name}",
        f"kubectl -n {namespace} delete -f FILE     # stops the study; apply again to resume",
        *_slow_start(profile),
    ]
    spec_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**_metadata(profile), "name": f"{profile.name}-spec"},
        "data": {"spec.yaml": Block(study.spec)},
    }
    resource = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": _metadata(profile, queue=True),
        "spec": {
            "entrypoint": run_command(study, f"{SPEC_FOLDER}/spec.yaml", address="$RAY_ADDRESS"),
            "submissionMode": "K8sJobMode",
            "submitterPodTemplate": _submitter(profile),
            "submitterConfig": {"backoffLimit": 0},
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": KEPT_S,
            "backoffLimit": 1,  # a new cluster resumes where the lost one ended
            "rayClusterSpec": _cluster_spec(profile, spec_map=f"{profile.name}-spec"),
        },
    }
    return yaml_documents([_network_policy(profile), spec_map, resource], head=head)


def _slow_start(profile: Profile) -> list[str]:
    told = "Each pod installs what pruneyard asks for before Ray starts, which takes minutes; an image of your own"
    return (
        [told, "that has it starts at once: --set image=IMAGE --set install=false"] if profile.install else []
    )


def _metadata(profile: Profile, *, queue: bool = False) -> dict[str, Any]:
    """Returns the metadata, with a label for the batch scheduler if the profile names a queue."""
    named = profile.kubernetes.queue if queue else ""
    labels = _labels(profile) | ({"kueue.x-k8s.io/queue-name": named} if named else {})
    return {"name": profile.name, "namespace": profile.kubernetes.namespace, "labels": labels}


def _labels(profile: Profile) -> dict[str, str]:
    return {"app.kubernetes.io/part-of": "pruneyard", INSTANCE: profile.name}


def _cluster_spec(profile: Profile, *, spec_map: str = "") -> dict[str, Any]:
    scaling = {
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "idleTimeoutSeconds": 300,
            "resources": _resources(cpus=1, memory_gib=1),
        },
    }
    return {
        "rayVersion": profile.ray,
        "authOptions": {"mode": "token"},
        **(scaling if profile.scales else {}),
        "headGroupSpec": {
            "serviceType": "ClusterIP",  # never a load balancer: whoever reaches the dashboard may run code
            # 0 keeps trials off a head that has workers.
            "rayStartParams": {"num-cpus": str(profile.head_cpus)},
            "template": _pod(profile, profile.head, "ray-head", image=profile.image, spec_map=spec_map),
        },
        "workerGroupSpecs": [_worker_group(profile, name, group) for name, group in profile.workers.items()],
    }


def _worker_group(profile: Profile, name: str, group: Workers) -> dict[str, Any]:
    pod = _pod(profile, group, "ray-worker", image=group.image or profile.image)
    return {
        "groupName": name,
        "replicas": group.count,
        "minReplicas": group.count,
        "maxReplicas": group.most,
        "rayStartParams": {},
        "labels": {"ray.io/market-type": "spot" if group.spot else "on-demand"},
        "template": pod,
    }


def _pod(
    profile: Profile, node: Head | Workers, name: str, *, image: str, spec_map: str = ""
) -> dict[str, Any]:
    """Returns a pod whose requests equal its limits, so that it is evicted last; shared memory counts as memory."""
    volumes = [
        {
            "name": "shared-memory",
            "emptyDir": {"medium": "Memory", "sizeLimit": f"{node.shared_memory_gib}Gi"},
        },
        {"name": "results", "persistentVolumeClaim": {"claimName": profile.storage.claim}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "shared-memory", "mountPath": "/dev/shm"},
        {"name": "results", "mountPath": profile.storage.mount},
    ]
    if spec_map:
        volumes.append({"name": "spec", "configMap": {"name": spec_map}})
        mounts.append({"name": "spec", "mountPath": SPEC_FOLDER, "readOnly": True})
    # The operator appends ` && ulimit ...; ray start ...`, which would start Ray although the first command failed.
    install = [f"{command} || exit" for command in pip_install(profile)]
    container: dict[str, Any] = {
        "name": name,
        "image": image,
        **({"args": install} if install else {}),
        "env": [{"name": key, "value": value} for key, value in environment(profile).items()],
        "resources": _resources(cpus=node.cpus, memory_gib=node.memory_gib, gpus=node.gpus),
        "volumeMounts": mounts,
        "securityContext": {"allowPrivilegeEscalation": False},
    }
    if name == "ray-head":
        ports = {"gcs-server": GCS_PORT, "dashboard": DASHBOARD_PORT}
        container["ports"] = [{"name": key, "containerPort": port} for key, port in ports.items()]
    spec: dict[str, Any] = {
        "automountServiceAccountToken": name == "ray-head"
        and profile.scales,  # only the autoscaler asks Kubernetes
        "terminationGracePeriodSeconds": STOP_WAIT_S,
        "containers": [container],
        "volumes": volumes,
    }
    if isinstance(node, Workers):
        spec |= _placement(node)
    return {"metadata": {"labels": _labels(profile)}, "spec": spec}


def _placement(group: Workers) -> dict[str, Any]:
    """Returns the tolerations of a group, for the taints that the large clouds put on their nodes."""
    tolerations = []
    if group.gpus:
        tolerations.append({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"})
    if group.spot:
        tolerations.append({"key": "cloud.google.com/gke-spot", "operator": "Exists", "effect": "NoSchedule"})
    return {"tolerations": tolerations} if tolerations else {}


def _resources(*, cpus: int, memory_gib: int, gpus: int = 0) -> dict[str, Any]:
    amounts = {"cpu": str(cpus), "memory": f"{memory_gib}Gi"} | (
        {"nvidia.com/gpu": str(gpus)} if gpus else {}
    )
    return {"requests": amounts, "limits": dict(amounts)}


def _submitter(profile: Profile) -> dict[str, Any]:
    """Returns the pod that submits the job, with the cluster's labels, since the network policy admits no others."""
    container = {
        "name": "submitter",
        "image": profile.image,
        "env": [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}],
        "resources": _resources(cpus=1, memory_gib=1),
        "securityContext": {"allowPrivilegeEscalation": False},
    }
    spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]}
    return {"metadata": {"labels": _labels(profile)}, "spec": spec}


def _network_policy(profile: Profile) -> Mapping[str, Any]:
    """Returns a policy that lets only the cluster's pods reach each other, and the operator reach the dashboard."""
    own = {"matchLabels": {INSTANCE: profile.name}}
    # The empty selector admits the operator from whatever namespace it was installed in.
    operator = {"namespaceSelector": {}, "podSelector": {"matchLabels": OPERATOR}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(profile),
        "spec": {
            "podSelector": own,
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": own}]},
                {"from": [operator], "ports": [{"protocol": "TCP", "port": DASHBOARD_PORT}]},
            ],
        },
    }
