"""Schedulers: which configurations they stop, by which values, and equal decisions in a later call."""

from pathlib import Path
from typing import Any

import pytest

from pruneyard.orchestrator.coordination.journal import Journal
from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.early_stopping.asha_median import EarlyStopper
from pruneyard.orchestrator.errors import SpecError
from pruneyard.orchestrator.planning.plan import make_plan
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.orchestrator.spec.scheduler import Scheduler
from pruneyard.orchestrator.spec.yaml_document import parse_value
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.testing.cases import each_case

ASHA = {"name": "asha", "metric": "val/accuracy", "mode": "max", "grace": 0.25, "reduction_factor": 2.0}
BASE: dict[str, Any] = {
    "name": "halved",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 200, "max_test": 50},
    "model": {"name": "mlp", "width": 16, "depth": 1},
    "method": {"name": "set", "density": 0.5},
    "budget": {"epochs": 8, "batch_size": 16},
    "seeds": 2,
    "grid": {"optimizer.lr": [0.2, 0.1, 1.0e-6, 1.0e-7]},
    "scheduler": ASHA,
}


def make_early_stopper(
    folder: Path, *, scheduler: Scheduler, seeds: int = 1, number: int = 8
) -> tuple[EarlyStopper, list[list[str]]]:
    """Returns an early stopper, and the run keys of each configuration."""
    spec = load_spec(
        {**BASE, "seeds": seeds, "grid": {"optimizer.lr": [(place + 1) / 100 for place in range(number)]}}
    )
    keys = [job.key for job in spec.jobs]
    return EarlyStopper(scheduler, spec.jobs, Journal(folder / "j.jsonl")), [
        keys[i : i + seeds] for i in range(0, len(keys), seeds)
    ]


def test_asha_keeps_the_best_of_those_that_came_as_far(tmp_path: Path) -> None:
    """Worked by hand: with a factor of 2, the best max(1, n // 2) of n values reported at a rung continue."""
    judge, groups = make_early_stopper(tmp_path, scheduler=Scheduler(**ASHA))  # type: ignore[arg-type]
    values = [0.5, 0.4, 0.6, 0.55, 0.3, 0.7]
    stopped = [
        judge.on_result(key, share=0.25, value=value) for (key,), value in zip(groups, values, strict=False)
    ]
    assert stopped == [False, True, False, False, True, False]
    assert not judge.on_result(groups[0][0], share=0.375, value=0.0), "0.375 is no rung"
    assert not judge.on_result(groups[0][0], share=0.5, value=0.1), "the first at a rung continues"
    assert judge.on_result(groups[2][0], share=0.5, value=0.05)


def test_the_smaller_is_better_where_the_spec_says_so(tmp_path: Path) -> None:
    scheduler = Scheduler(**{**ASHA, "metric": "val/nll", "mode": "min"})  # type: ignore[arg-type]
    judge, groups = make_early_stopper(tmp_path, scheduler=scheduler)
    assert not judge.on_result(groups[0][0], share=0.25, value=1.0)
    assert judge.on_result(groups[1][0], share=0.25, value=2.0)
    assert not judge.on_result(groups[2][0], share=0.25, value=0.5)
    assert judge.on_result(groups[3][0], share=0.25, value=float("nan")), "what is no number is worst"


def test_seeds_are_stopped_together_by_their_mean_or_not_at_all(tmp_path: Path) -> None:
    judge, groups = make_early_stopper(tmp_path, scheduler=Scheduler(**ASHA), seeds=2)  # type: ignore[arg-type]
    for key in groups[0]:
        assert not judge.on_result(key, share=0.25, value=0.5)
    lucky, unlucky = groups[1]
    assert not judge.on_result(unlucky, share=0.25, value=0.0), "the other seed has not come as far"
    assert not judge.on_result(lucky, share=0.25, value=1.0 + 1e-6), "the mean is above 0.5"
    first, second = groups[2]
    assert not judge.on_result(first, share=0.25, value=0.9)
    assert judge.on_result(second, share=0.25, value=0.0)
    assert judge.is_stopped(first)


def test_a_seed_that_failed_holds_up_no_decision(tmp_path: Path) -> None:
    judge, groups = make_early_stopper(tmp_path, scheduler=Scheduler(**ASHA), seeds=2)  # type: ignore[arg-type]
    for key in groups[0]:
        judge.on_result(key, share=0.25, value=0.5)
    assert not judge.on_result(groups[1][0], share=0.25, value=0.1)
    judge.exclude(groups[1][1])
    assert judge.is_stopped(groups[1][0])


