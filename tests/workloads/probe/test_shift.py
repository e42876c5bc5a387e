"""The probe `shift`: against data that are corrupted before they are read, and its direction on a trained network."""

from functools import cache
from pathlib import Path

import pytest
import torch

from pruneyard.orchestrator.api import Results, run
from pruneyard.orchestrator.errors import SpecError
from pruneyard.testing.finished_runs import SOURCE, finished_run, load, random_networks
from pruneyard.workloads.data.sources.corrupted import Corrupted
from pruneyard.workloads.metrics.classification import standard_metrics
from pruneyard.workloads.probe.methods.shift import Shift
from pruneyard.workloads.probe.probe import Finding, Subject, logits_of

MODEL = {"name": "mlp", "width": 24}


def subject() -> Subject:
    (network,) = random_networks(MODEL, 1)
    return Subject(run=finished_run(network), device=torch.device("cpu"), load_data=load)


@cache
def found() -> Finding:
    return Shift(corruptions=("fog", "rotation"), severities=(2, 4)).measure([subject()], seed=3)


def test_equals_evaluation_on_data_that_were_corrupted_first() -> None:
    for corruption in ("fog", "rotation"):
        for severity in (2, 4):
            rows = Corrupted(base=SOURCE, corruption=corruption, severity=severity, seed=3).load().test
            logits = logits_of(subject().network(), subject().on_device(rows), num_classes=10).numpy()
            points = {p.name: p.y for p in found().curves if (p.key, p.x) == (corruption, severity)}
            wanted = standard_metrics(logits, rows.labels)
            assert points == {f"shift_{name}": pytest.approx(wanted[name], abs=1e-6) for name in ("accuracy", "ece", "nll")}


def test_metrics_are_means_over_severities_and_then_over_corruptions() -> None:
    by_corruption = []
    for corruption in ("fog", "rotation"):
        values = [p.y for p in found().curves if p.name == "shift_nll" and p.key == corruption and p.x > 0]
        by_corruption.append(sum(values) / len(values))
        assert found().metrics[f"shift.{corruption}", "nll"] == pytest.approx(by_corruption[-1])
    assert found().metrics["shift", "nll"] == pytest.approx(sum(by_corruption) / 2)
    clean = [p.y for p in found().curves if p.name == "shift_nll" and p.x == 0]
    assert clean == [found().metrics["shift.clean", "nll"]] * 2


def test_a_stage_probes_every_run_of_the_stage_before(tmp_path: Path) -> None:
    """A trained network loses accuracy and confidence fits worse, the further digits are rotated."""
    spec = {
        "name": "shifted",
        "stages": {
            "train": {
                "kind": "sparse",
                "data": {"name": "digits"},
                "model": {"name": "mlp", "width": 64},
                "method": {"name": "dense"},
                "budget": {"epochs": 8, "batch_size": 64, "evaluate_every": 0},
                "seeds": 2,
            },
            "probe": {"kind": "probe", "input": {"from": "train"}, "method": {"name": "shift", "corruptions": ["rotation"]}},
        },
    }
    results: Results = run(spec, out=str(tmp_path / "out"), local=True)
    runs = results.runs()
    probes = runs[runs["kind"] == "probe"]
    assert sorted(probes["parent_key"]) == sorted(runs[runs["kind"] == "sparse"]["run_key"])
    assert sorted(probes["seed"]) == [0, 1]
    final = results.final().set_index("run_key")
    for _, probe in probes.iterrows():
        row, parent = final.loc[probe["run_key"]], final.loc[probe["parent_key"]]
        assert row["shift.clean/accuracy"] == pytest.approx(parent["test/accuracy"])
        assert row["shift/accuracy"] < parent["test/accuracy"] - 0.2
        assert row["shift/ece"] > row["shift.clean/ece"]
    page = tmp_path / "page.html"
    results.report(page)
    assert "shift accuracy" in page.read_text(encoding="utf-8")


def test_runs_without_a_network_are_refused_at_plan(tmp_path: Path) -> None:
    spec = {
        "name": "wrong",
        "stages": {
            "rank": {"kind": "features", "data": {"name": "digits"}, "method": {"name": "variance"}},
            "probe": {"kind": "probe", "input": {"from": "rank"}, "method": {"name": "shift"}},
        },
    }
    with pytest.raises(SpecError, match="refers to a run of kind features, which leaves no network"):
        run(spec, out=str(tmp_path / "out"), local=True)


def test_several_runs_at_once_are_refused_at_plan(tmp_path: Path) -> None:
    spec = {
        "name": "wrong",
        "stages": {
            "train": {"kind": "sparse", "data": {"name": "digits"}, "model": {"name": "mlp"}, "method": {"name": "dense"},
                      "budget": {"epochs": 1}, "seeds": 2},
            "probe": {"kind": "probe", "input": {"from": "train", "over": "all"}, "method": {"name": "shift"}},
        },
    }
    with pytest.raises(SpecError, match="input: has 2 runs; shift measures 1 together; leave out over"):
        run(spec, out=str(tmp_path / "out"), local=True)
