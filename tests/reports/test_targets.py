"""The work of a run until it reaches a target value."""

import json

import pytest
from made_up_study import metric, record

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store
from pruneyard.reports.targets import to_target


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


def test_the_first_evaluation_at_the_target_counts(store):
    add(store, "a", [0.5, 0.8, 0.7, 0.9])
    (row,) = to_target(store.runs(), store.metrics(), target=0.75).to_dict("records")
    assert (row["epochs"], row["steps"], row["best"]) == (2.0, 20.0, 0.9)
    assert row["train_s"] == pytest.approx(2.0)


def test_flops_are_those_counted_up_to_the_target_for_any_total(store):
    add(store, "a", [0.5, 0.8, 0.9], flops=[3e6, 5e6, 5.5e6], train_flops=5.5e6)
    assert to_target(store.runs(), store.metrics(), target=0.75)["train_flops"].tolist() == [5e6]


def test_flops_that_were_not_counted_at_the_target_are_not_guessed_from_the_total(store):
    add(store, "a", [0.5, 0.8, 0.9], train_flops=6e6)
    add(store, "b", [0.5, 0.8, 0.9], seed=1, flops=[3e6], train_flops=6e6)
    found = to_target(store.runs(), store.metrics(), target=0.75)
    assert found["steps"].tolist() == [20.0, 20.0]
    assert found["train_flops"].isna().all()


def test_a_target_met_exactly_is_reached_and_one_never_met_costs_nothing_known(store):
    add(store, "a", [0.5, 0.75])
    assert to_target(store.runs(), store.metrics(), target=0.75)["epochs"].tolist() == [2.0]
    missed = to_target(store.runs(), store.metrics(), target=0.76)
    assert missed[["epochs", "steps", "train_s", "train_flops"]].isna().all(axis=None)
    assert missed["best"].tolist() == [0.75]


def test_rows_distinguish_cells_and_seeds_and_only_completed_runs_count(store):
    add(store, "a", [0.9], seed=1)
    add(store, "b", [0.9], seed=0)
    add(store, "c", [0.1, 0.9], seed=0, rule="agent")
    add(store, "d", [0.9], seed=1, rule="agent", status=Status.FAILED)
    found = to_target(store.runs(), store.metrics(), target=0.8)
    assert list(zip(found["gradient.name"], found["seed"], found["epochs"], strict=True)) == [
        ("plain", 0, 1.0),
        ("plain", 1, 1.0),
        ("agent", 0, 2.0),
    ]


def test_a_measure_may_fall_and_may_be_missing(store):
    add(store, "a", [2.0, 0.5, 0.4])
    fallen = to_target(store.runs(), store.metrics(), target=0.5, rises=False)
    assert fallen["epochs"].tolist() == [2.0]
    assert fallen["best"].tolist() == [0.4]
    assert fallen["train_flops"].isna().all()
    assert to_target(store.runs(), store.metrics(), target=0.5, measure="test/nll")["best"].isna().all()


def test_an_empty_store_gives_an_empty_table(store):
    assert len(to_target(store.runs(), store.metrics(), target=0.5)) == 0
