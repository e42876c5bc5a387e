"""Checks every node of a cluster from inside: facts, clock, ports and storage. `findings.py` words the results."""

import hashlib
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray

from pruneyard.cluster.bundle import source_files
from pruneyard.cluster.findings import (
    ANSWER_TIMEOUT_S,
    ClockGap,
    Facts,
    Finding,
    NodeNames,
    UnreachablePort,
    check_capacity,
    check_clocks,
    check_devices,
    check_ports,
    check_storage,
    compare_versions,
    unresponsive,
)
from pruneyard.cluster.pins import PACKAGE

VERSIONS = (PACKAGE, "ray", "torch", "torchvision", "numpy", "pyarrow", "scipy", "safetensors", "pydantic")
VISIBLE_TIMEOUT_S = 10.0  # NFS shows a new file on other nodes after some seconds
CONNECT_TIMEOUT_S = 3.0
MAX_PARALLEL_CONNECTIONS = 64  # ports that one node tries


def local_facts() -> Facts:
    """Returns the facts of the node that this process runs on."""
    shared, scratch = Path("/dev/shm"), Path(os.environ.get("RAY_TMPDIR", "/tmp"))
    return Facts(
        host=socket.gethostname(),
        versions={"python": platform.python_version(), **{name: _version(name) for name in VERSIONS}},
        code=code_hash(),
        gpus=_gpus(),
        shared_bytes=shutil.disk_usage(shared).free if shared.is_dir() else -1,
        scratch=str(scratch),
        scratch_bytes=shutil.disk_usage(scratch).free,
    )


def code_hash() -> str:
    """Returns a hash over path and content of every Python file of the package."""
    digest = hashlib.sha256()
    for name, path in sorted(source_files().items()):
        if path.suffix == ".py":
            # The zero byte ends the path, so that no other split of path and content has the same hash.
            digest.update(f"{name}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _gpus() -> tuple[str, ...]:
    """Returns the GPU models that the NVIDIA driver reports, including those that Ray hides from a task."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    asked = [program, "--query-gpu=name", "--format=csv,noheader"]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    return tuple(said.stdout.strip().splitlines()) if said.returncode == 0 else ()


# No CPU is requested, so that a node whose CPUs are all in use answers too.
@ray.remote(num_cpus=0)
class NodeProbe:
    """An actor that checks one node from inside."""

    def facts(self) -> Facts:
        """Returns the facts of the node."""
        return local_facts()

    def now(self) -> float:
        """Returns the node's clock in seconds since the epoch."""
        return time.time()

    def write(self, folder: str, name: str) -> str:
        """Writes a file as records are written: flushed under another name, then moved. Returns the error, or an empty string."""
        try:
            with open(f"{folder}/.{name}", "w") as file:
                file.write(name)
                file.flush()
                os.fsync(file.fileno())
            os.replace(f"{folder}/.{name}", f"{folder}/{name}")
        except OSError as error:
            return str(error)
        return ""

    def missing(self, folder: str, names: Sequence[str]) -> list[str]:
        """Returns the files that do not appear on this node, with their content, within `VISIBLE_TIMEOUT_S`."""
        deadline = time.monotonic() + VISIBLE_TIMEOUT_S
        while True:
            unseen = [name for name in names if not _holds(Path(folder) / name, name)]
            if not unseen or time.monotonic() > deadline:
                return unseen
            time.sleep(0.2)

    def unreachable(self, ports: Sequence[tuple[str, int]]) -> list[tuple[str, int, str]]:
        """Returns host, port and reason of the ports that cannot be reached from this node; tries them in parallel."""
        with ThreadPoolExecutor(MAX_PARALLEL_CONNECTIONS) as threads:
            reasons = threads.map(connection_error, ports)
            return [
                (host, port, reason) for (host, port), reason in zip(ports, reasons, strict=True) if reason
            ]


def connection_error(port: tuple[str, int]) -> str:
    """Returns why a port cannot be reached from here, or an empty string."""
    try:
        socket.create_connection(port, timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        return str(error) or type(error).__name__
    return ""


def _holds(path: Path, content: str) -> bool:
    try:
        return path.read_text() == content
    except OSError:
        return False


def check_nodes(folder: Path | None) -> Iterator[Finding]:
    """Checks every node of the joined cluster, and yields the findings; `folder` is the results folder."""
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    called = {key: _called(node) for key, node in nodes.items()}
    examiners = {
        node: NodeProbe.options(label_selector={"ray.io/node-id": node}).remote()  # type: ignore[attr-defined]
        for node in nodes
    }
    try:
        facts, broken = _answers({node: examiner.facts.remote() for node, examiner in examiners.items()})
        yield from unresponsive(broken, called, asked="its facts")
        able = {node: examiner for node, examiner in examiners.items() if node in facts}
        yield from compare_versions(facts, called, own=local_facts())
        yield from check_devices(facts, {key: node["Resources"] for key, node in nodes.items()}, called)
        yield from check_capacity(facts, called)
        yield from _clocks(able, called)
        yield from _ports(able, nodes, called)
        if folder is not None:
            yield from _storage(folder, able, called)
    finally:
        for examiner in examiners.values():
            ray.kill(examiner)


def _called(node: Mapping[str, Any]) -> str:
    return f"node {node['NodeID'][:8]} ({node['NodeManagerAddress']})"


def _answers(asked: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str | None]]:
    """Returns the answers by node, and the errors of the other nodes: None if no answer came in time."""
    answers: dict[str, Any] = {}
    broken: dict[str, str | None] = {}
    # One wait for all: with a timed get for each, the timeouts of silent nodes would add up.
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_TIMEOUT_S)
    for node, reference in asked.items():
        if reference not in ready:
            broken[node] = None
            continue
        try:
            answers[node] = ray.get(reference)
        except ray.exceptions.RayError as error:
            # The lines above the last are the traceback of the remote process.
            broken[node] = str(error).strip().splitlines()[-1]
    return answers, broken


