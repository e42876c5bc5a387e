"""Writes a study as event files of TensorBoard: scalars, and hyperparameters for its HParams tab."""

from __future__ import annotations

import importlib
from pathlib import Path

from pruneyard.reports.study import Study
from pruneyard.reports.trackers.tracked_runs import TrackedRun, tracked_runs


def write(study: Study, out: Path) -> int:
    """Writes one folder of events for every run to `out`, named by run key; returns the number of runs.

    Read it with `tensorboard --logdir OUT`. Raises `ImportError` without the package tensorboard.
    """
    hparams = importlib.import_module("tensorboard.plugins.hparams.summary_v2")
    events = importlib.import_module("tensorboard.compat.proto.event_pb2")
    summaries = importlib.import_module("tensorboard.compat.proto.summary_pb2")
    writers = importlib.import_module("tensorboard.summary.writer.event_file_writer")
    num = 0
    for run in tracked_runs(study):
        num += 1
        writer = writers.EventFileWriter(str(out / run.key))
        begun = run.started_at.timestamp()
        writer.add_event(events.Event(wall_time=begun, step=0, summary=hparams.hparams_pb(_parameters(run), run.key, begun)))
        for point in run.points:
            value = summaries.Summary.Value(tag=point.metric, simple_value=point.value)
            summary = summaries.Summary(value=[value])
            writer.add_event(events.Event(wall_time=point.at.timestamp(), step=point.step, summary=summary))
        writer.close()
    return num


def _parameters(run: TrackedRun) -> dict[str, bool | float | str]:
    """Returns the parameters with values that the HParams tab can show."""
    shown = {**run.parameters, "setting": run.setting, "status": run.status}
    return {
        key: value if isinstance(value, bool | str) else float(value) if isinstance(value, int | float) else str(value)
        for key, value in shown.items()
    }
