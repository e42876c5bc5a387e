"""Turns the facts of all nodes into findings: what is wrong on which node, the number, and how to fix it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

MIN_SHARED_BYTES = 1 << 30
MIN_DISK_BYTES = 5 << 30
MAX_CLOCK_GAP_S = 1.0  # records of attempts are ordered by time, so clocks must agree
ANSWER_TIMEOUT_S = 60.0
MAX_NAMED = 3  # nodes named in one line; the others are counted

NodeNames = Mapping[str, str]
"""The display names of nodes, by id."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check, with advice if it failed."""

    name: str
    good: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The facts of one node. Bytes are free bytes."""

    host: str
    versions: Mapping[str, str]
    code: str  # hash of our source files
    gpus: tuple[str, ...]  # model names, as the driver of the device calls them
    shared_bytes: int  # -1 where there is no /dev/shm
    scratch: str
    scratch_bytes: int


@dataclass(frozen=True, kw_only=True)
class ClockGap:
    """The difference of a node's clock to ours, in seconds, and its uncertainty: half the time of the round trip."""

    ahead_s: float
    within_s: float


@dataclass(frozen=True, kw_only=True)
class UnreachablePort:
    """A port that a node could not connect to."""

    node: str
    owner: str
    port: int
    reason: str


def unresponsive(broken: Mapping[str, str | None], called: NodeNames, *, asked: str) -> Iterator[Finding]:
    """Yields a finding for each node that failed to answer. broken: the error by node, None if no answer came in time."""
    for node, error in broken.items():
        if error is None:
            reason = f"nothing within {ANSWER_TIMEOUT_S:.0f} s"
            advice = "see in `ray status` and in the logs there whether it is busy or gone, and start its Ray again"
        else:
            reason, advice = (
                error,
                "install pruneyard and Ray there as they are here, or start its Ray again if it is gone",
            )
        yield _wrong("nodes", f"{called[node]} does not answer for {asked}: {reason}; {advice}")


def compare_versions(facts: Mapping[str, Facts], called: NodeNames, *, own: Facts) -> Iterator[Finding]:
    """Compares versions and code of all nodes with those of this process."""
    good = True
    for node, found in facts.items():
        other = [
            f"{name} {found.versions.get(name, 'missing')} (here {pin})"
            # A package may be absent on a node, so its name comes from our list, not from the node's.
            for name, pin in own.versions.items()
            if found.versions.get(name, "missing") != pin
        ]
        if other:
            good = False
            advice = "install the same versions everywhere"
            yield _wrong("versions", f"{called[node]} has {', '.join(other)}; {advice}")
    if good and facts:
        yield _good("versions", f"equal on {len(facts)} nodes")
    others = [called[node] for node, found in facts.items() if found.code != own.code]
    if others:
        advice = "install the same everywhere, or use pruneyard submit, which brings the code along"
        yield _wrong("code", f"{', '.join(others)} has other code than this process; {advice}")
    elif facts:
        yield _good("code", f"{own.code} on {len(facts)} nodes")


def check_devices(
    facts: Mapping[str, Facts], resources: Mapping[str, Mapping[str, float]], called: NodeNames
) -> Iterator[Finding]:
    """Compares the GPUs of each node with what Ray offers there, and checks that all GPUs are of one model."""
    good = True
    for node, found in facts.items():
        offered, have = resources[node].get("GPU", 0), len(found.gpus)
        if offered != have:
            good = False
            advice = f"start it with --num-gpus={have}"
            yield _wrong("devices", f"{called[node]} has {have} GPUs and Ray offers {offered:g}; {advice}")
        elif found.gpus and found.versions["torch"].endswith("+cpu"):
            good = False
            text = f"{called[node]} has {have} GPUs, and torch {found.versions['torch']} cannot use them"
            yield _wrong("devices", f"{text}; install a build with CUDA")
    models = Counter(model for found in facts.values() for model in found.gpus)
    if len(models) > 1:
        good = False
        listed = [
            f"{count} x {model} ({_name_some([called[node] for node, found in facts.items() if model in found.gpus])})"
            for model, count in models.items()
        ]
        advice = "numbers and times of different models differ; give each its own cluster"
        yield _wrong("devices", f"the GPUs are not alike: {', '.join(listed)}; {advice}")
    if good and facts:
        listed = [f"{count} x {model}" for model, count in models.items()]
        cpus = sum(resources[node].get("CPU", 0) for node in facts)
        yield _good("devices", f"{cpus:g} CPUs, {', '.join(listed) or 'no GPUs'}")


