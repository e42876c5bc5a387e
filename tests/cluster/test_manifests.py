"""Every rendered manifest is valid under the strict schema of its system."""

import shlex
import subprocess
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from published_schemas import check_kuberay, check_ray_up, documents, faults, kuberay, ray_up

from pruneyard.cluster.manifests.nodes import Study
from pruneyard.cluster.manifests.rendering import CLUSTERS, JOBS
from pruneyard.cluster.pins import installed, requirements
from pruneyard.cluster.profile import Head, Machines, Profile, ProfileError, Slurm, Storage, Workers
from pruneyard.orchestrator.remote.profiles import load_profile, packaged_profiles
from pruneyard.testing.cases import each_case

SPEC = "name: small\nkind: sparse\ngrid:\n  method.density: [0.1, 0.02]\n"
STUDY = Study(name="small", spec=SPEC)
OF_A_SITE = {
    "cloud.region": "eu-west-1",
    "storage.nfs": "fs-1.efs.eu-west-1.amazonaws.com:/",
    "machines.head": "10.0.0.1",
    "machines.workers": ["10.0.0.2", "10.0.0.3"],
    "machines.ssh_user": "me",
    "head.instance_type": "m6i.large",
    "skypilot.bucket": "s3://results",
}
"""What no packaged profile can know."""
CODE = {"package": "git+https://example.org/pruneyard@0123abc"}
"""Nor where nodes get pruneyard from."""


def site(name: str, **more: Any) -> Profile:
    groups = documents(files("pruneyard.cluster.profiles").joinpath(f"{name}.yaml").read_text())[0].get("workers", {})
    types = {f"workers.{group}.instance_type": "m6i.large" for group in groups}
    return load_profile(name, overrides=OF_A_SITE | types | more)


def profiles() -> list[str]:
    names = packaged_profiles()
    assert {"local", "one-gpu-machine", "many-nodes"} <= set(names)
    return names


@pytest.mark.slow
@each_case("name", profiles())
@each_case("scheme", ["kuberay-cluster", "kuberay-job"])
def test_kuberay_resources_fit_the_strict_schema(name: str, scheme: str) -> None:
    profile = load_profile(name, overrides=CODE)
    text = CLUSTERS[scheme](profile) if scheme in CLUSTERS else JOBS[scheme](profile, STUDY)
    (resource,) = [document for document in documents(text) if document["apiVersion"] == "ray.io/v1"]
    assert resource["metadata"]["name"] == profile.name
    check_kuberay(text)


