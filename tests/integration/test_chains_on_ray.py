"""A chain on Ray: stages in order, many short jobs per trial, and a process that crashes among them."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from driving import driving
from shared_head import SharedHead
from yaml_spec import write

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CHAIN: dict[str, Any] = {
    "name": "chain",
    "stages": {
        "train": {
            "kind": "sparse",
            "data": {"name": "digits", "max_train": 400, "max_test": 100},
            "model": {"name": "mlp", "width": 16},
            "method": {"name": "static", "density": 0.5},
            "budget": {"epochs": 2, "batch_size": 32},
            "seeds": 5,
        },
        "calibrate": {
            "kind": "calibrate",
            "input": {"from": "train"},
            "grid": {"method": ["none", "fatal", "vector", "isotonic"]},
        },
    },
}


def values(folder: Path) -> pd.Series:
    """Returns the metrics of the newest attempts, without what is measured in seconds."""
    results = Results(folder)
    rows = results.metrics().merge(results.runs()[["run_key", "attempt"]], on=["run_key", "attempt"])
    names = ["run_key", "split", "name"]  # their categories depend on the order of the files
    return rows.astype(dict.fromkeys(names, str)).set_index([*names, "step"])["value"].sort_index()


def test_a_bundle_whose_process_crashes_loses_nothing_and_repeats_nothing(
    env: dict[str, str], head: SharedHead, tmp_path: Path
) -> None:
    spec = write(tmp_path / "chain.yaml", CHAIN)
    killed = tmp_path / "killed"
    head.run("run", spec, "--out", "out", folder=tmp_path, KILLED_FILE=str(killed))
    assert killed.exists()
    attempts = Store(RunFolder(tmp_path / "out")).runs(latest=False).to_pandas()
    assert set(Results(tmp_path / "out").runs()["status"]) == {"COMPLETED"}
    failed = attempts[attempts["status"] == "FAILED"]
    assert [(row["method"], row["seed"]) for _, row in failed.iterrows()] == [("fatal", 2)]
    counts = attempts["run_key"].value_counts()
    assert counts.drop(failed["run_key"].item()).eq(1).all()
    stages = attempts.sort_values("started_at")["stage"].tolist()
    assert stages == ["train"] * 5 + ["calibrate"] * 21
    with driving("run", spec, "--out", "alone", "--local", folder=tmp_path, env=env | {"KILLED_FILE": str(killed)}) as driver:
        assert driver.wait(within_s=300) == 0, driver.output()
    ours, theirs = values(tmp_path / "out"), values(tmp_path / "alone")
    assert len(ours) > 500
    pd.testing.assert_series_equal(ours, theirs, check_exact=True)
