"""`pruneyard doctor --address` on a real cluster of two nodes: it reports what is alike, and names nodes that differ."""

import contextlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from driving import driving
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.gcs_pb2 import GcsNodeInfo
from ray_head import free_ports, kill_node, write_agent_port

from pruneyard.cluster.bundle import source_files

pytestmark = [pytest.mark.ray, pytest.mark.nodes]

OTHER_NUMPY = "0.1.0"


@pytest.fixture(scope="module")
def differing_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder for the path of one node, with the metadata of an older numpy and with changed code of ours."""
    site = tmp_path_factory.mktemp("differing")
    info = site / f"numpy-{OTHER_NUMPY}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: numpy\nVersion: {OTHER_NUMPY}\n")
    for name, source in source_files().items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, site / name)
    with (site / "pruneyard" / "cluster" / "profile.py").open("a") as file:
        file.write("# changed\n")
    return site


@pytest.fixture(scope="module")
def own_env(env: dict[str, str]) -> dict[str, str]:
    """Returns an environment without tokens, because `Cluster` starts its nodes without one."""
    return {**env, "RAY_AUTH_MODE": "disabled"}


@pytest.fixture(scope="module")
def two_nodes(own_env: dict[str, str]) -> Iterator[Cluster]:
    """Yields a cluster of two equal nodes."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(own_env)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes.add_node(num_cpus=2)
        nodes.wait_for_nodes(timeout=300)
        yield nodes
    finally:
        nodes.shutdown()
        os.environ.clear()
        os.environ.update(before)


def doctor(
    nodes: Cluster, *arguments: str | Path, env: dict[str, str], folder: Path, code: int
) -> dict[str, list[str]]:
    """Runs `pruneyard doctor`; returns its lines by the checked item, each with its state."""
    with driving("doctor", "--address", nodes.address, *arguments, folder=folder, env=env) as driver:
        assert driver.wait(within_s=600) == code, driver.output()
        assert "Traceback" not in driver.stderr, driver.stderr
        lines: dict[str, list[str]] = {}
        for line in driver.stdout.splitlines():
            state, name, text = line[:5].strip(), *line[6:].split(": ", maxsplit=1)
            lines.setdefault(name, []).append(f"{state} {text}")
        return lines


def test_two_equal_nodes_are_well(two_nodes: Cluster, own_env: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "shared"
    found = doctor(two_nodes, "--out", out, env=own_env, folder=tmp_path, code=0)
    assert all(line.startswith("ok") for lines in found.values() for line in lines)
    assert "2 nodes, 3 CPUs, 0 GPUs" in found["ray"][0]
    assert found["versions"] == ["ok equal on 2 nodes"]
    assert found["code"][0].endswith("on 2 nodes")
    assert found["devices"] == ["ok 3 CPUs, no GPUs"]
    assert found["ports"] == ["ok 4 reached from 2 nodes"]
    assert "seen alike from 2 nodes and from here" in found["storage"][0]
    assert re.fullmatch(r"ok within \d+ ms of this one", found["clock"][0])
    assert not list(out.iterdir()), "the file that the doctor wrote is still there"


def wait_for_nodes(nodes: Cluster, count: int, *, log: Path, within_s: float = 300) -> None:
    """Waits until `count` nodes are alive, including nodes that `Cluster` did not start, which its own method does not expect."""
    client, deadline = GcsClient(address=nodes.address), time.monotonic() + within_s
    while sum(node.state == GcsNodeInfo.ALIVE for node in client.get_all_node_info().values()) != count:
        assert time.monotonic() < deadline, f"{count} nodes are expected: {log.read_text()}"
        time.sleep(0.5)


@contextlib.contextmanager
def node_with_a_mount(nodes: Cluster, out: Path, env: dict[str, str], log: Path) -> Iterator[None]:
    """Runs a third node, for which `out` is another folder than for all others; skips where this user may not mount."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a mount of its own for one node needs root")
    ray = Path(sys.executable).parent / "ray"
    node_id, (port,) = secrets.token_hex(28), free_ports(1)
    write_agent_port(Path(nodes.head_node.get_session_dir_path()), node_id, port)
    command = (
        f"mount -t tmpfs none {out} && exec {ray} start --address={nodes.address} --block --num-cpus=1 "
        f"--dashboard-agent-listen-port={port}"
    )
    with log.open("w") as file:
        popen = subprocess.Popen(
            ["unshare", "--mount", "bash", "-c", command],
            env={**env, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_id},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        wait_for_nodes(nodes, 3, log=log)
        yield
    finally:
        kill_node(popen)


def test_nodes_that_differ_are_named_with_what_to_do(
    two_nodes: Cluster, own_env: dict[str, str], differing_site: Path, tmp_path: Path
) -> None:
    """One has another folder under the name of the results'; another one other versions, other code, and GPUs that are none."""
    path = os.pathsep.join([str(differing_site), own_env["PYTHONPATH"]])
    (out := tmp_path / "out").mkdir()
    log = tmp_path / "node.log"
    with node_with_a_mount(two_nodes, out, own_env, log):
        differing_node = two_nodes.add_node(num_cpus=1, num_gpus=2, env_vars={"PYTHONPATH": path})
        try:
            wait_for_nodes(two_nodes, 4, log=log)
            found = doctor(two_nodes, "--out", out, env=own_env, folder=tmp_path, code=1)
        finally:
            two_nodes.remove_node(differing_node)
    name = rf"node {differing_node.node_id[:8]} \([\d.]+\)"
    (versions,) = found["versions"]
    assert re.match(rf"WRONG {name} has numpy {OTHER_NUMPY} \(here ", versions)
    assert versions.endswith("install the same versions everywhere")
    assert re.match(rf"WRONG {name} has other code than this process; install the same", found["code"][0])
    assert re.match(
        rf"WRONG {name} has 0 GPUs and Ray offers 2; start it with --num-gpus=0", found["devices"][0]
    )
    assert any(re.match(r"WRONG node \w+ \([\d.]+\) cannot write to", line) for line in found["storage"]), found
    assert all("mount the same folder under the same path" in line for line in found["storage"])
