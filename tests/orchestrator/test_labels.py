"""Labels of jobs contain the settings that differ, no others, and are unique."""

from typing import Any

import pytest
from packaged import COMPLETE, packaged

from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.testing.cases import each_case

BASE: dict[str, Any] = {
    "name": "small",
    "kind": "sparse",
    "data": "digits",
    "model": {"name": "mlp", "width": 16},
    "method": {"name": "set", "density": 0.1},
    "budget": {"epochs": 1},
}


def names(grid: dict[str, list[Any]], **tables: Any) -> list[str]:
    return [job.label for job in load_spec({**BASE, **tables, "grid": grid}).jobs]


def test_a_job_is_called_by_model_method_density_and_seed() -> None:
    assert names({}, seeds=[3, 1]) == ["mlp set density=0.1 seed=3", "mlp set density=0.1 seed=1"]
    assert names({"method": ["dense"], "model": [{"name": "convnet"}]}) == ["convnet dense seed=0"]
    assert names({"method.density": [1e-7, 0.25]}) == ["mlp set density=1e-07 seed=0", "mlp set density=0.25 seed=0"]


@each_case(
    ("grid", "words"),
    [
        ({"optimizer.lr": [0.1, 0.03]}, ["lr=0.1", "lr=0.03"]),
        ({"optimizer": ["sgd", "adamw"]}, ["sgd", "adamw"]),
        (
            {"optimizer": [{"name": "sgd", "lr": 0.1}, {"name": "sgd", "lr": 0.2}, "adamw"]},
            ["sgd lr=0.1", "sgd lr=0.2", "adamw lr=0.001"],
        ),
        ({"gradient": ["plain", "agent", {"name": "agent", "gamma": 1.0}]}, ["plain", "agent gamma=0.1", "agent gamma=1"]),
        ({"model.width": [8, 16]}, ["width=8", "width=16"]),
        ({"data.val_fraction": [0.1, 0.123456789]}, ["val_fraction=0.1", "val_fraction=0.123456789"]),
        ({"method.keep_dense": [[], ["first"]]}, ["keep_dense=[]", "keep_dense=['first']"]),
        (
            {"schedule.floor": [0.1, 0.2], "method.schedule.until": [0.5, 0.6]},
            [f"{pair}" for pair in ("floor=0.1 until=0.5", "floor=0.1 until=0.6", "floor=0.2 until=0.5", "floor=0.2 until=0.6")],
        ),
        ({"model.depth": [1, 2], "optimizer.lr": [0.5, 0.1]}, [f"lr={lr} depth={d}" for d in (1, 2) for lr in (0.5, 0.1)]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_other_settings_that_differ_come_before_the_seed(grid: dict[str, Any], words: list[str]) -> None:
    assert sorted(names(grid)) == sorted(f"mlp set density=0.1 {word} seed=0" for word in words)


def test_only_those_that_would_share_a_name_say_more() -> None:
    methods = [{"name": "rigl"}, {"name": "dst_ee"}, {"name": "dst_ee", "exploration": 0.01}]
    assert names({"method": methods, "method.density": [0.1]}) == [
        "mlp rigl density=0.1 seed=0",
        "mlp dst_ee density=0.1 exploration=0.001 seed=0",
        "mlp dst_ee density=0.1 exploration=0.01 seed=0",
    ]


def test_two_settings_that_end_alike_are_called_in_full() -> None:
    methods = [{"name": "snfs", "density": 0.1, "momentum": momentum} for momentum in (0.7, 0.6)]
    found = names({"optimizer.momentum": [0.8, 0.9], "method": methods})
    assert all("optimizer.momentum=" in name and "method.momentum=" in name for name in found)


@pytest.mark.slow
@each_case("name", COMPLETE)
def test_no_two_jobs_of_a_packaged_spec_share_a_name(name: str) -> None:
    spec = packaged(name)
    assert len({job.label for job in spec.jobs}) == len(spec.jobs)
    assert all(len(job.label) < 100 for job in spec.jobs)
