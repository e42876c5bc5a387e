"""What is said about the nodes of a cluster, from the facts of each: where one is wrong, the node, the number and a remedy."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

MIN_SHARED_BYTES = 1 << 30
MIN_DISK_BYTES = 5 << 30
MAX_CLOCK_GAP_S = 1.0  # apart; records of attempts are ordered by time
ANSWER_TIMEOUT_S = 60.0
MAX_NAMED = 3  # nodes that a line names before it counts them

NodeNames = Mapping[str, str]
"""How a node is called, by its id."""


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


@dataclass(frozen=True, kw_only=True)
class ClockGap:
    """A node's clock against ours, in seconds, known no better than half the time that the question took."""

    ahead_s: float
    within_s: float


@dataclass(frozen=True, kw_only=True)
class UnreachablePort:
    """A port that took no connection from a node."""

    node: str
    owner: str
    port: int
    reason: str


def unresponsive(broken: Mapping[str, str | None], called: NodeNames, *, asked: str) -> Iterator[Finding]:
    """Nodes that failed at what they were asked, with the error; None where nothing came in time."""
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
    """Versions and code, against those of this process."""
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
            yield _wrong("versions", f"{called[node]} has {', '.join(other)}; {advice}")
    if good and facts:
        yield _well("versions", f"equal on {len(facts)} nodes")
    others = [called[node] for node, found in facts.items() if found.code != own.code]
    if others:
        advice = "install the same everywhere, or use pruneyard submit, which brings the code along"
        yield _wrong("code", f"{', '.join(others)} has other code than this process; {advice}")
    elif facts:
        yield _well("code", f"{own.code} on {len(facts)} nodes")


def check_devices(
    facts: Mapping[str, Facts], resources: Mapping[str, Mapping[str, float]], called: NodeNames
) -> Iterator[Finding]:
    """What each node has against what Ray offers there, and whether all GPUs are of one model."""
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
            f"{count} x {model} ({_some([called[node] for node, found in facts.items() if model in found.gpus])})"
            for model, count in models.items()
        ]
        advice = "numbers and times of different models differ; give each its own cluster"
        yield _wrong("devices", f"the GPUs are not alike: {', '.join(listed)}; {advice}")
    if good and facts:
        listed = [f"{count} x {model}" for model, count in models.items()]
        cpus = sum(resources[node].get("CPU", 0) for node in facts)
        yield _well("devices", f"{cpus:g} CPUs, {', '.join(listed) or 'no GPUs'}")


def check_capacity(facts: Mapping[str, Facts], called: NodeNames) -> Iterator[Finding]:
    """Memory for the object store, and disk for what Ray spills and logs."""
    shared = {node: found.shared_bytes for node, found in facts.items() if found.shared_bytes >= 0}
    small = {node: free for node, free in shared.items() if free < MIN_SHARED_BYTES}
    for node, free in small.items():
        advice = "start its container with --shm-size=2g or more; data sets are shared through it"
        yield _wrong("shared memory", f"{called[node]} has {free / 2**20:.0f} MiB free; {advice}")
    if facts and not small:
        least = f"{min(shared.values()) / 2**30:.1f} GiB free at least" if shared else "no /dev/shm"
        without = [called[node] for node in facts if node not in shared]
        files = f"; Ray uses files instead on {_some(without)}" if without else ""
        yield _well("shared memory", f"{least}{files}")
    full = {node: found for node, found in facts.items() if found.scratch_bytes < MIN_DISK_BYTES}
    for node, found in full.items():
        left = f"{found.scratch_bytes / 2**30:.1f} GiB free in {found.scratch}"
        advice = "free some, or start Ray there with another --temp-dir"
        yield _wrong("disk", f"{called[node]} has {left}; {advice}")
    if facts and not full:
        least_bytes = min(found.scratch_bytes for found in facts.values())
        yield _well("disk", f"{least_bytes / 2**30:.0f} GiB free at least where Ray keeps its files")


def check_clocks(gaps: Mapping[str, ClockGap], called: NodeNames) -> Iterator[Finding]:
    """Only what is certain counts: a slow answer is no wrong clock."""
    good = True
    for node, gap in gaps.items():
        if abs(gap.ahead_s) - gap.within_s > MAX_CLOCK_GAP_S:
            good = False
            side = "ahead" if gap.ahead_s > 0 else "behind"
            text = f"{called[node]} is {abs(gap.ahead_s):.1f} s {side}; let its clock be set by NTP"
            yield _wrong("clock", text)
    if good and gaps:
        worst_s = max(abs(gap.ahead_s) for gap in gaps.values())
        yield _well("clock", f"within {worst_s * 1e3:.0f} ms of this one")


def check_ports(lost: Sequence[UnreachablePort], called: NodeNames, *, num_ports: int, num_nodes: int) -> Iterator[Finding]:
    """What of `num_ports` was not reached from the `num_nodes` nodes that answered."""
    for way in lost:
        advice = "let the nodes of the cluster reach each other on all ports, and nobody else"
        text = (
            f"{called[way.node]} cannot reach {called[way.owner]} on port {way.port}: {way.reason}; {advice}"
        )
        yield _wrong("ports", text)
    if num_nodes and not lost:
        yield _well("ports", f"{num_ports} reached from {num_nodes} nodes")


def check_storage(
    folder: str, *, refused: Mapping[str, str], unseen: Sequence[tuple[str, str]], fine: str
) -> Iterator[Finding]:
    """By names: who could not write and why, and who does not see what whom wrote. `fine` is said where all is well."""
    advice = "mount the same folder under the same path on every node"
    for who, reason in refused.items():
        yield _wrong("storage", f"{who} cannot write to {folder}: {reason}; {advice}")
    for who, whose in unseen:
        yield _wrong("storage", f"{who} does not see what {whose} wrote to {folder}; {advice}")
    if not refused and not unseen:
        yield _well("storage", f"{folder} is written and seen alike {fine}")


def _well(name: str, text: str) -> Finding:
    return Finding(name=name, good=True, text=text)


def _wrong(name: str, text: str) -> Finding:
    return Finding(name=name, good=False, text=text)


def _some(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
