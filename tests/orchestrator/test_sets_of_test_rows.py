"""Images without training rows serve as OOD inputs, but not to train or to choose options on."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pruneyard import run
from pruneyard.orchestrator.errors import ExitCode, UsageError
from pruneyard.workloads.data.sources.image_parquet import ImageParquet

NUM = 30


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Returns a source of colour images of three sizes, one for each of thirty classes."""
    folder: Path = tmp_path_factory.mktemp("pictures")
    generator, cells = np.random.default_rng(0), []
    for number in range(NUM):
        sink = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (9 + number % 3, 12, 3), dtype=np.uint8)).save(sink, format="PNG")
        cells.append({"bytes": sink.getvalue()})
    pd.DataFrame({"img": cells, "label": range(NUM)}).to_parquet(folder / "validation-00000.parquet")
    return {"name": "image_parquet", "path": str(folder), "resize": 8}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("nets")
    table = {
        "name": "nets",
        "kind": "sparse",
        "data": {"name": "digits", "max_train": 400, "max_test": 100},
        "model": {"name": "mlp", "width": 8},
        "method": "dense",
        "budget": {"epochs": 2, "batch_size": 32},
    }
    assert run(table, folder, local=True).exit_code == ExitCode.FINISHED
    return folder


def calibrate(trained: Path, **fields: Any) -> dict[str, Any]:
    return {"name": "trust", "kind": "calibrate", "input": {"from": str(trained)}, **fields}


def test_only_test_rows_are_there(pictures: dict[str, Any]) -> None:
    data = ImageParquet(path=pictures["path"], resize=8).load()
    assert [len(split) for split in (data.train, data.val, data.calib, data.test)] == [0, 0, 0, NUM]
    assert data.image_shape == (3, 8, 8)
    assert data.num_classes == NUM
    assert all(0 < std < 1 for std in data.std)


def test_sets_of_test_rows_serve_as_ood_inputs(trained: Path, pictures: dict[str, Any], tmp_path: Path) -> None:
    table = calibrate(trained, near=[{"name": "noise", "num_test": 20}], far=[pictures], scores=["energy"])
    results = run(table, tmp_path, local=True)
    assert results.exit_code == ExitCode.FINISHED
    found = results.metrics().astype({"split": str, "name": str}).set_index(["split", "name"])["value"]
    assert 0 <= found["ood.image_parquet", "auroc"] == found["ood.far", "auroc"] <= 1
    assert found["ood.near", "auroc"] == found["ood.noise", "auroc"]
    shown = results.curves().query("name == 'score' and key == 'ood.image_parquet'")
    assert shown["count"].sum() == NUM


def test_nothing_is_trained_or_chosen_on_them(trained: Path, pictures: dict[str, Any], tmp_path: Path) -> None:
    table = {"name": "no", "kind": "sparse", "data": pictures, "model": {"name": "mlp", "width": 8}, "method": "dense"}
    with pytest.raises(UsageError, match="data: has no train rows to train on; such a set can only hold OOD inputs"):
        run({**table, "budget": {"epochs": 1}}, tmp_path / "a", local=True)
    chosen = calibrate(trained, far=["noise"], scores=[{"name": "knn"}], choose_on=[pictures])
    with pytest.raises(UsageError, match="has no val rows to choose on"):
        run(chosen, tmp_path / "b", local=True)
