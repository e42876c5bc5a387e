"""OOD sets from the spec to the results folder and its page."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports import glossary
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.predictions import read_predictions
from pruneyard.workloads.metrics.detection import auroc, confidence_scores

PLAIN = {
    "name": "unknown",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 200, "max_test": 50},
    "model": {"name": "mlp", "width": 8},
    "method": "dense",
    "budget": {"steps": 6, "batch_size": 16},
}
TABLES = {**PLAIN, "seeds": 2, "ood": ["noise", {"name": "noise", "distribution": "binary", "num_test": 40}]}


def test_ood_sets_are_identity_and_their_absence_is_not() -> None:
    keys = {load_spec({**PLAIN, "ood": sets}).jobs[0].key for sets in ([], ["noise"], [{"name": "noise", "seed": 1}])}
    assert len(keys) == 3
    assert load_spec(PLAIN).jobs[0].key in keys
    assert "unknowns" not in load_spec(PLAIN).jobs[0].identity
    assert load_spec(PLAIN).jobs[0].resolved["ood"] == []


def test_the_metrics_of_ood_sets_are_listed_and_explained(pruneyard: Callable[..., Any]) -> None:
    listed = {entry["name"]: entry for entry in json.loads(pruneyard("list", "metrics", "--json").out)}
    assert "in-distribution inputs as positives" in listed["aupr_in"]["summary"]
    assert {"auroc", "aupr_out", "fpr95"} <= listed.keys()
    assert {glossary.term_of(name) for name in listed} <= glossary.METRICS.keys()


def test_their_numbers_and_outputs_are_in_the_results_and_on_the_page(tmp_path: Path) -> None:
    results = run(load_spec(TABLES), tmp_path / "out", local=True)
    assert results.exit_code == 0
    finals = results.metrics().query("split.str.startswith('ood')").set_index(["run_key", "split", "name"])["value"]
    for key in results.runs()["run_key"]:
        outputs = read_predictions(RunFolder(tmp_path / "out").predictions(key))
        assert list(outputs) == ["val", "calib", "test", "ood.noise-1", "ood.noise-2"]
        _, labels, logits = outputs["ood.noise-2"]
        assert labels.tolist() == [-1] * 40
        found = auroc(confidence_scores(outputs["test"][2]), confidence_scores(logits))
        assert finals[key, "ood.noise-2", "auroc"] == found
        assert finals[key, "ood", "auroc"] == pytest.approx((finals[key, "ood.noise-1", "auroc"] + found) / 2)
    summary = results.summary()
    assert {"ood/auroc", "ood/fpr95", "test/accuracy"} <= set(summary.attrs["measures"])
    assert not [measure for measure in summary.attrs["measures"] if measure.startswith("ood.")]
    page = results.report(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "OOD AUROC" in page
    assert "with in-distribution inputs as positives" in page
