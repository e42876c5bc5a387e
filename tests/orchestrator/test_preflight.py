"""Errors and warnings after the data is loaded and before any job starts."""

import logging
from pathlib import Path

import pytest
import torch

from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.errors import SpecError, UsageError
from pruneyard.orchestrator.planning.preflight import check_jobs, load_data
from pruneyard.orchestrator.spec.load import Spec, load_spec
from pruneyard.testing.cases import each_case

TABLES = {
    "name": "small",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 200, "max_test": 50},
    "model": {"name": "mlp", "width": 8},
    "method": {"name": "rigl", "density": 0.5, "schedule": {"every": 2}},
    "budget": {"steps": 6, "batch_size": 16},
}


def checked(spec: Spec) -> None:
    check_jobs(spec.jobs, load_data(spec.jobs, spec), spec=spec)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", "vgg19", "vgg19 rigl"),
        ("method.keep_dense", ["nowhere"], "keep_dense"),
        ("method", {"name": "nm", "m": 7}, "method.m: is 7; it must divide the inputs of a layer"),
        ("augment", {"pad": 8, "pad_mode": "reflect"}, "augment.pad: is 8"),
        ("average", {"begin": 0.1}, "masks move at step 2, but averaging begins after step 1"),
        (
            "variants",
            [{"method": {"name": "cigl", "density": 0.5}, "average": {"begin": 0.9}}],
            "average: is .* method sets it to",
        ),
    ],
)
def test_what_no_job_could_do_is_refused_before_any_starts(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        run(load_spec(TABLES, overrides={key: value, "seeds": 2}), tmp_path / "out", local=True)
    assert not (tmp_path / "out" / "results").exists()


def test_a_method_that_would_never_move_a_mask_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        checked(load_spec(TABLES, overrides={"method.schedule.every": 100, "seeds": 3}))
    assert [record.getMessage() for record in caplog.records] == [
        "method.schedule.every is 100, but the budget has 6 steps: masks will never be updated"
    ]


@each_case(
    ("ood", "message"),
    [
        (
            ["noise", {"name": "digits", "max_train": 200, "max_test": 50}],
            r"ood\[1\]: is the data trained on",
        ),
        (
            ["noise", {"name": "digits", "split_seed": 4}],
            r"ood\[1\]: is known: 50 of its \d+ test rows",
        ),
        (["noise", "noise"], r"ood\[1\]: is already in the list"),
        ([{"name": "noise", "shape": [2, 8, 8]}], r"ood\[0\]: has images of 2 channels"),
        (["noise", "nois"], r"ood\[1\].name: is unknown: 'nois' is none of .* did you mean noise"),
    ],
)
def test_invalid_ood_sets_are_refused_with_their_key(ood: list[object], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        checked(load_spec(TABLES, overrides={"ood": ood, "seeds": 2}))
    assert len(caught.value.problems) == 1


def test_a_missing_ood_set_is_reported_with_its_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PRUNEYARD_DATA", str(tmp_path))
    monkeypatch.setenv("PRUNEYARD_CACHE", str(tmp_path))
    spec = load_spec(TABLES, overrides={"ood": ["noise", "mnist"]})
    with pytest.raises(SpecError, match=r"^spec: ood\[1\]\.name: is 'mnist'; none of the folders .* has MNIST/raw"):
        load_data(spec.jobs, spec)


def test_every_data_set_is_read_once() -> None:
    spec = load_spec(
        {**TABLES, "seeds": 3, "grid": {"ood": [[], ["noise"], [{"name": "noise"}, "digits"]]}}
    )
    assert len(spec.jobs) == 9
    assert sorted(data.name for data in load_data(spec.jobs, spec).values()) == ["digits", "digits", "noise"]


def test_nothing_is_said_of_a_sound_spec(caplog: pytest.LogCaptureFixture) -> None:
    checked(load_spec(TABLES))
    assert caplog.records == []


@pytest.mark.parametrize("resources", [{"gpus": 512}, {"cpus": 4096}])
def test_running_without_ray_refuses_what_the_machine_does_not_have(
    tmp_path: Path, resources: dict[str, int]
) -> None:
    with pytest.raises(UsageError, match="one trial needs"):
        run(load_spec(TABLES, overrides={"resources": resources}), tmp_path / "out", local=True)


def test_running_without_ray_does_not_change_the_callers_torch_settings(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(3)
    try:
        before = torch.get_rng_state()
        run(load_spec(TABLES), tmp_path / "out", local=True)
        assert torch.get_default_dtype() == torch.float64
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_default_dtype(torch.float32)


def test_runs_that_differ_in_intervals_only_are_one_cell(tmp_path: Path) -> None:
    run(load_spec(TABLES), tmp_path / "out", local=True)
    results = run(
        load_spec(TABLES, overrides={"seeds": 2, "budget.evaluate_every": 0}), tmp_path / "out", local=True
    )
    summary = results.summary()
    assert summary["num_seeds"].tolist() == [2]
    assert results.runs()["data_fingerprint"].nunique() == 1
