"""The runs that form one cell, and the values of its row."""

import json
import math
from datetime import timedelta

import pytest
from made_up_study import START, metric, record

from pruneyard.reports.cells import label_cells
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store
from pruneyard.reports.summary import cells


@pytest.fixture
def store(tmp_path):
    return Store(RunFolder(tmp_path))


def add(store, key, value=0.5, *, spec=None, seed=0, **changes):
    text = json.dumps({"seed": seed, "name": f"study {key}", **(spec or {})})
    store.write(record(key, seed=seed, spec_json=text, **changes), [metric(value)], [])


def summarise(store, **options):
    return cells(store.runs(), store.metrics(), **options)


def test_an_empty_store_gives_an_empty_table(store):
    table = summarise(store)
    assert len(table) == 0
    assert {"data", "model", "method", "density", "ipc", "num_seeds", "censored", "failed"} <= set(table)


def test_seeds_of_one_spec_are_one_row_with_mean_and_interval(store):
    for seed, value in enumerate((0.8, 0.9, 1.0)):
        add(store, f"k{seed}", value, seed=seed, spec={"optimizer": {"lr": 0.1}})
    (row,) = summarise(store).to_dict("records")
    assert row["num_seeds"] == 3
    assert row["test/accuracy"] == pytest.approx(0.9)
    assert row["test/accuracy_low"] == pytest.approx(0.9 - 4.302653 * 0.1 / math.sqrt(3), abs=1e-6)
    assert row["test/accuracy_high"] == pytest.approx(0.9 + 4.302653 * 0.1 / math.sqrt(3), abs=1e-6)
    assert "optimizer.lr" not in row


def test_one_seed_has_no_interval(store):
    add(store, "k", 0.7)
    (row,) = summarise(store).to_dict("records")
    assert row["test/accuracy"] == 0.7
    assert math.isnan(row["test/accuracy_low"])


def test_a_setting_that_differs_becomes_a_column(store):
    add(store, "a", spec={"optimizer": {"lr": 0.1, "momentum": 0.9}})
    add(store, "b", spec={"optimizer": {"lr": 0.2, "momentum": 0.9}})
    table = summarise(store)
    assert list(table["optimizer.lr"]) == [0.1, 0.2]
    assert table.attrs["settings"] == ["optimizer.lr"]


def test_runs_that_differ_only_outside_their_identity_are_one_cell(store):
    for seed, every in enumerate((10, 500)):
        spec = {"optimizer": {"lr": 0.1}, "evaluate_every": every, "data": {"root": f"/{seed}"}}
        identity = json.dumps({"seed": seed, "optimizer": {"lr": 0.1}})
        add(store, f"k{seed}", seed=seed, spec=spec, identity_json=identity)
    (row,) = summarise(store).to_dict("records")
    assert row["num_seeds"] == 2
    assert summarise(store).attrs["settings"] == []


def test_settings_come_from_the_identity_only(store):
    for lr in (0.1, 0.2):
        identity = json.dumps({"seed": 0, "optimizer": {"lr": lr}})
        add(store, f"k{lr}", spec={"evaluate_every": lr}, identity_json=identity)
    assert summarise(store).attrs["settings"] == ["optimizer.lr"]


def test_runs_with_and_without_an_identity_can_be_summarised_together(store):
    add(store, "a", seed=0, spec={"x": 1})
    add(store, "b", seed=1, spec={"y": 2}, identity_json=json.dumps({"seed": 1, "x": 1}))
    assert len(summarise(store)) == 1


def test_a_setting_that_only_one_method_has_is_not_shown(store):
    add(store, "a", spec={"method": {"name": "rigl", "drop": 0.3}})
    add(store, "b", method="dense", spec={"method": {"name": "dense"}})
    assert summarise(store).attrs["settings"] == []


def test_a_setting_is_shown_where_cells_would_look_alike_without_it(store):
    add(store, "a", spec={"data": {"augmentation": {"pad": 4}}})
    add(store, "b", spec={"data": {"augmentation": None}})
    table = summarise(store)
    assert len(table) == 2
    assert table.attrs["settings"] == ["data.augmentation.pad"]


