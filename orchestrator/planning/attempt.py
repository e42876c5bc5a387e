"""Orchestrator/planning/attempt.py."""

from collections.abc import Sequence
from dataclasses import dataclass

from pruneyard.orchestrator.spec.job import Job


@dataclass(frozen=True, kw_only=True)
class PlannedAttempt:
    """A job to be run, which start of it this is, and up to which share of its steps: there it pauses, with a checkpoint."""

    job: Job
    attempt: int
    until: float = 1.0


def is_short(order: PlannedAttempt) -> bool:
    """Whether a trial of the scheduler takes several such jobs."""
    return getattr(order.job.workload, "per_trial", 1) > 1


def order_by_parents(orders: Sequence[PlannedAttempt]) -> list[PlannedAttempt]:
    """Short jobs that rest on the same runs one after the other, in the order of the first of them; others in their order."""
    first: dict[tuple[str, ...], int] = {}
    places = [first.setdefault(order.job.parents, place) if is_short(order) else place for place, order in enumerate(orders)]
    return [orders[place] for place in sorted(range(len(orders)), key=places.__getitem__)]
