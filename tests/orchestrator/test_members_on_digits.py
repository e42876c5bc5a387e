"""Benefit of several members on real images: MC dropout, SWAG samples, an ensemble."""

from pathlib import Path
from typing import Any

import pytest

from pruneyard import run
from pruneyard.orchestrator.errors import ExitCode

SPEC: dict[str, Any] = {
    "name": "members",
    "stages": {
        "train": {
            "kind": "sparse",
            "data": "digits",
            "model": {"name": "mlp", "width": 64, "dropout": 0.2},
            "method": "dense",
            "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
            "schedule": "constant",
            "average": {"begin": 0.5, "per_epoch": 2, "swag_rank": 10},
            "budget": {"epochs": 20, "batch_size": 64, "evaluate_every": 0},
            "seeds": 3,
        },
        "single": {"kind": "calibrate", "input": {"from": "train"}},
        "passes": {"kind": "calibrate", "input": {"from": "train"}, "dropout_passes": 30},
        "samples": {"kind": "calibrate", "input": {"from": "train"}, "swag_samples": 30},
        "ensemble": {"kind": "calibrate", "input": {"from": "train", "over": "seed"}},
    },
}


@pytest.mark.slow
def test_drawn_networks_and_an_ensemble_lower_nll_and_passes_with_dropout_do_not(tmp_path: Path) -> None:
    """Test NLL of 359 digits, mean over 3 seeds: 0.094 for the single network, the mean of its late weights; 0.086 for 30
    networks drawn by SWAG; 0.079 for the ensemble of the three, which convexity puts below their mean. 30 passes with dropout
    give 0.095: lower in two seeds, much higher in one, and higher ECE in two. Their papers report gains on harder data.
    """
    results = run(SPEC, tmp_path, local=True)
    assert results.exit_code == ExitCode.FINISHED, list(results.runs()["error"])
    rows = (
        results.metrics().merge(results.runs()[["run_key", "stage"]], on="run_key").query("split == 'test'")
    )
    found = rows.pivot_table(index="stage", columns="name", values="value", aggfunc="mean")
    nll = found["nll"]
    assert nll["ensemble"] < nll["samples"] < nll["single"]
    assert nll["passes"] == pytest.approx(nll["single"], rel=0.1)
    assert (found.loc[["passes", "samples", "ensemble"], "entropy_epistemic"] > 0.001).all()
    assert found.loc["passes", "entropy_epistemic"] > found.loc["samples", "entropy_epistemic"]
