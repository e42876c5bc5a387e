"""Specs whose data derive from other data: identity, axes, messages and whole runs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pruneyard import run
from pruneyard.orchestrator.errors import SpecError
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.orchestrator.spec.yaml_document import parse_value
from pruneyard.workloads.data.synthetic_set import SyntheticSet

BASE: dict[str, Any] = {
    "name": "small",
    "kind": "sparse",
    "model": {"name": "mlp", "width": 16},
    "method": {"name": "set", "density": 0.5},
    "budget": {"epochs": 2, "batch_size": 16},
}
DIGITS = {"name": "digits", "max_train": 300, "max_test": 60}


def selected(**fields: Any) -> dict[str, Any]:
    table = {"name": "selected", "base": DIGITS, "selector": {"name": "herding"}, "per_class": 4}
    small = {"model": {"name": "mlp", "width": 8}, "scoring": {"epochs": 1}}
    return {**BASE, "data": table | small | fields}


def synthetic(path: Path, **fields: Any) -> dict[str, Any]:
    return {**BASE, "data": {"name": "synthetic", "path": str(path), "base": DIGITS} | fields}


def write_set(path: Path, shade: float) -> Path:
    made = SyntheticSet(
        images=torch.full((10, 1, 8, 8), shade),
        labels=torch.arange(10),
        soft_labels=torch.zeros(0, 10),
        mean=(0.3,),
        std=(0.4,),
    )
    path.write_bytes(made.to_bytes())
    return path


def key(tables: dict[str, Any]) -> str:
    (job,) = load_spec(tables).jobs
    return job.key


def test_the_content_of_a_file_is_identity_and_its_path_is_not(tmp_path: Path) -> None:
    one, copy, other = (write_set(tmp_path / name, shade) for name, shade in (("a", 0.1), ("b", 0.1), ("c", 0.2)))
    assert key(synthetic(one)) == key(synthetic(copy)) != key(synthetic(other))
    (job,) = load_spec(synthetic(one)).jobs
    assert key(synthetic(copy, digest=job.resolved["data"]["digest"])) == job.key
    assert "path" not in job.identity["data"]


def test_the_rule_its_settings_and_the_data_chosen_from_are_identity() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"selector": "random"},
        {"selector": {"name": "ccs", "drop": 0.1}},
        {"per_class": 5},
        {"seed": 1},
        {"scoring": {"epochs": 2}},
        {"base": {**DIGITS, "split_seed": 1}},
    ]
    assert len({key(selected(**change)) for change in changes}) == len(changes)


def test_axes_reach_into_the_data_that_data_are_made_of() -> None:
    grid = {"data.selector": ["random", "herding"], "data.base.split_seed": [0, 1], "data.per_class": [1, 2, 3]}
    spec = load_spec({**selected(), "grid": grid})
    assert len(spec.jobs) == 12
    again = load_spec(parse_value(spec.to_yaml()))
    assert [job.key for job in again.jobs] == [job.key for job in spec.jobs]


def test_complaints_name_the_key_inside() -> None:
    with pytest.raises(SpecError) as refusal:
        load_spec(selected(base={"name": "digitz"}, selector={"name": "el2n", "keep": "some"}))
    assert {problem.key for problem in refusal.value.problems} == {"data.base.name", "data.selector.keep"}
    with pytest.raises(SpecError) as refusal:
        load_spec(synthetic(Path("nowhere/synthetic_set.safetensors")))
    (problem,) = refusal.value.problems
    assert problem.key == "data.path"
    assert "cannot be read" in problem.message


def test_sparse_jobs_train_on_chosen_rows_and_on_synthetic_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNEYARD_CACHE", str(tmp_path / "cache"))
    augmented = {"augment": {"pad": 1, "flip": True, "cutout": 2}}
    path = write_set(tmp_path / "set", 0.5)
    for name, tables in (("selected", selected()), ("synthetic", synthetic(path))):
        results = run({**tables, **augmented}, tmp_path / name, local=True)
        (row,) = results.runs().to_dict("records")
        assert (row["status"], row["data"]) == ("COMPLETED", name)
        again = run({**tables, **augmented}, tmp_path / name, local=True)
        assert len(again.runs()) == 1
