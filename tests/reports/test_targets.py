"""The costs of a run up to a target value."""

import json

import pytest
from made_up_study import metric, record

from pruneyard.reports.analysis.reaching import costs_to_target
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study
from pruneyard.reports.targets import COSTS


@pytest.fixture
def store(tmp_path):
    return Store(RunFolder(tmp_path))


def add(store, key, values, *, seed=0, rule="plain", flops=(), **changes):
    """Adds a run with one evaluation every ten steps, that is every epoch, at 0.1 s a step."""
    spec = json.dumps({"seed": seed, "gradient": {"name": rule}})
    rows = [metric(value, step=10 * i, split="val") for i, value in enumerate(values, start=1)]
    rows += [
        metric(value, step=10 * i, name="flops", split="train") for i, value in enumerate(flops, start=1)
    ]
    store.write(record(key, seed=seed, spec_json=spec, **changes), rows, [])


def spent(store, tmp_path, target, *, cost="epochs", measure="val/accuracy"):
    """Returns (run key, cost, whether it reached the target) of every run."""
    found = costs_to_target(Study.read([tmp_path]), measure, target=target, cost=cost)
    return list(found[["run_key", "cost", "reached"]].itertuples(index=False, name=None))


def test_the_first_evaluation_at_the_target_counts(store, tmp_path):
    add(store, "a", [0.5, 0.8, 0.7, 0.9], flops=[3e6, 5e6, 5.5e6, 6e6], train_flops=6e6)
    found = {cost: spent(store, tmp_path, 0.75, cost=cost) for cost in COSTS}
    assert found["epochs"] == [("a", 2.0, True)]
    assert found["steps"] == [("a", 20.0, True)]
    assert found["flops"] == [("a", 5e6, True)]
    assert found["time"] == [("a", pytest.approx(2.0), True)]


def test_flops_that_were_not_counted_at_the_target_are_not_guessed_from_the_total(store, tmp_path):
    """Of run b it is known that it had not reached the target at 3e6."""
    add(store, "a", [0.5, 0.8, 0.9], train_flops=6e6)
    add(store, "b", [0.5, 0.8, 0.9], seed=1, flops=[3e6], train_flops=6e6)
    assert [row[1:] for row in spent(store, tmp_path, 0.75)] == [(2.0, True)] * 2
    assert spent(store, tmp_path, 0.75, cost="flops") == [("b", 3e6, False)]


def test_a_target_met_exactly_is_reached_and_the_cost_of_one_never_met_is_a_lower_bound(store, tmp_path):
    add(store, "a", [0.5, 0.75, 0.6])
    assert spent(store, tmp_path, 0.75) == [("a", 2.0, True)]
    assert spent(store, tmp_path, 0.76) == [("a", 3.0, False)]


def test_stopped_runs_count_up_to_where_they_were_stopped_and_failed_ones_do_not(store, tmp_path):
    add(store, "a", [0.9], seed=1)
    add(store, "b", [0.1, 0.9], seed=0, rule="agent")
    add(store, "c", [0.1, 0.2], seed=1, rule="agent", status=Status.PRUNED)
    add(store, "d", [0.9], seed=2, rule="agent", status=Status.FAILED)
    assert sorted(spent(store, tmp_path, 0.8)) == [("a", 1.0, True), ("b", 2.0, True), ("c", 2.0, False)]


def test_a_measure_may_fall_and_may_be_missing(store, tmp_path):
    store.write(record("a"), [metric(value, step=10 * i, name="nll") for i, value in enumerate([2.0, 0.5, 0.4], start=1)], [])
    assert spent(store, tmp_path, 0.5, measure="test/nll") == [("a", 2.0, True)]
    assert spent(store, tmp_path, 0.5) == []
