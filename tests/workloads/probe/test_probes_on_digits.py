"""The probes of regions, concepts, populations and inductive bias in one small study of digits, from the spec to the page."""

from pathlib import Path
from typing import Any

import pytest

from pruneyard.orchestrator.api import run

TRAIN: dict[str, Any] = {
    "kind": "sparse",
    "method": {"name": "dense"},
    "budget": {"epochs": 8, "batch_size": 64, "evaluate_every": 0},
    "seeds": 3,
}
SPEC: dict[str, Any] = {
    "name": "explained",
    "data": {"name": "digits"},
    "model": {"name": "mlp", "width": 32, "depth": 2},
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
    "stages": {
        "train": TRAIN,
        "regions": {"kind": "probe", "input": {"from": "train"}, "method": {"name": "lima", "side": 4, "max_samples": 50}},
        "parts": {"kind": "probe", "input": {"from": "train"}, "method": {"name": "craft", "num_concepts": 3}},
        "concepts": {
            "kind": "probe",
            "input": {"from": "train"},
            "grid": {"method": [{"name": "holistic_concepts"}], "method.extraction": ["nmf", "pca", "kmeans"]},
        },
        "bias": {
            "kind": "probe",
            "input": {"from": "train"},
            "method": {"name": "inductive_bias", "num_hypotheses": 20, "max_samples": 300},
        },
        "matched": {
            "kind": "probe",
            "input": {"from": "train", "over": "seed"},
            "method": {"name": "connectivity", "matching": True, "num_points": 5, "max_samples": 300},
        },
        "population": {
            "kind": "probe",
            "input": {"from": "train", "over": "all"},
            "method": {"name": "robust_explain", "corruptions": ["rotation"], "severities": [2, 4], "max_samples": 100},
        },
    },
}


@pytest.mark.slow
def test_trained_networks_have_the_directions_that_the_probes_measure(tmp_path: Path) -> None:
    results = run(SPEC, out=tmp_path / "out", local=True)
    assert results.exit_code == 0
    final = results.final().set_index(["stage", "method"])

    def mean(stage: str, measure: str) -> float:
        return float(final.loc[stage][measure].mean())

    # Searched regions are better than random ones, and than those of gradients, which see no interactions.
    assert mean("regions", "regions/insertion_gain") > max(0.02, mean("regions", "regions@gradient/insertion_gain"))
    assert mean("regions", "regions/deletion") < mean("regions", "regions@gradient/deletion")
    # The most important concepts decide, and their maps find them.
    assert mean("parts", "concepts/concept_deletion_gain") > 0
    assert mean("parts", "concepts/concept_map_gain") > 0
    # Components reconstruct best; concepts of any kind keep most decisions, and matter in the order of their importance.
    of_extraction = results.final()[results.final()["stage"] == "concepts"]
    assert (of_extraction["concepts/concept_agreement"] > 0.5).all()
    assert (of_extraction["concepts/concept_insertion_gain"] > 0).all()
    # A trained network is rarer than one in two random ones with fitted last layers.
    assert mean("bias", "model/inductive_bias") > 1
    assert mean("matched", "path_matched_train/loss_barrier") < mean("matched", "path_train/loss_barrier")
    assert mean("population", "population/shifted_accuracy") < mean("population", "population/accuracy")
    page = results.report(tmp_path / "page.html").read_text()
    for name in ("lima", "strategy", "concept-importance", "connectivity", "robust-explain"):
        assert f'id="probe-{name}"' in page
