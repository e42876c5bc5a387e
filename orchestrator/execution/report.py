"""The report by which a trial tells the driver where it stands."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pruneyard.reports.attempt import Attempt
from pruneyard.reports.records import Status


@dataclass(frozen=True, kw_only=True)
class Report:
    """The state of a trial at its newest evaluation or at its end.

    Args:
        run_key: the run key of the job.
        step: the step of the newest evaluation.
        num_steps: the steps of the whole job; 0 before the first evaluation.
        metrics: the metrics of the newest evaluation, by `split/name`.
        status: how the attempt ended; None while it runs.
        error: the last line of the traceback of a FAILED attempt.
        paused: whether it is INTERRUPTED only because it has reached the share of steps that was planned for now.
        wall_s: how long the attempt took, known once it has ended.
        peak_memory_bytes: known once the attempt has ended.
        gpu_memory_bytes: the total memory of its GPU.
    """

    run_key: str
    step: int = 0
    num_steps: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    status: Status | None = None
    error: str | None = None
    paused: bool = False
    wall_s: float | None = None
    peak_memory_bytes: int | None = None
    gpu_memory_bytes: int | None = None


def report_of(attempt: Attempt) -> Report:
    """Returns the last report of an attempt that has ended, as far as its rows tell."""
    run = attempt.run
    last = max((row.step for row in attempt.metrics), default=0)
    return Report(
        run_key=run.run_key,
        step=last,
        num_steps=last,
        metrics={f"{row.split}/{row.name}": row.value for row in attempt.metrics if row.step == last},
        status=run.status,
        error=run.error.strip().splitlines()[-1] if run.error else None,
        wall_s=run.wall_s,
        peak_memory_bytes=run.peak_memory_bytes,
    )
