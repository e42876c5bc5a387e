"""Observes a study through its folder of results, while it runs or after it was stopped."""

from pathlib import Path

import pandas as pd
from driving import Driver
from yaml_spec import NUM_STEPS

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store


def count(folder: Path, status: Status) -> int:
    """Runs whose newest attempt ended so."""
    return sum(found is status for found, _ in Store(RunFolder(folder)).statuses().values())


def completed(folder: Path) -> dict[str, int]:
    """Attempt of every finished run."""
    statuses = Store(RunFolder(folder)).statuses()
    return {key: attempt for key, (status, attempt) in statuses.items() if status is Status.COMPLETED}


def checkpoints(folder: Path) -> set[Path]:
    """Of all runs."""
    return set(folder.glob("artifacts/*/checkpoints/step-*"))


def step_of(checkpoint: Path) -> int:
    """The step at which it was taken."""
    return int(checkpoint.name.removeprefix("step-"))


def with_two_checkpoints(folder: Path) -> set[str]:
    """Unfinished runs that may lose their newest checkpoint."""
    keys = [path.parent.parent.name for path in checkpoints(folder)]
    return {key for key in keys if keys.count(key) >= 2} - completed(folder).keys()


def in_the_middle(folder: Path, *, besides: set[Path] | None = None) -> set[str]:
    """Unfinished runs with a checkpoint that is not among `besides` and far from the last step."""
    fresh = {path for path in checkpoints(folder) - (besides or set()) if step_of(path) < NUM_STEPS * 0.6}
    return {path.parent.parent.name for path in fresh} - completed(folder).keys()


def meet(driver: Driver, folder: Path) -> None:
    """Until an unfinished run has a checkpoint that was not there at the call, far from its last step."""
    before = checkpoints(folder)
    driver.wait_until(lambda: bool(in_the_middle(folder, besides=before)), within_s=120)


def at_once(runs: pd.DataFrame) -> int:
    """The most runs that were between `started_at` and `ended_at` together."""
    begun = [(at, 1) for at in runs["started_at"]]
    ended = [(at, -1) for at in runs["ended_at"]]
    most = now = 0
    for _, change in sorted([*begun, *ended]):
        now += change
        most = max(most, now)
    return most
