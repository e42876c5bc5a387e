"""Orchestrator/execution/report.py."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pruneyard.reports.records import Status


@dataclass(frozen=True, kw_only=True)
class Report:
    """Where a trial stands; `status` is None while it goes on. `metrics` are the newest, by `split/name`.

    paused: it was INTERRUPTED because it has come as far as it was to come for now.
    """

    run_key: str
    step: int = 0
    num_steps: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    status: Status | None = None
    error: str | None = None
    paused: bool = False
    peak_memory_bytes: int | None = None  # once it has ended
    gpu_memory_bytes: int | None = None  # that its GPU has in all
