"""Rules that every kind of job must keep. Its class names specs to test in `examples`: tables without name, kind and seeds.

An example that reads earlier runs has `from: runs`; the suite trains two networks for it.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pruneyard.orchestrator.artifacts.parents import locate_upstream
from pruneyard.orchestrator.artifacts.reader import open_checkpoints, open_run
from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.workloads import workload
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.dataset import Source
from pruneyard.workloads.plugins import find_job, kinds
from pruneyard.workloads.workload import Context, InterruptedJobError, Metric, Outcome, Progress

FAMILY = "kinds"
EARLIER = {"from": "runs"}  # in an example: the runs of the fixture `earlier`

pytestmark = pytest.mark.parametrize("name", kinds())

JobsOf = Callable[..., list[Job]]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Returns a function that returns the folder of two finished trainings, made when it is first called."""

    @cache
    def trained() -> Path:
        folder = tmp_path_factory.mktemp("earlier") / "runs"
        spec = {**find_job("sparse").examples[0], "name": "runs", "kind": "sparse", "seeds": 2}
        results = run(spec, folder, local=True)
        assert results.exit_code == 0, results.runs()["error"].tolist()
        return folder

    return trained


@pytest.fixture
def jobs_of(earlier: Callable[[], Path]) -> JobsOf:
    """Returns a function that returns a job of each example of a kind and each seed."""

    def jobs(name: str, *, seeds: Sequence[int] = (0,)) -> list[Job]:
        cls = find_job(name)
        examples = getattr(cls, "examples", ())
        assert examples, f"{cls.__name__} has no example; name tables of a spec to test in its class attribute `examples`"
        return list(made(name, [with_runs(tables, earlier) for tables in examples], seeds))

    return jobs


def made(name: str, examples: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> Iterator[Job]:
    for tables in examples:
        for job in load_spec({**tables, "name": "example", "kind": name, "seeds": [*seeds]}).jobs:
            yield dataclasses.replace(job, workload=locate_upstream(job.workload, RunFolder(Path("no-other-runs"))))


def with_runs(value: Any, earlier: Callable[[], Path]) -> Any:
    """Returns the tables of an example with the folder of the earlier runs in place of the word `runs`."""
    if not isinstance(value, Mapping):
        return value
    folder = {"from": str(earlier())} if EARLIER.items() <= value.items() else {}
    return {key: with_runs(item, earlier) for key, item in value.items()} | folder


@cache
def load(source: Source) -> Any:
    return source.load()


def data_of(job: Job) -> Any:
    source = getattr(job.workload, "data", None)
    return None if source is None else load(source)


def finish(job: Job, folder: Path, *, pause: bool = False, stop: bool = False) -> list[Progress]:
    """Returns all progress of a job.

    pause, stop: it pauses after each evaluation, or stops once when it first asks, and resumes from its checkpoint.
    """
    found: list[Progress] = []
    asked = [stop]
    while True:
        context = Context(
            checkpoints=CheckpointFolder(folder),
            load_data=load,
            open_run=open_run,
            open_checkpoints=open_checkpoints,
            should_pause=lambda: pause,
            should_stop=lambda: asked[0],
        )
        try:
            found += job.workload.run(context)
            return found
        except InterruptedJobError:
            asked[0] = False


def metrics_of(progress: Sequence[Progress]) -> set[tuple[int, str, str, float]]:
    """Returns the metrics of a job but for those that measure time."""
    metrics: list[Metric] = [metric for part in progress for metric in part.metrics]
    return {(metric.step, metric.split, metric.name, metric.value) for metric in metrics if not metric.name.endswith("_s")}


def outcome_of(progress: Sequence[Progress]) -> Outcome:
    assert progress, "a job must yield its progress at least once"
    *earlier, last = progress
    assert all(part.outcome is None for part in earlier), "only the last progress may have an outcome"
    assert last.outcome is not None, "the last progress must have an outcome"
    return last.outcome


def assert_equal_outcomes(outcome: Outcome, expected: Outcome) -> None:
    for tensors, others in ((outcome.weights, expected.weights), (outcome.masks, expected.masks)):
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensor, others[key]) for key, tensor in tensors.items())
    assert outcome.predictions.keys() == expected.predictions.keys()
    for split, predictions in outcome.predictions.items():
        np.testing.assert_array_equal(predictions.logits, expected.predictions[split].logits)
    assert outcome.files == expected.files


def test_is_a_frozen_dataclass_with_a_seed(name: str) -> None:
    cls = find_job(name)
    assert dataclasses.is_dataclass(cls)
    assert getattr(vars(cls)["__dataclass_params__"], "frozen", False), "the dataclass must have `frozen=True`"
    fields = {field.name: field for field in dataclasses.fields(cls)}
    assert all(field.kw_only for field in fields.values()), "the dataclass must have `kw_only=True`"
    assert fields["seed"].default == 0


def test_the_seed_and_nothing_of_the_process_enters_run_keys(name: str, jobs_of: JobsOf) -> None:
    jobs = jobs_of(name, seeds=(0, 1))
    assert len({job.key for job in jobs}) == len(jobs)
    assert [job.key for job in jobs_of(name, seeds=(0, 1))] == [job.key for job in jobs]


def test_the_check_and_the_estimate_need_no_run(name: str, jobs_of: JobsOf) -> None:
    for job in jobs_of(name):
        warnings = job.workload.check(data_of(job))
        assert all(isinstance(warning, str) for warning in warnings)
        flops, num_steps = job.workload.expected_work(data_of(job))
        assert math.isfinite(flops) and flops >= 0  # noqa: PT018
        assert num_steps == int(num_steps) >= 0


def test_progress_has_finite_metrics_at_ascending_steps_and_ends_with_an_outcome(
    name: str, jobs_of: JobsOf, tmp_path: Path
) -> None:
    for place, job in enumerate(jobs_of(name)):
        progress = finish(job, tmp_path / str(place))
        outcome = outcome_of(progress)
        steps = [part.step for part in progress]
        assert steps == sorted(steps)
        assert steps[-1] == progress[-1].num_steps, "the last progress must be at the last step"
        metrics = metrics_of(progress)
        assert metrics or outcome.files, "a job must report a metric or leave a file"
        assert all(math.isfinite(value) for *_, value in metrics)
        assert outcome.masks.keys() <= outcome.weights.keys()
        for split, predictions in outcome.predictions.items():
            num_rows = len(predictions.labels)
            assert len(predictions.logits) == len(predictions.row_ids) == num_rows, split
            assert np.isfinite(predictions.logits).all(), split


def test_a_paused_or_stopped_job_ends_as_an_undisturbed_one(
    name: str, jobs_of: JobsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that pauses after each evaluation, or stops when it first asks, resumes bit-equal: it depends on its seed alone."""
    monkeypatch.setattr(workload, "STOP_CHECK_EVERY_S", 0.0)  # short jobs would end before they ask
    for place, job in enumerate(jobs_of(name)):
        whole = finish(job, tmp_path / f"whole{place}")
        for way in ("pause", "stop"):
            disturbed = finish(job, tmp_path / f"{way}{place}", **{way: True})
            assert metrics_of(disturbed) == metrics_of(whole), way
            assert_equal_outcomes(outcome_of(disturbed), outcome_of(whole))