def test_the_strict_schema_refuses_a_misspelt_key() -> None:
    (resource,) = documents(CLUSTERS["kuberay-cluster"](load_profile("local", overrides={})))[1:]
    container = resource["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    container["volumeMount"] = container.pop("volumeMounts")
    assert any("volumeMount" in fault for fault in faults(kuberay("RayCluster"), resource["spec"]))


def pods(resource: dict[str, Any]) -> Iterator[dict[str, Any]]:
    spec = resource["spec"].get("rayClusterSpec", resource["spec"])
    yield spec["headGroupSpec"]["template"]["spec"]
    yield from (group["template"]["spec"] for group in spec["workerGroupSpecs"])


@each_case("name", profiles())
@each_case("scheme", ["kuberay-cluster", "kuberay-job"])
def test_kubernetes_requires_a_token_and_mounts_results_on_every_node(
    name: str, scheme: str
) -> None:
    profile = load_profile(name, overrides=CODE)
    text = CLUSTERS[scheme](profile) if scheme in CLUSTERS else JOBS[scheme](profile, STUDY)
    found = {document["kind"]: document for document in documents(text)}
    resource = found.get("RayCluster") or found["RayJob"]
    spec = resource["spec"].get("rayClusterSpec", resource["spec"])
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    policy = found["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    labels = policy["podSelector"]["matchLabels"]
    assert policy["ingress"][0] == {"from": [{"podSelector": {"matchLabels": labels}}]}
    assert [rule["ports"][0]["port"] for rule in policy["ingress"][1:]] == [8265]
    templates = [
        spec["headGroupSpec"]["template"],
        *(group["template"] for group in spec["workerGroupSpecs"]),
    ]
    if "submitterPodTemplate" in resource["spec"]:
        templates.append(resource["spec"]["submitterPodTemplate"])
    assert all(labels.items() <= template["metadata"]["labels"].items() for template in templates)
    for pod in pods(resource):
        (container,) = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert (
            volumes[mounts[profile.storage.mount]]["persistentVolumeClaim"]["claimName"]
            == profile.storage.claim
        )
        settings = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert settings["RAY_AUTH_MODE"] == "token"
        assert settings["PRUNEYARD_OUT"].startswith(profile.storage.mount)
        assert not any("TOKEN" in name for name in settings)


def test_a_rayjob_carries_its_spec() -> None:
    found = {
        d["kind"]: d for d in documents(JOBS["kuberay-job"](load_profile("local", overrides=CODE), STUDY))
    }
    assert found["ConfigMap"]["data"]["spec.yaml"] == SPEC
    job = found["RayJob"]["spec"]
    assert job["shutdownAfterJobFinishes"] is True
    head = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in head["containers"][0]["volumeMounts"]}
    maps = {
        volume["configMap"]["name"]: volume["name"] for volume in head["volumes"] if "configMap" in volume
    }
    named = maps[found["ConfigMap"]["metadata"]["name"]]
    assert f'"{mounts[named]}/spec.yaml"' in job["entrypoint"]


def pip_commands(form: str, profile: Profile) -> list[list[str]]:
    """Returns the pip command of each kind of node, the head first."""
    text = CLUSTERS[form](profile) if form in CLUSTERS else JOBS[form](profile, STUDY)
    (found,) = [document for document in documents(text) if document.get("apiVersion") in (None, "ray.io/v1")]
    if "spec" in found:
        commands = [command for pod in pods(found) for command in pod["containers"][0].get("args", [])]
    else:
        commands = found.get("setup_commands") or found["setup"].splitlines()
    arguments = [shlex.split(command) for command in commands if command.startswith("pip install")]
    return [line[: line.index("||")] if "||" in line else line for line in arguments]


INSTALLING = {
    "kuberay-cluster": 2,
    "kuberay-job": 2,
    "ray-up-cloud": 1,
    "ray-up-on-premise": 1,
    "skypilot": 1,
}
"""Formats whose nodes install what they need, and how many kinds of nodes many-nodes has in each."""


@each_case("form", INSTALLING)
def test_nodes_install_the_requirements_of_pruneyard_in_the_versions_of_a_submitted_study(
    form: str,
) -> None:
    profile = site("many-nodes", **CODE)
    found = pip_commands(form, profile)
    assert len(found) == INSTALLING[form]
    for arguments in found:
        assert arguments[:3] == ["pip", "install", "--quiet"]
        assert {CODE["package"], *requirements(installed()), "ray[default,tune]==2.60.0"} <= set(arguments[3:])
    assert pip_commands(form, site("many-nodes", install=False)) == []


@each_case("form", CLUSTERS)
def test_a_cluster_that_waits_needs_no_package_since_submit_brings_the_code(form: str) -> None:
    for arguments in pip_commands(form, site("many-nodes")):
        assert not [argument for argument in arguments if "pruneyard" in argument]
        assert any(argument.startswith("torch==") for argument in arguments)


@pytest.mark.parametrize("form", ["kuberay-job", "skypilot"])
def test_a_job_that_could_not_get_pruneyard_is_refused(form: str) -> None:
    with pytest.raises(
        ProfileError, match=rf"package is missing; {form} needs it: a wheel .* install to false"
    ):
        JOBS[form](site("many-nodes"), STUDY)


@pytest.mark.parametrize("code", [0, 1])
def test_ray_starts_in_a_pod_only_after_the_installation_has_worked(code: int, tmp_path: Path) -> None:
    """The test runs the shell line that KubeRay makes of a container's arguments and its own command."""
    (resource,) = documents(CLUSTERS["kuberay-cluster"](load_profile("local", overrides={})))[1:]
    (pod,) = pods(resource)
    pip = tmp_path / "pip"
    pip.write_text(f"#!/bin/sh\nexit {code}\n")
    pip.chmod(0o700)
    line = f" {' '.join(pod['containers'][0]['args'])} && ulimit -n 256; echo started"
    done = subprocess.run(
        ["/bin/bash", "-c", "--", line],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, "" if code else "started\n")


def test_a_queue_is_asked_by_its_label() -> None:
    text = CLUSTERS["kuberay-cluster"](load_profile("local", overrides={"kubernetes.queue": "research"}))
    assert documents(text)[1]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"


def test_the_autoscaler_is_there_only_where_a_group_can_grow() -> None:
    many = documents(CLUSTERS["kuberay-cluster"](load_profile("many-nodes", overrides={})))[1]["spec"]
    assert many["enableInTreeAutoscaling"] is True
    assert many["workerGroupSpecs"][0]["maxReplicas"] == 16
    fixed = documents(CLUSTERS["kuberay-cluster"](load_profile("one-gpu-machine", overrides={})))[1]["spec"]
    assert "enableInTreeAutoscaling" not in fixed


@each_case("name", profiles())
@each_case("scheme", ["ray-up-cloud", "ray-up-on-premise"])
def test_ray_up_takes_the_file(name: str, scheme: str) -> None:
    text = CLUSTERS[scheme](site(name))
    check_ray_up(text)
    (config,) = documents(text)
    (start,) = config["head_start_ray_commands"]
    assert "--dashboard-host=127.0.0.1" in start
    for (command,) in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "export RAY_AUTH_MODE=token" in command
        assert ("ray stop" in command) == (scheme == "ray-up-cloud"), "machines of others keep their Ray"
    assert list(config["file_mounts"]) == ["~/.ray/auth_token"]


def test_ray_up_refuses_a_misspelt_key() -> None:
    (config,) = documents(CLUSTERS["ray-up-cloud"](site("local")))
    config["idle_timeout_minute"] = config.pop("idle_timeout_minutes")
    assert faults(ray_up(), config)


def test_ray_up_asks_the_cloud_for_what_the_profile_says() -> None:
    (config,) = documents(CLUSTERS["ray-up-cloud"](site("cpu-spot")))
    cpu = config["available_node_types"]["cpu"]
    assert (cpu["min_workers"], cpu["max_workers"], cpu["resources"]) == (0, 20, {"CPU": 16})
    assert cpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    head = config["available_node_types"]["head"]
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]