def _clocks(examiners: Mapping[str, Any], called: NodeNames) -> Iterator[Finding]:
    """Checks the clocks one node after the other, so that no answer is delayed by those of others."""
    gaps: dict[str, ClockGap] = {}
    # These actors have answered before, so the round trip contains no start of a process.
    for node, examiner in examiners.items():
        asked = time.time()
        theirs, broken = _answers({node: examiner.now.remote()})
        answered = time.time()
        yield from unresponsive(broken, called, asked="its clock")
        for now in theirs.values():
            # The answer is taken to be from the middle of the round trip, so half of it is the uncertainty.
            gaps[node] = ClockGap(ahead_s=now - (asked + answered) / 2, within_s=(answered - asked) / 2)
    yield from check_clocks(gaps, called)


def _ports(examiners: Mapping[str, Any], nodes: Mapping[str, Any], called: NodeNames) -> Iterator[Finding]:
    """Checks from every node the ports of all nodes for task submission and object transfer."""
    owners = {
        (node["NodeManagerAddress"], int(node[kind])): key
        for key, node in nodes.items()
        for kind in ("NodeManagerPort", "ObjectManagerPort")
    }
    asked = {node: examiner.unreachable.remote(list(owners)) for node, examiner in examiners.items()}
    answers, broken = _answers(asked)
    yield from unresponsive(broken, called, asked="the ports it reaches")
    lost = [
        UnreachablePort(node=node, owner=owners[host, port], port=port, reason=reason)
        for node, failures in answers.items()
        for host, port, reason in failures
    ]
    yield from check_ports(lost, called, num_ports=len(owners), num_nodes=len(answers))


def _storage(folder: Path, examiners: Mapping[str, Any], called: NodeNames) -> Iterator[Finding]:
    """Checks that every node and this process see what each node writes to the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".pruneyard-doctor-{uuid4().hex}"
        probe.mkdir()
    except OSError as error:
        text = f"{folder} cannot be written from here: {error}; give another --out, or fix its permissions"
        yield Finding(name="storage", good=False, text=text)
        return
    try:
        yield from _round_trip(probe, folder, examiners, called)
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def _round_trip(probe: Path, folder: Path, examiners: Mapping[str, Any], called: NodeNames) -> Iterator[Finding]:
    started = time.perf_counter()
    written, broken = _answers({node: e.write.remote(str(probe), node) for node, e in examiners.items()})
    took_ms = (time.perf_counter() - started) * 1e3
    yield from unresponsive(broken, called, asked="a file it writes")
    refused = {called[node]: reason for node, reason in written.items() if reason}
    names = [node for node, reason in written.items() if not reason]
    # A node that could not write is already reported; what it sees would be the same fault again.
    asked = {node: examiners[node].missing.remote(str(probe), names) for node in names}
    lost, broken = _answers(asked)
    yield from unresponsive(broken, called, asked="the files it sees")
    unseen = [(called[node], called[name]) for node, missing in lost.items() for name in missing]
    unseen += [("this process", called[name]) for name in names if not _seen_here(probe / name, name)]
    if written:
        fine = f"from {len(lost)} nodes and from here, in {took_ms:.0f} ms"
        yield from check_storage(str(folder), refused=refused, unseen=unseen, fine=fine)


def _seen_here(path: Path, content: str) -> bool:
    deadline = time.monotonic() + VISIBLE_TIMEOUT_S
    while not _holds(path, content):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
