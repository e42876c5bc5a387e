"""Which attempts that died are tried again."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from pruneyard.orchestrator.driver.context import StudyRun
from pruneyard.orchestrator.execution.crash_reason import crash_cause, describe_crash
from pruneyard.orchestrator.execution.record import make_record
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store

logger = logging.getLogger(__name__)



MAX_CRASHES = 3  # a job whose process died so often in one call is left FAILED


def attempts_to_retry(
    orders: Sequence[PlannedAttempt],
    died: Mapping[str, str],
    deaths: dict[str, int],
    work: StudyRun,
    *,
    num_workers: int,
) -> list[PlannedAttempt]:
    """Records every attempt whose process died; returns the next attempts of those that get another.

    An attempt that ended without a record, without a death and without a stop is what Tune does not raise: it is said.
    """
    monitor, stopping = work.monitor, work.stop.requested
    store, again = Store(work.folder), []
    recorded = store.statuses()
    for order in orders:
        key = order.job.key
        status, newest = recorded.get(key, (None, 0))
        if newest >= order.attempt:
            if key in died and status is Status.FAILED:  # it wrote its record and then lost its device
                work.failed(key, died[key].strip().splitlines()[-1])
            continue
        if key not in died:
            if not stopping:
                deaths[key] = deaths.get(key, 0) + 1
                if deaths[key] < MAX_CRASHES:
                    again.append(order)  # it stood behind one whose process died
                else:
                    logger.warning("%s (%s) ended without a record; run again to repair", key, order.job.label)
            continue
        now = datetime.now(UTC)
        error = f"{died[key].rstrip()}\n{crash_cause(died[key])}"
        store.write(
            make_record(
                order,
                study=work.plan.spec.name,
                status=Status.INTERRUPTED if stopping else Status.FAILED,
                started_at=now,
                wall_s=0.0,
                device="unknown",
                num_workers=num_workers,
                error=error,
            ),
            [],
            [],
        )
        deaths[key] = deaths.get(key, 0) + 1
        if stopping:
            monitor.end(key, Status.INTERRUPTED)
        elif deaths[key] < MAX_CRASHES:
            logger.warning("%s; it goes on from its checkpoint", describe_crash(died[key], run=f"{key} ({order.job.label})"))
            again.append(replace(order, attempt=order.attempt + 1))
        else:
            work.failed(key, f"{crash_cause(died[key])}, {MAX_CRASHES} times")
    return again
