"""`pruneyard manifest`, and its messages about invalid profiles."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pruneyard.cluster.manifests.rendering import FORMATS
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.testing.cases import each_case

Pruneyard = Callable[..., Any]

PROFILE = """\
name: lab
head: {cpus: 2, memory_gib: 8}
workers:
  gpu:
    count: 2
    cpus: 8
    memory_gib: 32
    gpus: 1
    accelerator: A100
    instance_type: g5.xlarge
storage: {claim: results, nfs: "server:/export", mount: /shared/x}
cloud: {region: eu-west-1}
package: /shared/x/pruneyard-0.1.0-py3-none-any.whl
machines: {head: 10.0.0.1, workers: [10.0.0.2], ssh_user: me}
"""


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "lab.yaml"
    path.write_text(PROFILE)
    return path


@each_case("form", FORMATS)
def test_one_profile_gives_every_format(pruneyard: Pruneyard, profile: Path, form: str) -> None:
    spec = ["--spec", "quickstart"] if form in ("kuberay-job", "skypilot", "slurm") else []
    result = pruneyard("manifest", profile, "--format", form, *spec, "--set", "head.instance_type=m6i.large")
    assert result.code == 0, result.err
    assert "token" in result.out.lower()
    if spec:
        assert "name: quickstart" in result.out


def test_the_spec_inside_gives_the_same_jobs(pruneyard: Pruneyard, profile: Path, tmp_path: Path) -> None:
    out = tmp_path / "job.yaml"
    result = pruneyard("manifest", profile, "--format", "kuberay-job", "--spec", "quickstart", "--out", out)
    assert result.out.split() == [str(out)]
    _, spec_map, _ = YAML(typ="safe", pure=True).load_all(out.read_text())
    carried = tmp_path / "spec.yaml"
    carried.write_text(spec_map["data"]["spec.yaml"])
    assert [job.key for job in load_spec(carried).jobs] == [job.key for job in load_spec("quickstart").jobs]


def test_set_changes_any_key(pruneyard: Pruneyard, profile: Path) -> None:
    arguments = ("--set", "workers.gpu.count=5", "--set", "kubernetes={namespace: team}")
    result = pruneyard("manifest", profile, "--format", "kuberay-cluster", *arguments)
    _, cluster = YAML(typ="safe", pure=True).load_all(result.out)
    assert cluster["spec"]["workerGroupSpecs"][0]["replicas"] == 5
    assert cluster["metadata"]["namespace"] == "team"


@each_case(
    ("old", "new", "message"),
    [
        ("cpus: 2,", "cpu: 2,", ":2: head.cpu: is unknown; known are cpus, gpus"),
        ("count: 2", "count: many", ':5: workers.gpu.count: is "many"; it must be a whole number'),
        ("count: 2", "count: -2", ":5: workers.gpu.count: is -2; it must be 0 or more"),
        ("    cpus: 8\n", "", ":4: workers.gpu.cpus: is missing; it must be a whole number"),
        ("name: lab", "name: Lab", ":1: name: is Lab; it must consist of small letters"),
        ("  gpu:", "  gpu_nodes:", ":3: workers: names a group gpu_nodes; it must consist of small letters"),
        ("claim: results, ", "", ":11: storage.claim: is missing; kuberay-cluster needs it"),
        ("cloud: {", "clod: {", ":12: clod: is unknown"),
        ("  gpu:", "- gpu:", ":3: workers: is ["),
    ],
)
def test_an_invalid_profile_is_reported_with_file_line_key_and_allowed_values(
    pruneyard: Pruneyard, profile: Path, old: str, new: str, message: str
) -> None:
    assert old in PROFILE
    profile.write_text(PROFILE.replace(old, new))
    result = pruneyard("manifest", profile, "--format", "kuberay-cluster")
    assert (result.code, result.out) == (2, "")
    assert f"{profile}{message}" in result.err


@each_case(
    ("arguments", "message"),
    [
        (("lab.yaml", "--format", "slurm"), "--spec: is missing; slurm runs one study"),
        (
            ("lab.yaml", "--format", "kuberay-cluster", "--spec", "quickstart"),
            "submit the spec with pruneyard submit",
        ),
        (
            ("lab.yaml", "--format", "kuberay-cluster", "--set", "workers.gpu.count=x"),
            "(from an override)",
        ),
        (("many-node", "--format", "kuberay-cluster"), "did you mean many-nodes?"),
        (
            ("many-nodes", "--format", "kuberay-job", "--spec", "quickstart"),
            "package: is missing; kuberay-job needs it: a wheel or repository that nodes reach",
        ),
        (
            ("many-nodes", "--format", "kuberay-cluster", "--set", "package=pruneyard"),
            "package: is pruneyard; it must be a URL that pip takes",
        ),
        (("local", "--format", "slurm", "--spec", "quickstart"), "workers: names the groups none"),
        (("lab.yaml", "--format", "helm"), "'helm' is not one of"),
    ],
)
def test_what_cannot_be_rendered_is_said(
    pruneyard: Pruneyard, profile: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = pruneyard("manifest", *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
