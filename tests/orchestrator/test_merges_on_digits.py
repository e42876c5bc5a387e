"""Directions of merges on real images: siblings from one start, networks from starts of their own, sets of merged outputs."""

from pathlib import Path
from typing import Any

import pytest

from pruneyard import run
from pruneyard.orchestrator.errors import ExitCode

BUDGET = {"epochs": 15, "batch_size": 64, "evaluate_every": 0}
SPEC: dict[str, Any] = {
    "name": "merges",
    "data": "digits",
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
    "stages": {
        "apart": {"kind": "sparse", "model": {"name": "mlp", "width": 128}, "method": "dense", "budget": BUDGET, "seeds": 3},
        "siblings": {
            "kind": "sparse",
            "model": {"name": "mlp", "width": 128},
            "initial": {"from": "apart"},
            "method": {"name": "one_shot", "density": 0.05, "prune_at": 0},
            "budget": BUDGET,
            "seeds": [10, 11, 12],
        },
        "soup": {"kind": "merge", "input": {"from": "siblings", "over": "siblings"}, "method": "uniform"},
        "mean": {"kind": "merge", "input": {"from": "apart", "over": "seed"}, "method": "uniform"},
        "matched": {"kind": "merge", "input": {"from": "apart", "over": "seed"}, "method": "weight_matching"},
        "sets": {
            "kind": "merge",
            "input": {"from": "siblings", "over": "siblings"},
            "method": "quantile_aggregation",
        },
        "covered": {"kind": "calibrate", "input": {"from": "sets"}, "method": "none", "sets": ["aps"]},
    },
}


@pytest.mark.slow
def test_siblings_share_a_basin_and_networks_apart_share_one_only_after_matching(tmp_path: Path) -> None:
    """Test accuracy on 359 digits. The soup of siblings has the accuracy of its members within two points; the mean of networks
    apart loses far more, and matching gives most of it back. Sets of the median of probabilities cover about their level.
    """
    results = run(SPEC, tmp_path, local=True)
    assert results.exit_code == ExitCode.FINISHED, list(results.runs()["error"])
    rows = results.metrics().merge(results.runs()[["run_key", "stage"]], on="run_key")
    found = rows.groupby(["stage", "split", "name"])["value"].mean()
    assert found["soup", "test", "accuracy"] > found["soup", "test@mean_member", "accuracy"] - 0.02
    assert found["soup", "test", "nll"] < found["soup", "test@mean_member", "nll"]
    accuracy = found.xs("accuracy", level="name").unstack("split")
    lost = accuracy["test@mean_member"] - accuracy["test"]
    assert lost["matched"] < lost["mean"] / 2
    assert found["covered", "sets@aps", "coverage"] == pytest.approx(0.9, abs=0.06)
