"""Whether the nodes of a cluster are fit for a study: alike, in step with each other, and with storage that all see."""

import hashlib
import os
import platform
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray

from cluster.pins import PACKAGE

PACKAGES = ("cluster", "orchestrator", "reports", "workloads")
VERSIONS = (PACKAGE, "ray", "torch", "torchvision", "numpy", "pyarrow", "scipy", "safetensors", "pydantic")
LEAST_SHARED_BYTES = 1 << 30
LEAST_DISK_BYTES = 5 << 30
MOST_CLOCK_S = 1.0  # apart; records of attempts are ordered by time
SEEN_WITHIN_S = 10.0  # NFS shows a new file on other nodes after some seconds
ANSWER_WITHIN_S = 60.0
CONNECTS_WITHIN_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at: how it is, and where it is wrong, what to do."""

    name: str
    good: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One node. Bytes are free ones."""

    host: str
    versions: Mapping[str, str]
    code: str  # hash of our source files
    gpus: tuple[str, ...]  # model names, as the driver of the device calls them
    shared_bytes: int  # -1 where there is no /dev/shm
    scratch: str
    scratch_bytes: int


def own_facts() -> Facts:
    """Of the node that this runs on."""
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
    """Of every Python file of ours, by path and content."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        found = find_spec(package)
        for root in map(Path, (found.submodule_search_locations if found is not None else None) or ()):
            for path in sorted(root.rglob("*.py")):
                digest.update(f"{package}/{path.relative_to(root)}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _gpus() -> tuple[str, ...]:
    """Asks the device's driver, which shows devices that Ray hides from a task."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    asked = [program, "--query-gpu=name", "--format=csv,noheader"]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    return tuple(said.stdout.strip().splitlines()) if said.returncode == 0 else ()


@ray.remote(num_cpus=0)
class Examiner:
    """Looks at one node from inside."""

    def facts(self) -> Facts:
        """How the node is."""
        return own_facts()

    def now(self) -> float:
        """The node's clock, in seconds since the epoch."""
        return time.time()

    def write(self, folder: str, name: str) -> str:
        """Writes aside, flushes and moves, as records are written; returns what went wrong."""
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
        """Files that do not appear here with their content in the time that storage may take."""
        deadline = time.monotonic() + SEEN_WITHIN_S
        while True:
            unseen = [name for name in names if not _holds(Path(folder) / name, name)]
            if not unseen or time.monotonic() > deadline:
                return unseen
            time.sleep(0.2)

    def unreachable(self, ports: Sequence[tuple[str, int]]) -> list[tuple[str, int, str]]:
        """Host, port and reason of those that take no connection from here."""
        found = []
        for host, port in ports:
            try:
                socket.create_connection((host, port), timeout=CONNECTS_WITHIN_S).close()
            except OSError as error:
                found.append((host, port, str(error)))
        return found


def _holds(path: Path, content: str) -> bool:
    try:
        return path.read_text() == content
    except OSError:
        return False


def examine(folder: Path | None) -> Iterator[Finding]:
    """Looks at every node of the cluster that this process is connected to; `folder` is that of results."""
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    examiners = {
        node: Examiner.options(label_selector={"ray.io/node-id": node}).remote()  # type: ignore[attr-defined]
        for node in nodes
    }
    try:
        facts, broken = _answers({node: examiner.facts.remote() for node, examiner in examiners.items()})
        for node, reason in broken.items():
            advice = "install pruneyard and Ray there as they are here"
            yield Finding(
                name="nodes", good=False, text=f"{_called(nodes[node])} does not answer: {reason}; {advice}"
            )
        able = {node: examiner for node, examiner in examiners.items() if node in facts}
        called = {node: _called(nodes[node]) for node in nodes}
        yield from _alike(facts, called)
        yield from _devices(facts, nodes, called)
        yield from _room(facts, called)
        yield from _clocks(able, called)
        yield from _ports(able, nodes, called)
        if folder is not None:
            yield from _storage(folder, able, called)
    finally:
        for examiner in examiners.values():
            ray.kill(examiner)