def check_capacity(facts: Mapping[str, Facts], called: NodeNames) -> Iterator[Finding]:
    """Checks the shared memory for the object store, and the disk for what Ray spills and logs."""
    shared = {node: found.shared_bytes for node, found in facts.items() if found.shared_bytes >= 0}
    small = {node: free for node, free in shared.items() if free < MIN_SHARED_BYTES}
    for node, free in small.items():
        advice = "start its container with --shm-size=2g or more; data sets are shared through it"
        yield _wrong("shared memory", f"{called[node]} has {free / 2**20:.0f} MiB free; {advice}")
    if facts and not small:
        least = f"{min(shared.values()) / 2**30:.1f} GiB free at least" if shared else "no /dev/shm"
        without = [called[node] for node in facts if node not in shared]
        files = f"; Ray uses files instead on {_name_some(without)}" if without else ""
        yield _good("shared memory", f"{least}{files}")
    full = {node: found for node, found in facts.items() if found.scratch_bytes < MIN_DISK_BYTES}
    for node, found in full.items():
        left = f"{found.scratch_bytes / 2**30:.1f} GiB free in {found.scratch}"
        advice = "free some, or start Ray there with another --temp-dir"
        yield _wrong("disk", f"{called[node]} has {left}; {advice}")
    if facts and not full:
        least_bytes = min(found.scratch_bytes for found in facts.values())
        yield _good("disk", f"{least_bytes / 2**30:.0f} GiB free at least where Ray keeps its files")


def check_clocks(gaps: Mapping[str, ClockGap], called: NodeNames) -> Iterator[Finding]:
    """Checks the clocks; a gap counts only beyond its uncertainty, since a slow answer is no wrong clock."""
    good = True
    for node, gap in gaps.items():
        if abs(gap.ahead_s) - gap.within_s > MAX_CLOCK_GAP_S:
            good = False
            side = "ahead" if gap.ahead_s > 0 else "behind"
            text = f"{called[node]} is {abs(gap.ahead_s):.1f} s {side}; let its clock be set by NTP"
            yield _wrong("clock", text)
    if good and gaps:
        worst_s = max(abs(gap.ahead_s) for gap in gaps.values())
        yield _good("clock", f"within {worst_s * 1e3:.0f} ms of this one")


def check_ports(lost: Sequence[UnreachablePort], called: NodeNames, *, num_ports: int, num_nodes: int) -> Iterator[Finding]:
    """Yields a finding for each unreachable port; `num_ports` ports were tried from `num_nodes` nodes."""
    for way in lost:
        advice = "let the nodes of the cluster reach each other on all ports, and nobody else"
        text = (
            f"{called[way.node]} cannot reach {called[way.owner]} on port {way.port}: {way.reason}; {advice}"
        )
        yield _wrong("ports", text)
    if num_nodes and not lost:
        yield _good("ports", f"{num_ports} reached from {num_nodes} nodes")


def check_storage(
    folder: str, *, refused: Mapping[str, str], unseen: Sequence[tuple[str, str]], fine: str
) -> Iterator[Finding]:
    """Checks the results folder on all nodes.

    Args:
        folder: the results folder.
        refused: why a node could not write, by its name.
        unseen: pairs of a node and another node whose file it does not see.
        fine: the end of the message if everything is well.
    """
    advice = "mount the same folder under the same path on every node"
    for who, reason in refused.items():
        yield _wrong("storage", f"{who} cannot write to {folder}: {reason}; {advice}")
    for who, whose in unseen:
        yield _wrong("storage", f"{who} does not see what {whose} wrote to {folder}; {advice}")
    if not refused and not unseen:
        yield _good("storage", f"{folder} is written and seen alike {fine}")


def _good(name: str, text: str) -> Finding:
    return Finding(name=name, good=True, text=text)


def _wrong(name: str, text: str) -> Finding:
    return Finding(name=name, good=False, text=text)


def _name_some(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
