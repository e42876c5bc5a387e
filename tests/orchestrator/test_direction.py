"""The direction of a metric is known from its name, so that no error is maximised by mistake."""

import logging
from typing import Any

import pytest

from pruneyard.orchestrator.errors import SpecError
from pruneyard.orchestrator.spec.direction import _warn_of_contradiction, known_direction, warn_of_slip
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.orchestrator.spec.scheduler import Scheduler
from pruneyard.orchestrator.spec.search import Search

SPACE = {"optimizer.lr": {"low": 0.01, "high": 1.0}}
PLAIN: dict[str, Any] = {
    "name": "direction",
    "kind": "sparse",
    "data": "digits",
    "model": {"name": "mlp", "width": 8},
    "method": {"name": "rigl", "density": 0.5},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "budget": {"epochs": 1, "batch_size": 32},
}


def test_the_direction_is_what_the_metric_is() -> None:
    expected = {"val/accuracy": "max", "val/nll": "min", "calib/ece": "min", "train/loss": "min", "num_active": "min"}
    assert {name: known_direction(name) for name in expected} == expected
    assert known_direction("val/mine") is None


@pytest.mark.parametrize("name", ["asha", "median", "hyperband"])
def test_a_scheduler_keeps_the_smallest_of_what_is_to_be_small(name: Any) -> None:
    assert Scheduler(name=name, metric="val/nll").mode == "min"
    assert Scheduler(name=name, metric="val/accuracy").mode in (None, "max")


@pytest.mark.parametrize("name", ["tpe", "pbt", "pb2"])
def test_a_search_minimises_metrics_that_are_better_when_small(name: Any) -> None:
    assert Search(name=name, max_trials=4, space=SPACE, metric="val/nll").directions == {"val/nll": "min"}
    assert Search(name=name, max_trials=4, space=SPACE, metric="val/accuracy").directions == {"val/accuracy": "max"}


@pytest.mark.parametrize(
    "tables",
    [
        {"scheduler": {"name": "asha", "metric": "val/mine"}},
        {"search": {"name": "tpe", "max_trials": 4, "space": SPACE, "metric": "val/mine"}},
    ],
    ids=["scheduler", "search"],
)
def test_an_unknown_direction_must_be_given(tables: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"mode: is missing; metric val/mine is not known.* needs mode: max or min"):
        load_spec(PLAIN | tables)
    (table,) = tables.values()
    assert load_spec(PLAIN | {key: {**table, "mode": "max"} for key in tables})


def test_a_mode_against_the_metric_is_heeded_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    _warn_of_contradiction.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert Scheduler(name="asha", metric="val/nll", mode="max").mode == "max"
        Scheduler(name="asha", metric="val/nll", mode="max")
    assert caplog.messages == ["mode max of val/nll looks for the worst: val/nll is better when smaller; leave mode out"]
    caplog.clear()
    Scheduler(name="asha", metric="val/nll", mode="min")
    assert not caplog.messages


@pytest.mark.parametrize(
    ("key", "table"), [("scheduler", {"name": "asha"}), ("search", {"name": "tpe", "max_trials": 4, "space": SPACE})]
)
def test_a_slip_in_a_metric_with_a_mode_is_noticed_when_the_spec_is_read(
    key: str, table: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_slip.cache_clear()
    with caplog.at_level(logging.WARNING):
        load_spec(PLAIN | {key: table | {"metric": "val/acc", "mode": "max"}})
        load_spec(PLAIN | {key: table | {"metric": "val/mine", "mode": "max"}})
    assert caplog.messages == ["metric val/acc is not known; did you mean val/accuracy?"]


def test_the_spec_as_run_says_the_direction_and_reads_back_the_same() -> None:
    spec = load_spec(PLAIN | {"scheduler": {"name": "median", "metric": "val/nll"}})
    assert "mode: min" in spec.to_yaml()
    assert load_spec(PLAIN | {"scheduler": {"name": "median", "metric": "val/nll", "mode": "min"}}).to_yaml() == spec.to_yaml()
