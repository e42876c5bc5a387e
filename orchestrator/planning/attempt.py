"""Defines a planned attempt of a job, and the order in which attempts run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pruneyard.orchestrator.spec.job import Job, Resources


@dataclass(frozen=True, kw_only=True)
class PlannedAttempt:
    """A job to run, the number of the attempt, and where the attempt pauses.

    attempt: 1 for the first start of the job.
    until: share of the job's steps in (0, 1]; below 1 the attempt pauses there with a checkpoint.
    resources: what its trial takes.
    data_read: fingerprints of the data sets that the job rests on, by the key of the spec that names them.
    """

    job: Job
    attempt: int
    until: float = 1.0
    resources: Resources = Resources()
    data_read: Mapping[str, str] = field(default_factory=dict)


def is_short(planned: PlannedAttempt) -> bool:
    """Returns whether a job of this kind takes milliseconds, less than a write of its results."""
    return getattr(planned.job.workload, "is_short", False)


def order_by_parents(attempts: Sequence[PlannedAttempt]) -> list[PlannedAttempt]:
    """Returns the attempts in the order in which they run: short jobs with the same parents stand next to each other.

    A group of short jobs stands where its first job stood, so that one trial reads the parents' artifacts once. All other jobs
    keep their order.
    """
    first: dict[tuple[str, ...], int] = {}
    positions = [
        first.setdefault(planned.job.parents, index) if is_short(planned) else index for index, planned in enumerate(attempts)
    ]
    return [attempts[index] for index in sorted(range(len(attempts)), key=positions.__getitem__)]
