"""The cost that `plan` prints for remaining work: several workers, segments, and later proposals."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from in_process_command import Pruneyard

from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.planning.cost import estimate, job_costs
from pruneyard.orchestrator.search.proposals import load_search
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.training import step_time
from pruneyard.workloads.workload import Context

BASE: dict[str, Any] = {
    "name": "costs",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 200, "max_test": 50},
    "model": {"name": "mlp", "width": 16, "depth": 1},
    "method": {"name": "static", "density": 0.5},
    "budget": {"steps": 40, "batch_size": 16},
    "resources": {"cpus": 1},
}
BRED = {
    "search": {
        "name": "pbt",
        "max_trials": 3,
        "generations": 4,
        "metric": "val/nll",
        "mode": "min",
        "space": {"optimizer.lr": {"low": 1.0e-4, "high": 1.0, "log": True}},
    },
    "seeds": 2,
}


@pytest.fixture
def flops(pruneyard: Pruneyard, tmp_path: Path) -> Any:
    """Returns the FLOPs of the remaining work in `out`, under the base spec with changes."""

    def left(**changes: Any) -> float:
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(BASE | changes))
        plan = json.loads(pruneyard("plan", "spec.yaml", "--out", "out", "--json").out)
        found: float = plan["estimate"]["dense_flops"]
        return found

    return left


def test_workers_of_one_job_share_its_arithmetic(
    flops: Any, pruneyard: Pruneyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pruneyard.orchestrator.planning.cost._flops_per_s", lambda: 1e6)
    monkeypatch.setattr("pruneyard.orchestrator.planning.cost.STEP_OVERHEAD_S", 0.0)
    monkeypatch.setattr("pruneyard.orchestrator.planning.cost.MEASURE_S", 0.0)
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    found = []
    for workers in (1, 2):
        flops(resources={"cpus": 1, "workers": workers})
        found.append(json.loads(pruneyard("plan", "spec.yaml", "--json").out)["estimate"])
    assert [cost["slots"] for cost in found] == [2, 1]
    assert found[1]["dense_flops"] == found[0]["dense_flops"]
    assert found[1]["seconds"] == pytest.approx(found[0]["seconds"] / 2)


def test_what_a_search_has_not_proposed_yet_is_named(flops: Any, pruneyard: Pruneyard) -> None:
    whole = flops()
    assert flops(**BRED) == 0
    result = pruneyard("plan", "spec.yaml", "--out", "out")
    assert "its search proposes up to 12 more settings while it runs; they are not counted here" in result.out
    (stage,) = load_spec(BASE | BRED).stages
    assert stage.learning is not None
    Path("out").mkdir()
    assert load_search(stage.learning, RunFolder(Path("out"))).propose()
    assert flops(**BRED) == pytest.approx(3 * 2 * whole / 4)  # members, seeds, the first of four parts
    plan = json.loads(pruneyard("plan", "spec.yaml", "--out", "out", "--json").out)
    assert plan["to_be_proposed"] == {"": 9}


def test_only_the_remaining_part_of_a_resumed_training_counts(flops: Any, tmp_path: Path) -> None:
    assert run(BASE | BRED, tmp_path / "bred", local=True).exit_code == 0
    (stage,) = load_spec(BASE | BRED).stages
    assert stage.learning is not None
    jobs = load_search(stage.learning, RunFolder(tmp_path / "bred")).jobs()
    assert any(job.workload.segment.runs for job in jobs)
    source = jobs[0].workload.data
    data = {source: source.load()}
    cost = estimate(jobs, data, slots=1, workers={None: 1}, known=jobs)
    assert cost.dense_flops == pytest.approx(len(jobs) * flops() / 4)


def test_a_scheduler_that_stops_early_makes_it_a_bound(flops: Any, pruneyard: Pruneyard) -> None:
    flops()
    assert "left: at most" not in pruneyard("plan", "spec.yaml").out
    flops(scheduler={"name": "asha", "metric": "val/nll", "mode": "min"})
    assert "left: at most" in pruneyard("plan", "spec.yaml").out


def test_the_cpus_that_this_process_may_use_are_counted_not_those_of_the_machine(flops: Any, pruneyard: Pruneyard) -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        flops()
        plan = json.loads(pruneyard("plan", "spec.yaml", "--out", "out", "--json").out)
    finally:
        os.sched_setaffinity(0, allowed)
    assert plan["estimate"]["slots"] == 1


DEEP = {
    "model": {"name": "resnet20"},
    "method": {"name": "dense"},
    "budget": {"steps": 20, "batch_size": 4, "evaluate_every": 20},
}


def test_the_time_of_a_deep_network_on_small_batches_is_measured_not_counted(tmp_path: Path) -> None:
    (job,) = load_spec(BASE | DEEP).jobs
    source = job.workload.data
    data = {source: source.load()}
    expected = estimate([job], data, slots=1, workers={None: 1}, known=[job]).seconds
    counted = job_costs([job], data, workers={None: 1}, known=[job])[job.key].seconds
    started = time.process_time()
    list(job.workload.run(Context(checkpoints=CheckpointFolder(tmp_path), load_data=data.__getitem__)))
    taken = time.process_time() - started
    assert taken / 5 < expected < 2 * taken  # evaluation and the start of the training are not counted
    assert expected > 2 * counted


def test_a_network_that_is_too_large_to_be_tried_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = load_spec(BASE | DEEP | {"seeds": [7]}).jobs
    source = job.workload.data
    data = {source: source.load()}
    step_time.seconds_per_step.cache_clear()
    monkeypatch.setattr(step_time, "MAX_PARAMETERS", 1000)
    counted = job_costs([job], data, workers={None: 1}, known=[job])[job.key].seconds
    assert estimate([job], data, slots=1, workers={None: 1}, known=[job]).seconds == counted
    step_time.seconds_per_step.cache_clear()


def test_a_plan_times_networks_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = load_spec(BASE | {"grid": {"model.width": [8, 16]}}).jobs
    source = jobs[0].workload.data
    data = {source: source.load()}
    counted = job_costs(jobs, data, workers={None: 1}, known=jobs)

    def estimated() -> float:
        found: float = estimate(jobs, data, slots=1, workers={None: 1}, known=jobs).seconds
        return found

    assert estimated() != sum(cost.seconds for cost in counted.values())
    monkeypatch.setattr("pruneyard.orchestrator.planning.cost.MEASURE_S", 0.0)
    assert estimated() == pytest.approx(sum(cost.seconds for cost in counted.values()))
