"""Data of the user, as features: trained, calibrated and refused like any other data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.errors import SpecError, UsageError
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.testing.cases import each_case
from pruneyard.workloads.data.array_file import ArrayFile


class FewRows(TensorDataset):
    classes = ("ant", "bee")


def spec(**fields: Any) -> dict[str, Any]:
    return {
        "name": "tumours",
        "kind": "sparse",
        "data": {"name": "breast_cancer"},
        "model": {"name": "mlp", "width": 32},
        "method": {"name": "rigl", "density": 0.2, "schedule": {"every": 5}},
        "budget": {"steps": 60, "batch_size": 64},
        "seeds": 1,
        **fields,
    }


def test_a_table_trains_and_its_network_scores_unknown_rows(tmp_path: Path) -> None:
    results = run(spec(), tmp_path / "out", local=True)
    metrics = results.metrics()
    accuracy = metrics[(metrics["split"] == "test") & (metrics["name"] == "accuracy")]["value"].iloc[-1]
    assert accuracy > 0.9
    by_class = results.curves().query("name == 'class_accuracy'").set_index("key")
    assert list(by_class.index) == ["malignant", "benign"]
    assert (by_class["y"] * by_class["count"]).sum() / by_class["count"].sum() == pytest.approx(accuracy)
    key = results.runs()["run_key"][0]
    features = np.random.default_rng(0).normal(300.0, 300.0, (60, 30))
    np.savez(tmp_path / "odd.npz", x=features, y=np.arange(60) % 2)
    trust = {
        "name": "trust",
        "kind": "calibrate",
        "input": {"from": str(tmp_path / "out")},
        "method": "temperature",
        "scores": [{"name": "knn", "k": 5}, "energy"],
        "far": [{"name": "arrays", "path": str(tmp_path / "odd.npz")}],
    }
    found = run(trust, tmp_path / "trust", local=True)
    assert (found.exit_code, found.runs()["parent_key"][0]) == (0, key)
    assert {"ood.arrays", "test"} <= {split.partition("@")[0] for split in found.metrics()["split"]}


@each_case(
    ("fields", "message"),
    [
        ({"model": "convnet"}, r"model: takes images \(C, H, W\), but the data has features of shape \(30,\); .* such as mlp"),
        ({"model": "resnet20"}, r"model: takes images"),
        ({"augment": {"flip": True}}, r"augment: changes images, but the data has features of shape \(30,\)"),
        ({"objective": "pgd"}, r"objective\.name: pgd needs pixels, but data has features of shape \(30,\)"),
        ({"objective": "cutmix"}, r"objective\.name: cutmix needs images"),
        ({"robust": {"restarts": 1}}, r"robust\.restarts: needs pixels"),
        ({"budget": {"steps": 2, "channels_last": True}}, r"budget\.channels_last: needs images"),
        ({"ood": ["digits"]}, r"ood\[0\]: has images of shape \(1, 8, 8\); the data trained on has features of shape \(30,\)"),
        ({"kind": "distill", "method": {"name": "random", "ipc": 2}, "budget": None}, r"data: has features .* must have pixels"),
    ],
)
def test_what_needs_images_is_refused_before_anything_starts(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    tables = {key: value for key, value in spec(**fields).items() if value is not None}
    with pytest.raises(SpecError, match=message):
        run(tables, tmp_path / "out", local=True)
    assert not (tmp_path / "out" / "spec.yaml").exists()


def test_arrays_handed_over_are_resumed_by_another_process_and_keyed_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNEYARD_CACHE", str(tmp_path / "cache"))
    features, labels = np.random.default_rng(0).normal(size=(80, 6)), np.array(["ant", "bee"])[np.arange(80) % 2]
    tables = {key: value for key, value in spec(budget={"steps": 2}).items() if key != "data"}
    key = run(tables, tmp_path / "out", data=(features, labels), local=True).runs()["run_key"].item()
    monkeypatch.setenv("PRUNEYARD_CACHE", str(tmp_path / "cache of another machine"))
    resumed = run(load_spec(tmp_path / "out" / "spec.yaml", overrides={"seeds": 2}), tmp_path / "out", local=True)
    assert (resumed.exit_code, len(resumed.runs())) == (0, 2)
    again = run(tables, tmp_path / "other", data={"train": (torch.tensor(features), labels.tolist())}, local=True)
    assert again.runs()["run_key"].item() == key
    moved = run(tables, tmp_path / "moved", data=(features + 1, labels), local=True)
    assert moved.runs()["run_key"].item() != key
    assert run(tables, tmp_path / "digits", data="digits", local=True).exit_code == 0


def test_data_sets_handed_over_give_the_runs_of_their_arrays(tmp_path: Path) -> None:
    inputs, labels = torch.randn(80, 6, generator=torch.Generator().manual_seed(0)), torch.arange(80) % 2
    tables, rows = spec(budget={"steps": 2}), FewRows(inputs, labels)
    arrays = {"train": (inputs[:60], labels[:60]), "test": (inputs[60:], labels[60:]), "classes": FewRows.classes}
    expected = run(tables, tmp_path / "arrays", data=arrays, local=True).runs()["run_key"].item()
    parts = {"train": FewRows(inputs[:60], labels[:60]), "test": Subset(rows, range(60, 80))}
    assert run(tables, tmp_path / "parts", data=parts, local=True).runs()["run_key"].item() == expected
    whole = run(tables, tmp_path / "whole", data=rows, local=True)
    assert set(whole.curves().query("name == 'class_accuracy'")["key"]) == set(FewRows.classes)


def test_a_table_of_arrays_without_a_path_gives_the_options_of_arrays_handed_over(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (80, 6, 5, 3), dtype=np.uint8)
    labels = np.array(["ant", "bee"])[np.arange(80) % 2]
    options = {"name": "arrays", "channels": "last", "classes": ["bee", "ant"], "val_fraction": 0.4}
    stages = {"first": {"data": options}, "second": {"data": {"name": "table", "path": "rows.csv", "target": "kind"}}}
    for stage in stages.values():
        stage |= {key: value for key, value in spec(budget={"steps": 2}).items() if key not in ("name", "data")}
    results = run({"name": "two", "stages": stages}, tmp_path / "out", data=(images, labels), local=True)
    spec_as_run = load_spec(tmp_path / "out" / "spec.yaml")
    first, second = (job.workload.data.load() for job in spec_as_run.jobs)
    assert (results.exit_code, first.image_shape, first.classes, len(first.val)) == (0, (3, 6, 5), ("bee", "ant"), 26)
    assert [first.classes[label] for label in first.test.labels] == labels[first.test.row_ids].tolist()
    assert (second.image_shape, second.classes, len(second.val)) == ((3, 6, 5), ("bee", "ant"), 6)


@each_case(
    ("data", "message"),
    [
        ({"name": "arrays", "standardized": False}, r"data\.standardized: is unknown.*did you mean standardise\?"),
        ({"name": "arrays", "channels": "latst"}, r"data\.channels: is \"latst\"; it must be one of first, last"),
    ],
)
def test_options_of_arrays_handed_over_are_checked(data: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=message):
        run(spec(data=data), tmp_path / "out", data=(np.eye(6), np.arange(6) % 2), local=True)


@each_case(
    ("data", "message"),
    [
        ((np.zeros((4, 2)), [0, 1, 0]), r"data: y has 3 labels and X has 4 rows; they must be as many"),
        ((np.zeros((4, 2)), [0, 0, 0, 0]), r"data: y has only the class 0"),
        ((np.full((4, 2), np.nan), [0, 1, 0, 1]), r"data: X, row 0, column 0 is nan"),
        (np.zeros((4, 2)), r"data: train is a ndarray; it must be a pair of inputs and labels, \(X, y\), or a map-style data"),
        (FewRows(torch.eye(4), torch.eye(4)), r"data: item 0 of FewRows, train has a label of shape \(4,\); it must be one"),
        ((np.ma.masked_equal([[1.0, 0.0], [0.0, 2.0]], 0.0), [0, 1]), r"data: X has masked entries, 2 of 4; fill them in,"),
        ((np.ones((2, 2)), np.ma.masked_equal([0, 1], 1)), r"data: y has masked entries, 1 of 2"),
        ((np.zeros((4, 6, 5, 3), np.uint8), [0, 1, 0, 1]), r"their colours last; .*X\.transpose\(0, 3, 1, 2\)"),
        ((np.zeros((4, 8, 8, 3)), [0, 1, 0, 1]), r"data: X has the shape .* or give X\.transpose\(0, 3, 1, 2\)"),
        ({"train": (np.zeros((4, 2)), [0, 1, 0, 1]), "dev": 1}, r"data: 'dev' names no split; it must be one of train, val,"),
        ({"test": (np.zeros((4, 2)), [0, 1, 0, 1])}, r"data: train is missing; the splits are test"),
        ({"train": (np.zeros((4, 2)), [0, 1, 0, 1]), "test": (np.zeros((1, 3)), [0])}, r"rows of X of test are float32 \(3,\)"),
    ],
)
def test_arrays_handed_over_that_do_not_fit_are_refused(data: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        run(spec(), tmp_path / "out", data=data, local=True)


@each_case("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_tensors_of_any_precision_are_taken_and_arrays_with_nothing_masked(kind: torch.dtype) -> None:
    inputs = torch.tensor([[0.5, 1.0], [2.0, 4.0]])
    expected = ArrayFile.of((inputs, [0, 1])).digest
    assert ArrayFile.of((inputs.to(kind), torch.tensor([0.0, 1.0]).to(kind))).digest == expected
    assert ArrayFile.of((np.ma.masked_equal(inputs.numpy(), 3.0), [0, 1])).digest == expected


def test_changed_arrays_are_refused_and_wrong_ones_are_named_by_key_file_and_array(tmp_path: Path) -> None:
    features, labels = np.random.default_rng(0).normal(size=(80, 6)), np.arange(80) % 2
    np.savez(tmp_path / "own.npz", x=features, y=labels)
    tables = spec(data={"name": "arrays", "path": str(tmp_path / "own.npz")}, budget={"steps": 2})
    assert run(tables, tmp_path / "out", local=True).exit_code == 0
    np.savez(tmp_path / "own.npz", x=features + 1, y=labels)
    with pytest.raises(UsageError, match=rf"data: {tmp_path}/own\.npz has changed: run "):
        run(tables, tmp_path / "out", local=True)
    features[4, 2] = np.nan
    np.savez(tmp_path / "own.npz", x=features, y=labels)
    with pytest.raises(UsageError, match=rf"data: {tmp_path}/own\.npz: x, row 4, column 2 is nan"):
        run(tables, tmp_path / "other", local=True)
