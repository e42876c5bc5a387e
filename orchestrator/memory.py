"""What memory trials were seen to take, so that no node and no GPU is given more of them than it holds."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.fingerprint import canonical
from reports.layout import RunFolder
from reports.store import Store

GIB = 2**30
MARGIN = 1.2  # a trial may take so much more than another of its shape did
UNIT = GIB // 4  # requests are multiples of it: a process is reused only among trials that request the same
_NO_MEMORY = ("seed", "epochs", "steps", "evaluate_every", "checkpoint_every_s")


def shape_of(kind: str, identity: Mapping[str, Any]) -> str:
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


@dataclass
class Needs:
    """Peaks in bytes by shape, of this folder's finished trials and of those heard of since."""

    _peaks: dict[str, int] = field(default_factory=dict)
    _at_least: dict[str, int] = field(default_factory=dict)  # since one of the shape was killed for want of memory

    @classmethod
    def seen_in(cls, folder: RunFolder) -> "Needs":
        """What the folder's runs say that were measured on a CPU."""
        needs = cls()
        columns = ["kind", "identity_json", "device", "peak_memory_bytes"]
        for row in Store(folder).runs().select(columns).to_pylist():
            if row["device"] == "cpu" and row["identity_json"] is not None:
                needs.hear(shape_of(row["kind"], json.loads(row["identity_json"])), row["peak_memory_bytes"])
        return needs

    def hear(self, shape: str, peak: int | None) -> None:
        """A trial has ended; None where its memory was not measured."""
        if peak is not None:
            self._peaks[shape] = max(peak, self._peaks.get(shape, 0))

    def hear_death(self, shape: str, *, node: int, num_slots: int) -> None:
        """A trial was killed for want of memory: the next of its shape gets twice the room that it had."""
        self._at_least[shape] = max(2 * self.request(shape, node=node, num_slots=num_slots), self._at_least.get(shape, 0))

    def request(self, shape: str, *, node: int, num_slots: int) -> int:
        """Bytes that a trial is given on a node that has `node` and room for `num_slots` trials by its cores.

        Before one of its shape was measured that is an equal share, which keeps no core idle. It is never more than the node
        has: what takes more runs there alone.
        """
        share = node / num_slots // UNIT * UNIT
        known = self._peaks.get(shape)
        wanted = share if known is None else math.ceil(known * MARGIN / UNIT) * UNIT
        return min(int(max(wanted, self._at_least.get(shape, 0))), node // UNIT * UNIT)
