"""Makes the row of one attempt in the `runs` table."""

from datetime import UTC, datetime

import torch

from pruneyard.orchestrator.artifacts.writer import code_version
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.spec.run_key import canonical
from pruneyard.reports.records import RunRecord, Status
from pruneyard.workloads.workload import Outcome


def make_record(
    planned: PlannedAttempt,
    *,
    study: str,
    status: Status,
    started_at: datetime,
    wall_s: float,
    device: str,
    num_workers: int,
    trial_id: str | None = None,
    error: str | None = None,
    outcome: Outcome | None = None,
    peak_memory_bytes: int | None = None,
    artifact: str | None = None,
    data_fingerprint: str | None = None,
) -> RunRecord:
    """Returns the row of one attempt; `outcome` is None for an attempt that did not complete."""
    job = planned.job
    return RunRecord(
        run_key=job.key,
        study=study,
        stage=job.stage,
        kind=job.kind,
        trial_id=trial_id,
        attempt=planned.attempt,
        parent_key=",".join(job.parents) or None,
        status=status,
        error=error,
        seed=job.workload.seed,
        **job.described,
        spec_json=canonical(job.resolved),
        identity_json=canonical(job.identity),
        data_fingerprint=data_fingerprint,
        data_read=canonical(planned.data_read) if planned.data_read else None,
        started_at=started_at,
        ended_at=datetime.now(UTC),
        wall_s=wall_s,
        train_s=outcome.train_s if outcome else None,
        device=device,
        num_workers=num_workers,
        train_flops=outcome.train_flops if outcome else None,
        num_parameters=outcome.num_parameters if outcome else None,
        num_active=outcome.num_active if outcome else None,
        peak_memory_bytes=peak_memory_bytes,
        code_version=code_version(),
        torch_version=str(torch.__version__),
        artifact=artifact,
    )
