"""Observes a study through its folder of results, while it runs or after it was stopped."""

from pathlib import Path

import pandas as pd
from driving import Driver
from yaml_spec import NUM_STEPS

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store


def count(folder: Path, status: Status) -> int:
    """Returns the number of runs whose newest attempt has that status."""
    return sum(found is status for found, _ in Store(RunFolder(folder)).statuses().values())


def completed(folder: Path) -> dict[str, int]:
    """Returns the newest attempt of every finished run, by run key."""
    statuses = Store(RunFolder(folder)).statuses()
    return {key: attempt for key, (status, attempt) in statuses.items() if status is Status.COMPLETED}


def checkpoints(folder: Path) -> set[Path]:
    """Returns the checkpoints of all runs."""
    return set(folder.glob("artifacts/*/checkpoints/step-*"))


def step_of(checkpoint: Path) -> int:
    """Returns the step at which a checkpoint was saved."""
    return int(checkpoint.name.removeprefix("step-"))


def with_two_checkpoints(folder: Path) -> set[str]:
    """Returns unfinished runs that can lose their newest checkpoint and still resume."""
    keys = [path.parent.parent.name for path in checkpoints(folder)]
    return {key for key in keys if keys.count(key) >= 2} - completed(folder).keys()


def runs_in_progress(folder: Path, *, exclude: set[Path] | None = None) -> set[str]:
    """Returns unfinished runs with a checkpoint that is not in `exclude` and far from the last step."""
    new = {path for path in checkpoints(folder) - (exclude or set()) if step_of(path) < NUM_STEPS * 0.6}
    return {path.parent.parent.name for path in new} - completed(folder).keys()


def wait_for_new_checkpoint(driver: Driver, folder: Path) -> None:
    """Waits until an unfinished run saves a checkpoint that is far from its last step."""
    before = checkpoints(folder)
    driver.wait_until(lambda: bool(runs_in_progress(folder, exclude=before)), within_s=300)


def wait_for_progress(driver: Driver, folder: Path) -> None:
    """Waits until a run saves a checkpoint, however near its last step; slow steps must leave time for what follows."""
    before = checkpoints(folder)
    driver.wait_until(lambda: bool(checkpoints(folder) - before), within_s=300)


def max_concurrent(runs: pd.DataFrame) -> int:
    """Returns the largest number of runs that were between `started_at` and `ended_at` at the same time."""
    started = [(time, 1) for time in runs["started_at"]]
    ended = [(time, -1) for time in runs["ended_at"]]
    largest = current = 0
    for _, change in sorted([*started, *ended]):
        current += change
        largest = max(largest, current)
    return largest