GROUP = Workers(count=3, cpus=8, memory_gib=32, gpus=2, accelerator="a100")


@pytest.mark.parametrize("form", ["slurm", "skypilot"])
def test_systems_of_equal_nodes_refuse_two_groups(form: str) -> None:
    profile = Profile(name="two", workers={"a": GROUP, "b": GROUP})
    with pytest.raises(ProfileError, match=r"workers names the groups a, b; .* give exactly one"):
        JOBS[form](profile, STUDY)


@each_case(
    ("make", "message"),
    [
        (lambda: Profile(name="Big"), "name is Big; it must consist of small letters"),
        (lambda: Profile(name="x", ray="2.60"), "ray is 2.60; it must be a version"),
        (lambda: Profile(name="x", ray="2.40.0", image="own"), "ray is 2.40.0; it must be 2.55 or newer"),
        (
            lambda: Profile(name="x", ray="2.59.0"),
            "image asks for .*2.60.0.* but ray is 2.59.0; the two must agree",
        ),
        (lambda: Head(memory_gib=4, shared_memory_gib=4), "shared_memory_gib is 4; it is part of memory_gib"),
        (lambda: Workers(count=3, max_count=2, cpus=1, memory_gib=8), "max_count is 2; it must be count"),
        (lambda: Workers(count=0, cpus=1, memory_gib=8), "max_count is 0 and so is count"),
        (
            lambda: Workers(count=1, cpus=1, memory_gib=8, accelerator="T4"),
            "accelerator is T4, but gpus is 0",
        ),
        (
            lambda: Profile(name="x", package="pruneyard"),
            "package is pruneyard; it must be a URL that pip takes",
        ),
        (
            lambda: Profile(name="x", package="dist/p.whl"),
            "package is dist/p.whl; .* absolute path of a wheel",
        ),
        (
            lambda: Profile(name="x", package="/shared/p.whl", install=False),
            "package is /shared/p.whl, but install is false; leave one of them out",
        ),
        (lambda: Storage(mount="shared"), "mount is shared; it must be an absolute path"),
        (lambda: Machines(head="a", workers=("b", "a")), "workers names a machine twice, or the head"),
        (lambda: Machines(head="a; rm"), "head is a; rm; it must be an address"),
        (lambda: Slurm(time="tomorrow"), "time is tomorrow; it must have the form"),
    ],
)
def test_what_a_profile_cannot_mean_is_said(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
