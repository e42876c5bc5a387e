"""Crashed processes: which ends count as crashes, which as out of memory, and the effect of a job that crashes for good."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError

from pruneyard.orchestrator.driver import run as population
from pruneyard.orchestrator.driver.retries import MAX_CRASHES
from pruneyard.orchestrator.errors import RankDiedError, RankFailedError
from pruneyard.orchestrator.execution.attempt_runner import AttemptRunner
from pruneyard.orchestrator.execution.crash_reason import crash_cause, is_oom_kill
from pruneyard.orchestrator.execution.report import Report
from pruneyard.orchestrator.ray_backend.train_workers import TrainWorkers
from pruneyard.orchestrator.spec.job import Resources
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

OF_RAY = "1 worker(s) were killed due to the node running low on memory"
OF_TORCH = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
SPEC: dict[str, Any] = {
    "name": "dying",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 100, "max_test": 50},
    "model": {"name": "mlp", "width": 8, "depth": 1},
    "method": {"name": "static", "density": 0.5},
    "budget": {"steps": 2, "batch_size": 16},
}
STAGES = {"name": "dying", "stages": {"first": SPEC, "second": {**SPEC, "seeds": [5]}}}


def test_a_full_gpu_is_no_node_that_ran_low() -> None:
    assert is_oom_kill(OF_RAY)
    assert not is_oom_kill(OF_TORCH)
    assert crash_cause(OF_TORCH) == "the process of this trial died"


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OutOfMemoryError(OF_RAY), RankDiedError),  # which Ray takes for no actor's error
        (ActorDiedError(), RankDiedError),
        (ValueError("something else"), RankFailedError),
    ],
    ids=["memory", "actor", "other"],
)
def test_ranks_that_the_memory_monitor_killed_have_crashed(
    error: Exception, raised: type[Exception], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    ranks = TrainWorkers(resources=Resources(workers=2), shared_file=folder.plan, data={}, folder=folder)
    with pytest.raises(raised) as caught:
        ranks._raise_train_error(error)
    assert is_oom_kill(str(caught.value)) is isinstance(error, OutOfMemoryError)


def test_the_timer_of_one_job_does_not_end_ranks_that_are_kept_after_the_next(tmp_path: Path) -> None:
    folder, ended = RunFolder(tmp_path), list[str]()
    workers = TrainWorkers(resources=Resources(workers=2), shared_file=folder.plan, data={}, folder=folder)
    group: Any = SimpleNamespace(end=lambda: ended.append("ended"))
    workers._keep(group)
    first = workers._idle_timer
    assert first is not None
    assert workers._take_idle() is group
    assert first.finished.is_set(), "the timer was not cancelled"
    workers._keep(group)
    assert workers._take_idle() is group
    assert not ended


@pytest.mark.parametrize("fail_fast", [True, False])
def test_a_job_lost_for_good_stops_the_others_where_one_failure_is_to(
    fail_fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths: list[str] = []
    advance = AttemptRunner.advance

    def deadly(runner: AttemptRunner) -> Report:
        """Ends the process of the first stage's job whenever the job is run."""
        if runner.planned.job.stage == "first":
            deaths.append(runner.planned.job.key)
            raise RankDiedError("gone")
        return advance(runner)

    monkeypatch.setattr(AttemptRunner, "advance", deadly)
    population.run(STAGES, tmp_path, local=True, fail_fast=fail_fast)
    assert len(deaths) == MAX_CRASHES
    stages = Store(RunFolder(tmp_path)).runs(latest=False).to_pandas()["stage"].tolist()
    assert stages.count("first") == MAX_CRASHES
    assert stages.count("second") == (0 if fail_fast else 1)
