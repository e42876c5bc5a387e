"""Chains that are refused before anything runs: by the order of their stages, kinds of runs, models, and missing artifacts."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from in_process_command import Pruneyard
from pool_of_networks import distil_along

from pruneyard import run
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.testing.cases import each_case

TRAIN: dict[str, Any] = {
    "kind": "sparse",
    "model": {"name": "mlp", "width": 8},
    "method": {"name": "static", "density": 0.5},
    "budget": {"steps": 2, "batch_size": 5},
}
HALF = {**TRAIN, "segment": {"until": 0.5}}
POOL = distil_along("first")


def stages(**tables: dict[str, Any]) -> dict[str, Any]:
    return {"name": "chain", "data": {"name": "digits", "max_train": 200, "max_test": 60}, "stages": tables}


@each_case(
    ("tables", "message"),
    [
        (stages(first={**TRAIN, "segment": {"from": "first"}}), 'is "first", which is this stage itself'),
        (
            stages(first={**TRAIN, "segment": {"from": "last"}}, last=TRAIN),
            "comes later: move it before this stage",
        ),
        (
            stages(
                first={**TRAIN, "segment": {"from": "last"}},
                middle={**TRAIN, "initial": {"from": "first"}},
                last={**TRAIN, "grid": {"initial": [{"from": "middle"}]}},
            ),
            "closes a cycle: first -> last -> middle -> first",
        ),
        (
            stages(
                first={
                    **TRAIN,
                    "search": {
                        "name": "pbt",
                        "max_trials": 4,
                        "metric": "val/accuracy",
                        "space": {"optimizer.lr": {"low": 0.1, "high": 1.0}},
                    },
                },
                last={**TRAIN, "initial": {"from": "first"}},
            ),
            "whose jobs are not known in advance, since its search pbt proposes them",
        ),
        (
            stages(first=TRAIN, last={**TRAIN, "data": {"from": "first"}}),
            "of kind sparse, which leaves no synthetic set; runs of kind distill do",
        ),
        (
            stages(
                first={**POOL, "method": {"name": "random", "ipc": 1}},
                last={**TRAIN, "initial": {"from": "first"}},
            ),
            "stages.last.initial: refers to a run of kind distill, which leaves no network",
        ),
    ],
)
def test_a_reference_that_cannot_be_resolved_is_refused_with_the_reason(
    tables: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as raised:
        load_spec(tables)
    assert message in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@each_case(
    ("tables", "message"),
    [
        (
            stages(
                first=TRAIN,
                last={**TRAIN, "initial": {"from": "first"}, "model": {"name": "mlp", "width": 9}},
            ),
            "shape (8, 64); it must be (9, 64)",
        ),
        (
            stages(
                first=HALF, last={**TRAIN, "segment": {"from": "first"}, "model": {"name": "mlp", "width": 9}}
            ),
            "whose network differs in hidden1.weight",
        ),
        (
            stages(
                first=HALF,
                last={**TRAIN, "segment": {"from": "first"}, "budget": {"steps": 4, "batch_size": 5}},
            ),
            "stages.last.budget.steps: is 4; it must be 2",
        ),
        (
            stages(first=HALF, last={**HALF, "segment": {"from": "first", "until": 0.5}}),
            "ends at the share 0.5 of its steps",
        ),
        (stages(first=TRAIN, last=POOL), "networks has run"),
    ],
)
def test_a_parent_whose_network_will_not_fit_is_refused_before_it_runs(
    tables: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as raised:
        run(tables, tmp_path / "out", local=True)
    assert message in str(raised.value)
    assert not (tmp_path / "out" / "artifacts").exists()


def test_weights_that_fit_and_layers_that_are_reset_are_not_refused(tmp_path: Path) -> None:
    wider = {**TRAIN, "model": {"name": "mlp", "width": 9}, "initial": {"from": "first", "reset": ["*"]}}
    results = run(
        stages(first=TRAIN, same={**TRAIN, "initial": {"from": "first"}}, last=wider), tmp_path, local=True
    )
    assert results.runs()["status"].eq("COMPLETED").all()


def test_a_finished_run_without_its_artifacts_is_named(tmp_path: Path) -> None:
    tables = stages(first=TRAIN, last={**TRAIN, "initial": {"from": "first"}})
    only_first = stages(first=TRAIN)
    key = run(only_first, tmp_path, local=True).runs()["run_key"].item()
    shutil.rmtree(tmp_path / "artifacts" / key)
    with pytest.raises(UsageError, match=f"{key}: is finished, but its artifacts are missing"):
        run(tables, tmp_path, local=True, add=True)


def test_plan_draws_the_stages_with_counts_and_the_runs_that_each_job_takes(
    pruneyard: Pruneyard, tmp_path: Path
) -> None:
    trust = {
        "kind": "calibrate",
        "input": {"from": "first", "over": "seed"},
        "grid": {"method": ["none", "temperature"]},
    }
    first = {**TRAIN, "seeds": 3, "grid": {"method.density": [0.5, 0.2]}}
    run(stages(first={**first, "seeds": 1}), tmp_path / "out", local=True)
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump(stages(first=first, trust=trust)))
    lines = [line.split() for line in pruneyard("plan", "chain.yaml", "--out", "out").out.splitlines()]
    assert ["first", "sparse", "6", "2", "completed,", "4", "missing"] in lines
    assert ["trust", "calibrate", "4", "4", "missing", "<-", "first", "(3", "runs", "per", "job)"] in lines
    plain = {**TRAIN, "name": "plain", "data": "digits"}
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(plain))
    assert "stage" not in pruneyard("plan", "plain.yaml").out