@pytest.mark.parametrize(
    "table", [ASHA, {"name": "median", "metric": "val/accuracy", "grace": 0.25, "min_others": 2}], ids=["asha", "median"]
)
def test_a_later_judge_decides_as_the_first_would_have(table: dict[str, Any], tmp_path: Path) -> None:
    scheduler = Scheduler(**table)
    script = [(place, 0.25, value) for place, value in enumerate([0.5, 0.4, 0.6, 0.55, 0.3, 0.7])]
    script += [(0, 0.5, 0.1), (2, 0.5, 0.05)]
    judge, groups = make_early_stopper(tmp_path / "a", scheduler=scheduler)
    told = [judge.on_result(groups[place][0], share=share, value=value) for place, share, value in script]
    again = []
    for place, share, value in script:  # a new one for every evaluation, as after a kill
        judge, _ = make_early_stopper(tmp_path / "b", scheduler=scheduler)
        if (place, share) != (0, 0.25):
            judge.on_result(groups[0][0], share=0.25, value=-9.0)  # heard before: no change
        again.append(judge.on_result(groups[place][0], share=share, value=value))
    assert again == told
    assert any(told)
    assert not all(told[1:])


def test_a_later_judge_knows_who_had_failed_when_the_others_were_judged(tmp_path: Path) -> None:
    """Two configurations are worse than the first and stop; one of them is compared by its only seed that did not fail."""
    judge, groups = make_early_stopper(tmp_path, scheduler=Scheduler(**ASHA), seeds=2)  # type: ignore[arg-type]
    for key in groups[0]:
        judge.on_result(key, share=0.25, value=0.5)
    judge.on_result(groups[1][0], share=0.25, value=0.1)
    judge.exclude(groups[1][1])
    for key in groups[2]:
        judge.on_result(key, share=0.25, value=0.1)
    later, _ = make_early_stopper(tmp_path, scheduler=Scheduler(**ASHA), seeds=2)  # type: ignore[arg-type]
    stopped = [all(later.is_stopped(key) for key in group) for group in groups[:3]]
    assert stopped == [False, True, True]
    for key in groups[3]:
        later.on_result(key, share=0.25, value=0.45)
    assert not later.is_stopped(groups[3][0]), "two of four stay"


def test_a_job_that_had_failed_and_is_run_again_counts_in_what_is_yet_to_be_decided(tmp_path: Path) -> None:
    judge, groups = make_early_stopper(tmp_path, scheduler=Scheduler(**ASHA), seeds=2)  # type: ignore[arg-type]
    for key in groups[0]:
        judge.on_result(key, share=0.25, value=0.5)
        judge.on_result(key, share=0.5, value=0.5)
    lucky, failed = groups[1]
    judge.exclude(failed)
    assert not judge.on_result(lucky, share=0.25, value=0.6), "it alone is better"
    judge, _ = make_early_stopper(tmp_path, scheduler=Scheduler(**ASHA), seeds=2)  # type: ignore[arg-type]
    judge.include(key for group in groups for key in group)
    assert not judge.on_result(failed, share=0.25, value=0.1), "who went on at a rung is not judged there anew"
    assert not judge.on_result(lucky, share=0.5, value=0.6), "the other one is to come"
    assert judge.on_result(failed, share=0.5, value=0.1)
    judge, _ = make_early_stopper(tmp_path, scheduler=Scheduler(**ASHA), seeds=2)  # type: ignore[arg-type]
    assert judge.is_stopped(lucky)


def test_the_median_rule_needs_other_trials_and_stops_those_below_their_means(tmp_path: Path) -> None:
    scheduler = Scheduler(name="median", metric="val/accuracy", grace=0.2)
    judge, groups = make_early_stopper(tmp_path, scheduler=scheduler)
    keys = [key for (key,) in groups]
    for key, values in zip(keys[:2], ([0.2, 0.6], [0.4, 0.8]), strict=True):  # means 0.4 and 0.6
        assert not any(judge.on_result(key, share=0.2 * (i + 1), value=value) for i, value in enumerate(values))
    assert not judge.on_result(keys[2], share=0.4, value=0.0), "two others are too few"
    assert not judge.on_result(keys[3], share=0.2, value=0.3), (
        "of the others, means 0.2, 0.4; too few at this share or not worse"
    )
    assert judge.on_result(keys[4], share=0.4, value=0.39), "the median of 0.4, 0.6 and 0.0 is 0.4"
    assert not judge.on_result(keys[5], share=0.4, value=0.41)


