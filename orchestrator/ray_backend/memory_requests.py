"""What memory trials were seen to take, so that no node and no GPU is given more of them than it holds."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pruneyard.orchestrator.execution.crash_reason import is_oom_kill
from pruneyard.orchestrator.spec.run_key import canonical
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

GIB = 2**30


USABLE_SHARE = 0.9  # of a node's memory may be asked for


SAFETY_FACTOR = 1.2  # a trial may take so much more than another of its shape did


REQUEST_UNIT = GIB // 4  # requests are multiples of it: a process is reused only among trials that request the same


DRIVER_BYTES = GIB // 2  # of a trial whose ranks are processes of their own, it is all that its own process takes


_NO_MEMORY = ("seed", "epochs", "steps", "evaluate_every", "checkpoint_every_s")


def memory_key(kind: str, identity: Mapping[str, Any]) -> str:
    """One text for all jobs that should take the same memory: but for seeds, lengths of training and fractions they are equal."""
    return canonical([kind, _without_numbers(identity)])


def _without_numbers(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {
            key: _without_numbers(value)
            for key, value in content.items()
            if key not in _NO_MEMORY and not isinstance(value, float)
        }
    if isinstance(content, list | tuple):
        return [_without_numbers(item) for item in content]
    return content


def largest_request_per_worker(workers: int, nodes: Sequence[tuple[int, int]]) -> int:
    """Bytes that each of so many workers may ask for so that all of them find room at once; 0 where they cannot.

    nodes: bytes of each, and how many workers fit there by their other wants.
    """
    ways = (memory // count for memory, places in nodes for count in range(1, min(places, workers) + 1))
    return max((way for way in ways if _fitting(way, nodes) >= workers), default=0)


def _fitting(size: int, nodes: Sequence[tuple[int, int]]) -> int:
    return sum(min(places, memory // size) if size else places for memory, places in nodes)


@dataclass
class MemoryHistory:
    """Bytes by shape, from this folder's trials and those heard of since."""

    _peaks: dict[str, int] = field(default_factory=dict)
    _kills: dict[str, int] = field(default_factory=dict)  # attempts that were killed for want of memory since one finished

    @classmethod
    def seen_in(cls, folder: RunFolder) -> "MemoryHistory":
        """What the folder's runs say that were measured on a CPU, in the order in which they ended."""
        needs = cls()
        columns = ["kind", "identity_json", "device", "peak_memory_bytes", "error", "ended_at"]
        rows = Store(folder).runs(latest=False).select(columns).sort_by("ended_at").to_pylist()
        for row in rows:
            if row["identity_json"] is not None:
                shape = memory_key(row["kind"], json.loads(row["identity_json"]))
                if is_oom_kill(row["error"] or ""):
                    needs.hear_kill(shape)
                elif row["device"] == "cpu":
                    needs.record(shape, row["peak_memory_bytes"])
        return needs

    def record(self, shape: str, peak: int | None) -> None:
        """A trial has ended; None where its memory was not measured."""
        if peak is not None:
            self._peaks[shape] = max(peak, self._peaks.get(shape, 0))
            self._kills.pop(shape, None)

    def hear_kill(self, shape: str) -> None:
        """A trial was killed for want of memory: the next of its shape gets twice the room that it had."""
        self._kills[shape] = self._kills.get(shape, 0) + 1

    def request(self, shape: str, *, share: int, node: int) -> int:
        """Bytes that a trial asks for, which is nothing as long as no trial was seen to take more than its share.

        share: what leaves room on every node for as many trials as its cores allow; then it is what a trial of a shape that was
        not measured yet asks for. node: what the largest node has; what takes more than that runs there alone. Requests stay
        below both, since a node that comes later may have a little less.
        """
        fair, most = (int(USABLE_SHARE * size) // REQUEST_UNIT * REQUEST_UNIT for size in (share, node))
        if max(self._peaks.values(), default=0) * SAFETY_FACTOR <= share and not self._kills:
            return 0
        known = self._peaks.get(shape)
        wanted = fair if known is None else math.ceil(known * SAFETY_FACTOR / REQUEST_UNIT) * REQUEST_UNIT
        return int(min(wanted * 2 ** self._kills.get(shape, 0), most))
