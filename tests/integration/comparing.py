"""Compares the numbers of two folders of results bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load
from yaml_spec import SHORT_METHODS

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.predictions import read_predictions
from pruneyard.reports.store import Store


def assert_same_numbers(found: Path | str, expected: Path | str) -> None:
    """Compares weights, masks, predictions, metrics and curves of every run that `found` has and `expected` finished."""
    finished = Results(expected).runs().query("status == 'COMPLETED'")["run_key"]
    keys = sorted(set(finished) & set(Results(found).runs()["run_key"]))
    assert keys
    for key in keys:
        for file in ("model.safetensors", "masks.safetensors"):
            ours, theirs = (load((RunFolder(f).artifact(key) / file).read_bytes()) for f in (found, expected))
            assert ours.keys() == theirs.keys()
            for name in ours:
                assert ours[name].tobytes() == theirs[name].tobytes(), f"{key}: {file}: {name}"
        our_predictions, their_predictions = (read_predictions(RunFolder(f).predictions(key)) for f in (found, expected))
        assert our_predictions.keys() == their_predictions.keys() == {"val", "calib", "test"}
        for split in our_predictions:
            for a, b in zip(our_predictions[split], their_predictions[split], strict=True):
                assert np.array_equal(a, b), f"{key}: predictions on {split}"
        assert _rows(found, key) == _rows(expected, key), key
    exact_columns = ["num_parameters", "num_active", "train_flops", "status", "spec_json", "seed", "density"]
    for name in exact_columns:
        our_column, their_column = (Results(f).runs().set_index("run_key")[name] for f in (found, expected))
        assert our_column[keys].tolist() == their_column[keys].tolist(), name


def assert_nothing_lost(folder: Path | str, reference: Path, *, twice: int | None) -> None:
    """Checks that each job of the short spec finished once, with the numbers of the reference.

    twice: how many of them had more than one attempt; None does not check it.
    """
    attempts = Store(RunFolder(folder)).runs(latest=False).to_pandas()
    assert not attempts.duplicated(["run_key", "attempt"]).any()
    counts = attempts["run_key"].value_counts()
    assert len(counts) == len(SHORT_METHODS)
    assert twice is None or (counts > 1).sum() == twice, attempts[["run_key", "attempt", "status", "error"]]
    assert (attempts["status"] == "COMPLETED").sum() == len(SHORT_METHODS)
    assert_same_numbers(folder, reference)


def _rows(folder: Path | str, key: str) -> dict[str, list[Any]]:
    """Returns metric and curve rows of the newest attempt, without what is measured in seconds."""
    results = Results(folder)
    attempt = int(results.runs().set_index("run_key").loc[key, "attempt"])
    metrics, curves = results.metrics(), results.curves()
    metrics = metrics[(metrics["run_key"] == key) & (metrics["attempt"] == attempt)]
    curves = curves[(curves["run_key"] == key) & (curves["attempt"] == attempt)]
    curve_rows = curves[["name", "step", "key", "x", "y", "count"]]
    return {
        "metrics": metrics[["step", "epoch", "split", "name", "value"]].to_numpy().tolist(),
        "curves": curve_rows.to_numpy().tolist(),
    }