def test_the_median_rule_waits_where_seeds_have_no_step_in_common(tmp_path: Path) -> None:
    scheduler = Scheduler(name="median", metric="val/accuracy", grace=0.2, min_others=1)
    judge, groups = make_early_stopper(tmp_path, scheduler=scheduler, seeds=2)
    for share in (0.3, 0.6):
        assert not any(judge.on_result(key, share=share, value=0.9) for key in groups[0])
    one, other = groups[1]
    assert not judge.on_result(one, share=0.5, value=0.1)
    assert not judge.on_result(other, share=0.4, value=0.1)
    assert not judge.on_result(one, share=0.6, value=0.1)
    assert judge.on_result(other, share=0.6, value=0.1)


@each_case(
    ("table", "message"),
    [
        ({"name": "asha"}, "metric: is missing"),
        ({"name": "asha", "metric": "test/accuracy"}, "cannot be tested on it"),
        ({"name": "asha", "metric": "val/accuracy", "min_others": 2}, "asha has no use for it"),
        ({"name": "median", "metric": "val/accuracy", "reduction_factor": 2}, "median has no use for it"),
        ({"name": "fifo", "grace": 0.5}, "fifo has no use for it"),
        ({"name": "asha", "metric": "val/accuracy", "grace": 1.5}, r"must lie in \(0, 1\)"),
        ({"name": "pbt", "metric": "val/accuracy"}, "scheduler.name: is"),
    ],
)
def test_what_is_wrong_with_a_scheduler_is_said(table: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_spec({**BASE, "scheduler": table})


def test_a_scheduler_changes_no_run_key_and_is_written_to_the_spec_as_run() -> None:
    spec = load_spec(BASE)
    without = load_spec({name: table for name, table in BASE.items() if name != "scheduler"})
    assert [job.key for job in spec.jobs] == [job.key for job in without.jobs]
    again = load_spec(parse_value(spec.to_yaml()))
    assert again.stages[0].header.scheduler == spec.stages[0].header.scheduler == Scheduler(**ASHA)  # type: ignore[arg-type]
    assert "scheduler" not in parse_value(without.to_yaml())


@pytest.fixture(scope="module")
def halving_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a study of two learning rates that learn and then two that do not, one job after the other."""
    folder = tmp_path_factory.mktemp("halved") / "out"
    assert run(BASE, folder, local=True).exit_code == 0
    return folder


def test_pruned_runs_keep_their_metrics_and_are_averaged_with_nothing(halving_study: Path) -> None:
    results = Results(halving_study)
    runs = results.runs()
    rates = runs["spec_json"].str.extract(r'"lr":([0-9.e-]+)')[0].astype(float)
    pruned = runs["status"] == "PRUNED"
    assert set(runs.loc[rates < 0.01, "seed"][pruned]) == {1}, (
        "the second seed is the one that runs when both are known"
    )
    assert set(runs.loc[~pruned, "status"]) == {"COMPLETED"}
    metrics = results.metrics()
    for key in runs.loc[pruned, "run_key"]:
        mine = metrics[
            (metrics["run_key"] == key) & (metrics["split"] == "val") & (metrics["name"] == "accuracy")
        ]
        assert list(mine["step"])[:2] == sorted(mine["step"])[:2]
        assert 0 < len(mine) < 8
    assert results.summary()["censored"].sum() == pruned.sum() > 0


def test_pruned_jobs_are_run_again_only_when_asked(halving_study: Path) -> None:
    statuses = make_plan(load_spec(BASE), RunFolder(halving_study)).statuses
    pruned = {key for key, (status, _) in statuses.items() if status is Status.PRUNED}
    assert set(run(BASE, halving_study, local=True).runs()["attempt"]) == {1}
    results = run(BASE, halving_study, local=True, only=frozenset([Status.PRUNED]))
    runs = results.runs().set_index("run_key")
    assert set(runs["status"]) == {"COMPLETED"}
    assert {key for key, attempt in runs["attempt"].items() if attempt == 2} == pruned


def test_the_median_rule_stops_a_real_training_below_the_others(tmp_path: Path) -> None:
    """Three rates that learn, then one that does not: its best is below the others' means from the first decision on."""
    rule = {"name": "median", "metric": "val/accuracy", "grace": 0.25}
    rates = [0.2, 0.1, 0.05, 1.0e-7]
    results = run(
        {**BASE, "seeds": 1, "grid": {"optimizer.lr": rates}, "scheduler": rule}, tmp_path / "out", local=True
    )
    runs = results.runs()
    found = runs["spec_json"].str.extract(r'"lr":([0-9.e-]+)')[0].astype(float)
    assert set(runs.loc[found > 0.01, "status"]) == {"COMPLETED"}
    assert set(runs.loc[found < 0.01, "status"]) == {"PRUNED"}
    steps = results.metrics().groupby("run_key", observed=True)["step"].max()
    (stopped,) = runs.loc[found < 0.01, "run_key"]
    assert steps[stopped] == 0.25 * steps.max(), "at the first evaluation at which it may be"
