"""`spec.yaml` of a folder gives the same jobs as its spec, also after defaults have changed."""

import dataclasses
from typing import Any

import pytest
from packaged import COMPLETE, packaged

from pruneyard.orchestrator.spec.codec import hints_of
from pruneyard.orchestrator.spec.load import Spec, load_spec
from pruneyard.orchestrator.spec.yaml_document import parse_value

BASE: dict[str, Any] = {
    "name": "small",
    "kind": "sparse",
    "data": "digits",
    "model": {"name": "mlp", "width": 16},
    "method": {"name": "set", "density": 0.1},
    "budget": {"epochs": 1},
}
CLUMSY: dict[str, dict[str, Any]] = {
    "plain axes": {"method.density": [0.1, 0.2], "optimizer.lr": [0.1, 0.01], "budget.batch_size": [16, 32]},
    "an axis into a table that is not there": {
        "augment.flip": [True, False],
        "method.schedule.every": [5, 7],
    },
    "whole tables and names alone": {"method": ["dense", {"name": "rigl"}], "method.density": [0.3]},
    "names over a table": {"optimizer.name": ["sgd", "adamw"], "optimizer.lr": [0.1, 0.2]},
    "names over whole tables": {"method": [{"density": 0.1, "name": "set"}], "method.name": ["rigl", "itop"]},
    "tables below a table": {
        "method": ["set", {"name": "magnitude", "density": 0.5}],
        "method.schedule": [{"every": 5}, {"every": 9}],
        "method.density": [0.1],
    },
    "a table of which an axis sets all": {"budget": [{}], "budget.steps": [3, 4]},
    "whole tables of the budget": {"budget": [{"steps": 3}, {"epochs": 1}]},
    "one value": {"method": [{"name": "rigl"}], "method.density": [0.05], "model.depth": [1]},
}


def with_other_defaults(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every dataclass of the jobs raise when a default is used that a spec could have given."""

    def spoil(value: Any) -> None:
        if not dataclasses.is_dataclass(value):
            for item in value if isinstance(value, tuple) else ():
                spoil(item)
            return
        made: Any = type(value).__init__
        for name in (made.__kwdefaults__ or {}).keys() & hints_of(type(value)).keys():
            monkeypatch.setitem(made.__kwdefaults__, name, object())
        for field in dataclasses.fields(value):
            spoil(getattr(value, field.name))

    for job in spec.jobs:
        spoil(job.workload)


def assert_written_out(spec: Spec, monkeypatch: pytest.MonkeyPatch, *, in_order: bool = True) -> None:
    text, keys, resources = spec.to_yaml(), [job.key for job in spec.jobs], spec.stages[0].header.resources
    with_other_defaults(spec, monkeypatch)
    again = load_spec(parse_value(text))
    found = [job.key for job in again.jobs]
    assert found == keys if in_order else sorted(found) == sorted(keys)
    assert again.to_yaml() == text
    assert again.stages[0].header.resources == resources


def test_a_changed_default_is_noticed_where_it_is_not_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_spec(BASE)
    with_other_defaults(spec, monkeypatch)
    with pytest.raises((TypeError, ValueError)):
        load_spec(dict(spec.tables))


@pytest.mark.parametrize("name", COMPLETE)
def test_every_packaged_spec_as_run_gives_its_jobs_for_any_defaults(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_written_out(packaged(name), monkeypatch)


@pytest.mark.parametrize("grid", CLUMSY.values(), ids=CLUMSY)
def test_every_form_of_grid_is_written_out(grid: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    heads = {key for key in grid if "." not in key}
    tables = {key: value for key, value in BASE.items() if key not in heads}
    if "method.schedule" in grid or "optimizer.name" in grid:
        tables["optimizer"] = {"lr": 0.3}
    assert_written_out(load_spec({**tables, "grid": grid}), monkeypatch, in_order=False)


VARIED: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "tables beside one another": (
        [{"method": "dense"}, {"method": {"name": "rigl"}, "average": {"begin": 0.8}}, {"method": "cigl"}],
        {"method.density": [0.1, 0.2], "optimizer.lr": [0.1, 0.01]},
    ),
    "a table that only some give": (
        [{"model": {"name": "mlp", "width": 8}}, {"augment": {"flip": True}}],
        {},
    ),
    "tables below a table": (
        [{"method": "set"}, {"method": {"name": "magnitude", "density": 0.5}, "average": {"begin": 0.9}}],
        {"method.schedule": [{"every": 5}, {"every": 9}], "method.density": [0.1], "model.width": [4, 8]},
    ),
    "names over variants": (
        [{"method": {"name": "set", "density": 0.1}}, {"average": {"begin": 0.9}}],
        {"method.name": ["rigl", "itop"]},
    ),
    "a whole table over variants": (
        [{"method": {"name": "set", "density": 0.1}}, {"average": {"begin": 0.9}}],
        {"method": ["dense"]},
    ),
    "a key inside some variants": (
        [{"method": {"name": "set", "density": 0.1}}, {"model": "convnet"}],
        {"model.width": [8, 16]},
    ),
    "one variant": ([{"average": {"begin": 0.9}}], {}),
}


@pytest.mark.parametrize(("variants", "grid"), VARIED.values(), ids=VARIED)
def test_every_form_of_variants_is_written_out(
    variants: list[dict[str, Any]], grid: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load_spec({**BASE, "variants": variants, "grid": grid})
    assert len(spec.jobs) > 0
    assert_written_out(spec, monkeypatch, in_order=False)


def test_variants_stay_variants_and_axes_over_plain_values_axes() -> None:
    written = parse_value(
        load_spec(
            {
                **BASE,
                "variants": VARIED["tables beside one another"][0],
                "grid": {"method.density": [0.1, 0.2]},
            }
        ).to_yaml()
    )
    assert [(v["method"]["name"], v["average"]["begin"]) for v in written["variants"]] == [
        ("dense", 1.0),
        ("rigl", 0.8),
        ("cigl", 1.0),
    ]
    assert written["grid"] == {"method.density": [0.1, 0.2]}
    assert not {"method", "average"} & written.keys()


def test_changes_from_the_command_line_are_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"method.name": "rigl", "data.max_train": 100, "seeds": [4, 2], "resources.cpus": 2}
    spec = load_spec("mnist-density", overrides=changes, axes={"optimizer.lr": [0.1, 0.2]})
    assert_written_out(spec, monkeypatch)


def test_axes_over_plain_values_stay_axes_and_tables_stay_separate() -> None:
    written = parse_value(load_spec("quickstart").to_yaml())["stages"]["train"]
    assert written["grid"]["method.density"] == [0.1, 0.02]
    assert [method["name"] for method in written["grid"]["method"]] == [
        "dense",
        "static",
        "set",
        "rigl",
        "magnitude",
    ]
    assert written["grid"]["method"][3]["drop_fraction"] == 0.3
    assert written["grid"]["method"][3]["schedule"]["every"] == 20
    assert "density" not in written["grid"]["method"][3]
    assert written["optimizer"]["nesterov"] is False
    assert written["objective"]["name"] == "cross_entropy"
    assert written["resources"] == {
        "workers": 1,
        "cpus": 1,
        "gpus": 0.0,
        "strategy": "ddp",
        "place_within_s": 300.0,
    }


def test_a_null_of_the_spec_is_not_taken_for_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_spec(
        {**BASE, "budget": {"epochs": None, "steps": 4}, "grid": {"data.max_train": [None, 200]}}
    )
    assert_written_out(spec, monkeypatch)
