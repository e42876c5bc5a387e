"""Writes a study as offline runs of Weights & Biases, which `wandb sync` uploads."""

from __future__ import annotations

import importlib
from itertools import groupby
from pathlib import Path

from pruneyard.reports.records import Status
from pruneyard.reports.study import Study
from pruneyard.reports.trackers.tracked_runs import tracked_runs


def write(study: Study, out: Path) -> int:
    """Writes every run to a folder `wandb/offline-run-...` below `out`; returns the number of runs. No network is used.

    Upload them with `wandb sync OUT/wandb/offline-run-*`. Raises `ImportError` without the package wandb.
    """
    wandb = importlib.import_module("wandb")
    out.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True, disable_git=True)
    num = 0
    for run in tracked_runs(study):
        num += 1
        written = wandb.init(
            mode="offline",
            dir=str(out),
            project=run.study,
            id=run.key,
            name=run.name,
            group=run.setting,
            config={**run.parameters, **run.tags, "status": run.status},
            settings=settings,
        )
        ordered = sorted(run.points, key=lambda point: point.step)
        for step, points in groupby(ordered, key=lambda point: point.step):
            at_step = list(points)
            written.log({point.metric: point.value for point in at_step} | {"_timestamp": at_step[0].at.timestamp()}, step=step)
        written.finish(exit_code=0 if run.status in (Status.COMPLETED, Status.PRUNED) else 1)
    wandb.teardown()  # ends the process in which the client writes its files
    return num
