"""Writes a study as runs of MLflow in a folder, as `mlflow ui` reads it."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from pruneyard.reports.records import Status
from pruneyard.reports.study import Study
from pruneyard.reports.trackers.tracked_runs import TrackedRun, tracked_runs

_STATUS = {Status.COMPLETED: "FINISHED", Status.FAILED: "FAILED"}
_KILLED = "KILLED"
_BATCH = 1000  # metrics that MLflow takes at once; of parameters and tags it takes 100
_MAX_PARAMETERS, _MAX_TEXT = 100, 6000


def write(study: Study, out: Path) -> int:
    """Writes every run to an experiment named as its study, in the file store `out`; returns the number of runs.

    Read it with `mlflow ui --backend-store-uri OUT`. Raises `ImportError` without the package mlflow, or mlflow-skinny.
    """
    # The client announces what it does on stderr, and asks before it writes to folders in place of databases.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = importlib.import_module("mlflow")
    entities = importlib.import_module("mlflow.entities")
    client = mlflow.MlflowClient(tracking_uri=out.resolve().as_uri())
    num = 0
    for run in tracked_runs(study):
        num += 1
        known = client.get_experiment_by_name(run.study)
        experiment = known.experiment_id if known else client.create_experiment(run.study)
        _write_run(client, entities, run, experiment)
    return num


def _write_run(client: Any, entities: Any, run: TrackedRun, experiment: str) -> None:
    tags = {**run.tags, "pruneyard.setting": run.setting, "pruneyard.status": run.status}
    begun = int(run.started_at.timestamp() * 1000)
    run_id = client.create_run(experiment, start_time=begun, tags=tags, run_name=run.name).info.run_id
    parameters = [entities.Param(key, str(value)[:_MAX_TEXT]) for key, value in run.parameters.items()]
    for place in range(0, len(parameters), _MAX_PARAMETERS):
        client.log_batch(run_id, params=parameters[place : place + _MAX_PARAMETERS])
    metrics = [entities.Metric(p.metric, p.value, int(p.at.timestamp() * 1000), p.step) for p in run.points]
    for place in range(0, len(metrics), _BATCH):
        client.log_batch(run_id, metrics=metrics[place : place + _BATCH])
    client.set_terminated(run_id, status=_STATUS.get(Status(run.status), _KILLED), end_time=int(run.ended_at.timestamp() * 1000))