def _called(node: Mapping[str, Any]) -> str:
    return f"node {node['NodeID'][:8]} ({node['NodeManagerAddress']})"


def _answers(asked: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What each node answered, and why some did not."""
    answers: dict[str, Any] = {}
    broken: dict[str, str] = {}
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_WITHIN_S)
    for node, reference in asked.items():
        if reference not in ready:
            broken[node] = f"nothing within {ANSWER_WITHIN_S:.0f} s"
            continue
        try:
            answers[node] = ray.get(reference)
        except ray.exceptions.RayError as error:
            broken[node] = str(error).strip().splitlines()[-1]
    return answers, broken


def _alike(facts: Mapping[str, Facts], called: Mapping[str, str]) -> Iterator[Finding]:
    """Versions and code, against those of this process."""
    own = own_facts()
    good = True
    for node, found in facts.items():
        other = [
            f"{name} {found.versions.get(name, 'missing')} (here {pin})"
            for name, pin in own.versions.items()
            if found.versions.get(name, "missing") != pin
        ]
        if other:
            good = False
            advice = "install the same versions everywhere"
            yield Finding(
                name="versions", good=False, text=f"{called[node]} has {', '.join(other)}; {advice}"
            )
    if good and facts:
        yield Finding(name="versions", good=True, text=f"equal on {len(facts)} nodes")
    others = [called[node] for node, found in facts.items() if found.code != own.code]
    if others:
        advice = "install the same everywhere, or use pruneyard submit, which brings the code along"
        yield Finding(
            name="code", good=False, text=f"{', '.join(others)} has other code than this process; {advice}"
        )
    elif facts:
        yield Finding(name="code", good=True, text=f"{own.code} on {len(facts)} nodes")


def _devices(
    facts: Mapping[str, Facts], nodes: Mapping[str, Any], called: Mapping[str, str]
) -> Iterator[Finding]:
    good = True
    for node, found in facts.items():
        offered = nodes[node]["Resources"].get("GPU", 0)
        if offered != len(found.gpus):
            good = False
            have = len(found.gpus)
            text = (
                f"{called[node]} has {have} GPUs and Ray offers {offered:g}; start it with --num-gpus={have}"
            )
            yield Finding(name="devices", good=False, text=text)
        elif found.gpus and found.versions["torch"].endswith("+cpu"):
            good = False
            text = f"{called[node]} has GPUs, and torch {found.versions['torch']} cannot use them; install a build with CUDA"
            yield Finding(name="devices", good=False, text=text)
    models = Counter(model for found in facts.values() for model in found.gpus)
    if len(models) > 1:
        good = False
        advice = "numbers and times of different models differ; give each its own cluster or label"
        listed = ", ".join(f"{count} x {model}" for model, count in models.items())
        yield Finding(name="devices", good=False, text=f"the GPUs are not alike: {listed}; {advice}")
    if good:
        listed = ", ".join(f"{count} x {model}" for model, count in models.items()) or "no GPUs"
        cpus = sum(nodes[node]["Resources"].get("CPU", 0) for node in facts)
        yield Finding(name="devices", good=True, text=f"{cpus:g} CPUs, {listed}")


def _room(facts: Mapping[str, Facts], called: Mapping[str, str]) -> Iterator[Finding]:
    """Memory for the object store, and disk for what Ray spills and logs."""
    shared = [
        (called[n], f.shared_bytes) for n, f in facts.items() if 0 <= f.shared_bytes < LEAST_SHARED_BYTES
    ]
    for name, free in shared:
        advice = "start its container with --shm-size=2g or more; data sets are shared through it"
        yield Finding(
            name="shared memory", good=False, text=f"{name} has {free / 2**20:.0f} MiB free; {advice}"
        )
    if not shared and facts:
        least = min(found.shared_bytes for found in facts.values())
        text = (
            f"{least / 2**30:.1f} GiB free at least"
            if least >= 0
            else "none on some nodes; Ray uses files there"
        )
        yield Finding(name="shared memory", good=True, text=text)
    for node, found in facts.items():
        if found.scratch_bytes < LEAST_DISK_BYTES:
            left = f"{found.scratch_bytes / 2**30:.1f} GiB free in {found.scratch}"
            text = f"{called[node]} has {left}; free some, or start Ray there with another --temp-dir"
            yield Finding(name="disk", good=False, text=text)


def _clocks(examiners: Mapping[str, Any], called: Mapping[str, str]) -> Iterator[Finding]:
    """Each node's clock against ours, better than half the time that the question took."""
    worst, good = 0.0, True
    for node, examiner in examiners.items():
        asked = time.time()
        theirs = ray.get(examiner.now.remote(), timeout=ANSWER_WITHIN_S)
        answered = time.time()
        apart = theirs - (asked + answered) / 2
        worst = max(worst, abs(apart))
        if abs(apart) - (answered - asked) / 2 > MOST_CLOCK_S:
            good = False
            side = "ahead" if apart > 0 else "behind"
            text = f"{called[node]} is {abs(apart):.1f} s {side}; let its clock be set by NTP"
            yield Finding(name="clock", good=False, text=text)
    if good:
        yield Finding(name="clock", good=True, text=f"within {worst * 1e3:.0f} ms of this one")


def _ports(
    examiners: Mapping[str, Any], nodes: Mapping[str, Any], called: Mapping[str, str]
) -> Iterator[Finding]:
    """From every node to every other: where tasks are handed on and where objects are fetched."""
    owners = {
        (node["NodeManagerAddress"], int(node[kind])): called[key]
        for key, node in nodes.items()
        for kind in ("NodeManagerPort", "ObjectManagerPort")
    }
    asked = {node: examiner.unreachable.remote(list(owners)) for node, examiner in examiners.items()}
    answers, _ = _answers(asked)
    lost = [(node, *failure) for node, failures in answers.items() for failure in failures]
    for node, host, port, reason in lost:
        advice = "let the nodes of the cluster reach each other on all ports, and nobody else"
        text = f"{called[node]} cannot reach {owners[host, port]} on port {port}: {reason}; {advice}"
        yield Finding(name="ports", good=False, text=text)
    if not lost:
        yield Finding(name="ports", good=True, text=f"{len(owners)} reached from {len(answers)} nodes")


def _storage(folder: Path, examiners: Mapping[str, Any], called: Mapping[str, str]) -> Iterator[Finding]:
    """What every node writes, every node and this process must see, with its content."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".pruneyard-doctor-{uuid4().hex}"
        probe.mkdir()
    except OSError as error:
        text = f"{folder} cannot be written from here: {error}; give another --out, or mend its rights"
        yield Finding(name="storage", good=False, text=text)
        return
    try:
        yield from _round_trip(probe, folder, examiners, called)
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def _round_trip(
    probe: Path, folder: Path, examiners: Mapping[str, Any], called: Mapping[str, str]
) -> Iterator[Finding]:
    advice = "mount the same folder under the same path on every node"
    started = time.perf_counter()
    written, _ = _answers({node: e.write.remote(str(probe), node) for node, e in examiners.items()})
    took_ms = (time.perf_counter() - started) * 1e3
    refused = {node: reason for node, reason in written.items() if reason}
    for node, reason in refused.items():
        yield Finding(
            name="storage", good=False, text=f"{called[node]} cannot write to {folder}: {reason}; {advice}"
        )
    names = [node for node in written if node not in refused]
    asked = {node: e.missing.remote(str(probe), names) for node, e in examiners.items() if node in names}
    unseen, _ = _answers(asked)
    pairs: list[tuple[str, str]] = [
        (called[node], called[name]) for node, lost in unseen.items() for name in lost
    ]
    pairs += [("this process", called[name]) for name in names if not _seen_here(probe / name, name)]
    for who, whose in pairs:
        text = f"{who} does not see what {whose} wrote to {folder}; {advice}"
        yield Finding(name="storage", good=False, text=text)
    if not refused and not pairs:
        text = (
            f"{folder} is written and seen alike from {len(names)} nodes and from here, in {took_ms:.0f} ms"
        )
        yield Finding(name="storage", good=True, text=text)


def _seen_here(path: Path, content: str) -> bool:
    deadline = time.monotonic() + SEEN_WITHIN_S
    while not _holds(path, content):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
