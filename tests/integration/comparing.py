"""Compares the numbers of two folders of results bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load
from yaml_spec import FEW

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.predictions import read_predictions
from pruneyard.reports.store import Store


def assert_same_numbers(found: Path | str, expected: Path | str) -> None:
    """Weights, masks, predictions, metrics and curves of every run that `found` has and `expected` finished."""
    finished = Results(expected).runs().query("status == 'COMPLETED'")["run_key"]
    keys = sorted(set(finished) & set(Results(found).runs()["run_key"]))
    assert keys
    for key in keys:
        for file in ("model.safetensors", "masks.safetensors"):
            ours, theirs = (load((RunFolder(f).artifact(key) / file).read_bytes()) for f in (found, expected))
            assert ours.keys() == theirs.keys()
            for name in ours:
                assert ours[name].tobytes() == theirs[name].tobytes(), f"{key}: {file}: {name}"
        ours_by, theirs_by = (read_predictions(RunFolder(f).predictions(key)) for f in (found, expected))
        assert ours_by.keys() == theirs_by.keys() == {"val", "calib", "test"}
        for split in ours_by:
            for a, b in zip(ours_by[split], theirs_by[split], strict=True):
                assert np.array_equal(a, b), f"{key}: predictions on {split}"
        assert _rows(found, key) == _rows(expected, key), key
    counted = ["num_parameters", "num_active", "train_flops", "status", "spec_json", "seed", "density"]
    for name in counted:
        ours_run, theirs_run = (Results(f).runs().set_index("run_key")[name] for f in (found, expected))
        assert ours_run[keys].tolist() == theirs_run[keys].tolist(), name


def assert_nothing_lost(folder: Path | str, reference: Path, *, twice: int | None) -> None:
    """Each of the few finished once, with the reference's numbers.

    twice: how many of them had more than one attempt, or None where that is left open.
    """
    attempts = Store(RunFolder(folder)).runs(latest=False).to_pandas()
    assert not attempts.duplicated(["run_key", "attempt"]).any()
    counts = attempts["run_key"].value_counts()
    assert len(counts) == len(FEW)
    assert twice is None or (counts > 1).sum() == twice, attempts[["run_key", "attempt", "status", "error"]]
    assert (attempts["status"] == "COMPLETED").sum() == len(FEW)
    assert_same_numbers(folder, reference)


def _rows(folder: Path | str, key: str) -> dict[str, list[Any]]:
    """Metric and curve rows of the newest attempt, without what is measured in seconds."""
    results = Results(folder)
    attempt = int(results.runs().set_index("run_key").loc[key, "attempt"])
    metrics, curves = results.metrics(), results.curves()
    metrics = metrics[(metrics["run_key"] == key) & (metrics["attempt"] == attempt)]
    curves = curves[(curves["run_key"] == key) & (curves["attempt"] == attempt)]
    shown = curves[["name", "step", "key", "x", "y", "count"]]
    return {
        "metrics": metrics[["step", "epoch", "split", "name", "value"]].to_numpy().tolist(),
        "curves": shown.to_numpy().tolist(),
    }