def test_study_name_and_resources_do_not_distinguish_cells(store):
    add(store, "a", seed=0, spec={"resources": {"cpus": 1}})
    add(store, "b", seed=1, spec={"resources": {"cpus": 2}})
    assert list(summarise(store)["num_seeds"]) == [2]


@pytest.mark.parametrize("geometry", [{"num_workers": 2}, {"device": "cuda"}])
def test_another_geometry_is_another_cell(store, geometry):
    add(store, "a", seed=0)
    add(store, "b", seed=1, **geometry)
    assert list(summarise(store)["num_seeds"]) == [1, 1]


def test_pruned_and_failed_runs_are_counted_and_never_averaged(store):
    add(store, "a", 0.9, seed=0)
    add(store, "b", 0.1, seed=1, status=Status.PRUNED)
    add(store, "c", 0.2, seed=2, status=Status.FAILED)
    add(store, "d", 0.3, seed=3, status=Status.INTERRUPTED)
    (row,) = summarise(store).to_dict("records")
    assert (row["num_seeds"], row["censored"], row["failed"], row["interrupted"]) == (1, 1, 1, 1)
    assert row["test/accuracy"] == 0.9


def test_a_cell_without_completed_runs_has_a_row_without_numbers(store):
    add(store, "a", 0.9, status=Status.PRUNED)
    (row,) = summarise(store).to_dict("records")
    assert math.isnan(row["test/accuracy"])
    assert row["censored"] == 1


def test_the_last_step_counts_and_the_newest_attempt_at_it(store):
    store.write(record(status=Status.INTERRUPTED), [metric(0.1, step=10), metric(0.2, step=20)], [])
    store.write(record(attempt=2), [metric(0.3, step=20)], [])
    (row,) = summarise(store).to_dict("records")
    assert row["test/accuracy"] == 0.3


def test_a_lost_seed_shows(store):
    add(store, "a", 0.9, seed=0)
    add(store, "b", math.nan, seed=1)
    (row,) = summarise(store).to_dict("records")
    assert row["num_seeds"] == 2
    assert math.isnan(row["test/accuracy"])


def test_a_cost_unknown_for_one_seed_is_unknown(store):
    add(store, "a", seed=0)
    add(store, "b", seed=1, train_flops=None)
    (row,) = summarise(store).to_dict("records")
    assert math.isnan(row["train_flops"])
    assert row["num_active"] == 8500


def test_of_two_runs_of_one_cell_and_seed_the_later_one_is_kept(store):
    add(store, "old", 0.1)
    add(store, "new", 0.9, ended_at=START + timedelta(days=1))
    (row,) = summarise(store).to_dict("records")
    assert (row["num_seeds"], row["test/accuracy"]) == (1, 0.9)


def test_val_is_shown_where_nothing_was_tested(store):
    store.write(record(), [metric(0.5, split="val"), metric(0.6, split="train")], [])
    assert summarise(store).attrs["measures"] == ["val/accuracy"]


def test_measures_may_be_chosen(store):
    store.write(record(), [metric(0.5), metric(0.6, split="train")], [])
    table = summarise(store, measures=["train/accuracy", "test/missing"])
    assert list(table["train/accuracy"]) == [0.6]
    assert math.isnan(table["test/missing"].iloc[0])


def test_cells_are_numbered_in_order_of_appearance(store):
    add(store, "a", spec={"x": 1}, seed=0)
    add(store, "b", spec={"x": 2}, seed=0)
    add(store, "c", spec={"x": 1}, seed=1)
    assert list(label_cells(store.runs())["cell"]) == [0, 1, 0]


def test_a_spec_that_is_no_table_is_refused(store):
    store.write(record(spec_json="[1]"), [], [])
    with pytest.raises(ValueError, match="must be a JSON object"):
        summarise(store)
