"""Makes the last report of a function's job: what it returned, and what follows from the outputs that it saved."""

from collections.abc import Mapping
from typing import Any

import torch

from pruneyard.workloads.function.function_run import FunctionRun
from pruneyard.workloads.function.metric_values import MetricError, metric_values
from pruneyard.workloads.function.predicted import metrics_of, reliability_points
from pruneyard.workloads.workload import Metric, Outcome, Progress


def last_progress(run: FunctionRun, returned: Any, *, name: str) -> Progress:
    """Returns the last report, with the outcome.

    returned: a table of metrics, or None. They belong to the last step that was reported, else to step 1.

    Raises `MetricError` if the function returned anything else, or no metric is known of the run; `NonFiniteError` for NaN.
    """
    if returned is not None and not isinstance(returned, Mapping):
        raise MetricError(
            f"{name} returned a {type(returned).__name__}; it must return a table of metrics, such as {{'accuracy': 0.9}}, or "
            "nothing"
        )
    values = metric_values(returned or {}, place="in what it returned")
    reported = run.reported()
    computed = {key: value for key, value in metrics_of(run.predictions).items() if key not in reported}
    # What was reported at this step and is returned again stands in the table once.
    final = {key: value for key, value in (computed | values).items() if reported.get(key) != value}
    if not final and not reported:
        raise MetricError(
            f"{name} ended without a metric; it must call context.report, return a table of metrics, or both"
        )
    step = run.step if reported else max(1, run.step)
    epoch = run.epoch if reported else float(step)
    rows = [
        Metric(step=step, epoch=epoch, split=split, name=metric, value=value, wall_s=run.seconds)
        for (split, metric), value in final.items()
    ]
    return Progress(
        step=step,
        num_steps=max(1, step),
        metrics=(*run.take_unreported(), *rows),
        curves=tuple(reliability_points(run.predictions, step=step)),
        outcome=Outcome(
            predictions=run.predictions,
            weights={},
            masks={},
            num_parameters=None,
            num_active=None,
            train_flops=None,
            train_s=run.seconds,
            peak_memory_bytes=torch.cuda.max_memory_allocated(run.device)
            if run.device.type == "cuda"
            else None,
            files=run.files(),
        ),
    )
