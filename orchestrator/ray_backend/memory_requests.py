"""Computes memory requests from the memory that finished trials took, so that no node runs more trials than it can hold."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pruneyard.orchestrator.execution.crash_reason import is_oom_kill
from pruneyard.orchestrator.spec.run_key import canonical
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store

GIB = 2**30
USABLE_SHARE = 0.9  # the share of a node's memory that trials may request
SAFETY_FACTOR = 1.2  # a request is this factor times the peak of similar trials
REQUEST_UNIT = GIB // 4  # requests are multiples of it, since Tune reuses a process only among equal requests
DRIVER_BYTES = GIB // 2  # the memory of a trial's own process if its ranks are separate processes

_WITHOUT_EFFECT = ("seed", "epochs", "steps", "evaluate_every", "checkpoint_every_s")  # on the memory of a job


def memory_key(kind: str, identity: Mapping[str, Any]) -> str:
    """Returns a key that is equal for all jobs that should take the same memory.

    It is the canonical form of a job without seeds, training lengths and fractions.
    """
    return canonical([kind, _without_numbers(identity)])


def _without_numbers(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {
            key: _without_numbers(value)
            for key, value in content.items()
            if key not in _WITHOUT_EFFECT and not isinstance(value, float)
        }
    if isinstance(content, list | tuple):
        return [_without_numbers(item) for item in content]
    return content


def largest_request_per_worker(workers: int, nodes: Sequence[tuple[int, int]]) -> int:
    """Returns the most bytes that each worker may request so that all of them can run at once; 0 if they cannot.

    nodes: the bytes of each node, and how many workers fit there by their CPUs and GPUs.
    """
    # How many workers fit on a node changes only at these sizes, so the largest size that works is one of them.
    candidates = (memory // count for memory, places in nodes for count in range(1, min(places, workers) + 1))
    return max((size for size in candidates if _num_fitting(size, nodes) >= workers), default=0)


def _num_fitting(size: int, nodes: Sequence[tuple[int, int]]) -> int:
    return sum(min(places, memory // size) if size else places for memory, places in nodes)


@dataclass
class MemoryHistory:
    """The peaks of memory and the OOM kills of earlier trials, by memory key."""

    _peaks: dict[str, int] = field(default_factory=dict)
    _kills: dict[str, int] = field(default_factory=dict)  # attempts that were OOM-killed since one completed

    @classmethod
    def from_folder(cls, folder: RunFolder) -> "MemoryHistory":
        """Returns the history of the runs in a folder, in the order in which they ended; only CPU runs measure memory."""
        history = cls()
        columns = ["kind", "identity_json", "status", "device", "peak_memory_bytes", "error", "ended_at"]
        rows = Store(folder).runs(latest=False).select(columns).sort_by("ended_at").to_pylist()
        # The order matters: a completed trial erases the OOM kills before it.
        for row in rows:
            if row["identity_json"] is not None:
                key = memory_key(row["kind"], json.loads(row["identity_json"]))
                if is_oom_kill(row["error"] or ""):
                    history.record_oom_kill(key)
                elif row["status"] == Status.COMPLETED and row["device"] == "cpu":
                    history.record(key, row["peak_memory_bytes"])
        return history

    def record(self, key: str, peak: int | None) -> None:
        """Adds the peak in bytes of a completed trial; does nothing for None, a peak that was not measured."""
        if peak is not None:
            self._peaks[key] = max(peak, self._peaks.get(key, 0))
            # A completed trial was measured, so its peak takes the place of guessing by doubling.
            self._kills.pop(key, None)

    def record_oom_kill(self, key: str) -> None:
        """Adds an OOM kill: the next trial with this key requests twice as much."""
        self._kills[key] = self._kills.get(key, 0) + 1

    def request(self, key: str, *, share: int, node: int) -> int:
        """Returns the bytes that a trial requests; 0 as long as no trial took more than its fair share.

        Requests stay below `USABLE_SHARE` of both arguments, since a node that joins later may have slightly less memory.

        Args:
            share: the memory of a node divided by the trials that its cores allow; requested by trials not yet measured.
            node: the memory of the largest node; a trial that needs more runs there alone.
        """
        fair, most = (int(USABLE_SHARE * size) // REQUEST_UNIT * REQUEST_UNIT for size in (share, node))
        # Judged over all keys: Ray counts only requested memory, so if one trial must request some, all must.
        if max(self._peaks.values(), default=0) * SAFETY_FACTOR <= share and not self._kills:
            return 0
        peak = self._peaks.get(key)
        needed = fair if peak is None else math.ceil(peak * SAFETY_FACTOR / REQUEST_UNIT) * REQUEST_UNIT
        return int(min(needed * 2 ** self._kills.get(key, 0), most))
