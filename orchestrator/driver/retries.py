"""Decides which crashed attempts are retried."""

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
from pruneyard.workloads.user_code.error_line import error_line

logger = logging.getLogger(__name__)

MAX_CRASHES = 3  # a job whose process crashes so often in one call is left FAILED


def attempts_to_retry(
    attempts: Sequence[PlannedAttempt],
    crashes: Mapping[str, str],
    num_crashes: dict[str, int],
    study_run: StudyRun,
) -> list[PlannedAttempt]:
    """Records every attempt whose process crashed, and returns the next attempts of those that are retried.

    Args:
        attempts: the attempts that were run.
        crashes: the errors of those whose process crashed, by run key.
        num_crashes: how often each job has crashed in this call; it is updated.
        study_run: the call of `run`.

    An attempt may also end without a record and without a crash: its process crashed before it had written it.
    """
    monitor, stopping = study_run.monitor, study_run.stop.requested
    store, retries = Store(study_run.folder), []
    recorded = store.statuses()
    missing = [planned for planned in attempts if recorded.get(planned.job.key, (None, 0))[1] < planned.attempt]
    if missing:
        store.finish((planned.job.key, planned.attempt) for planned in missing)
        recorded = store.statuses()
    for planned in attempts:
        key = planned.job.key
        status, newest = recorded.get(key, (None, 0))
        if newest >= planned.attempt:
            if key in crashes and status is Status.FAILED:  # it wrote its record and then lost its device
                study_run.mark_failed(key, error_line(crashes[key]))
            continue
        if key not in crashes:
            # During a stop, a job without a record was not started; nothing is wrong with it.
            if not stopping:
                num_crashes[key] = num_crashes.get(key, 0) + 1
                if num_crashes[key] < MAX_CRASHES:
                    # With the same attempt number, since nothing of the attempt was recorded.
                    retries.append(planned)
                else:
                    logger.warning("%s (%s) ended without a record; run again to repair", key, planned.job.label)
            continue
        now = datetime.now(UTC)
        error = f"{crashes[key].rstrip()}\n{crash_cause(crashes[key])}"
        # The crashed process took its start time and device with it.
        store.write(
            make_record(
                planned,
                study=study_run.plan.spec.name,
                status=Status.INTERRUPTED if stopping else Status.FAILED,
                started_at=now,
                wall_s=0.0,
                device="unknown",
                num_workers=planned.resources.workers,
                error=error,
            ),
            [],
            [],
        )
        num_crashes[key] = num_crashes.get(key, 0) + 1
        if stopping:
            monitor.end(key, Status.INTERRUPTED)
        elif num_crashes[key] < MAX_CRASHES:
            run = f"{key} ({planned.job.label})"
            logger.warning("%s; it resumes from its checkpoint", describe_crash(crashes[key], run=run))
            retries.append(replace(planned, attempt=planned.attempt + 1))
        else:
            study_run.mark_failed(key, f"{crash_cause(crashes[key])}, {MAX_CRASHES} times")
    return retries
