"""Runs functions as jobs in this process, and looks at what they reported."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.function.job import FunctionJob
from pruneyard.workloads.user_code.registration import register
from pruneyard.workloads.workload import Context, InterruptedJobError, Progress


def job_of(function: Callable[..., Any], **fields: Any) -> FunctionJob:
    return FunctionJob(function=register(function), **fields)


def run(job: FunctionJob, folder: Path, *, pause: bool = False) -> list[Progress]:
    """Runs a job to its end; with `pause`, it stops after each report and resumes."""
    context = Context(checkpoints=CheckpointFolder(folder), should_pause=lambda: pause)
    found: list[Progress] = []
    while True:
        try:
            found = []
            for progress in job.run(context):
                found.append(progress)
            return found
        except InterruptedJobError:
            continue


def numbers(progress: list[Progress]) -> list[tuple[int, str, str, float]]:
    return [(m.step, m.split, m.name, m.value) for p in progress for m in p.metrics]


def fails(
    function: Callable[..., Any], folder: Path, error: type[Exception], words: str, **fields: Any
) -> None:
    with pytest.raises(error, match=words):
        run(job_of(function, **fields), folder)
    assert not function_threads()


def function_threads() -> list[str]:
    """Returns the names of threads in which functions still run, after they had half a minute to end."""
    threads = [thread for thread in threading.enumerate() if thread.daemon and thread.name.startswith("function ")]
    for thread in threads:
        thread.join(30.0)
    return [thread.name for thread in threads if thread.is_alive()]
