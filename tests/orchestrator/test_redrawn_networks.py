"""Calibrate jobs with MC dropout, with SWAG samples, and on runs that learned from val."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import logsumexp, softmax

from pruneyard import run
from pruneyard.orchestrator.artifacts.reader import open_run
from pruneyard.orchestrator.errors import ExitCode, SpecError
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.predictions import read_predictions
from pruneyard.workloads.calibrate.mc_dropout import mc_dropout_logits
from pruneyard.workloads.calibrate.sampled_members import BATCH_SIZE
from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.seeding import stream_seed

NETS: dict[str, Any] = {
    "name": "nets",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 400, "max_test": 100},
    "method": {"name": "static", "density": 0.5},
    "budget": {"epochs": 4, "batch_size": 32, "evaluate_every": 0},
    "average": {"begin": 0.25, "per_epoch": 2, "swag_rank": 3},
}
DROPOUT = {"name": "mlp", "width": 16, "dropout": 0.3}
CONSTANT = {"name": "mlp", "width": 16, "dropout": 1e-9}


def trained(folder: Path, **fields: Any) -> Path:
    results = run({**NETS, **fields}, folder, local=True)
    assert results.exit_code == ExitCode.FINISHED, list(results.runs()["error"])
    return folder


@pytest.fixture(scope="module")
def dropout_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains one network with dropout, whose weights change."""
    return trained(tmp_path_factory.mktemp("noisy"), model=DROPOUT, ood=["noise"])


@pytest.fixture(scope="module")
def constant_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains one network that hardly drops a unit and, by its learning rate, does not change: all members equal it."""
    return trained(tmp_path_factory.mktemp("still"), model=CONSTANT, optimizer={"name": "sgd", "lr": 1e-12})


def calibrate(nets: Path, **fields: Any) -> dict[str, Any]:
    return {"name": "trust", "kind": "calibrate", "input": {"from": str(nets)}, **fields}


def run_single_job(table: dict[str, Any], folder: Path) -> tuple[Results, pd.Series]:
    """Returns the results of a single job, and its metrics by split and name."""
    results = run(table, folder, local=True)
    assert results.exit_code == ExitCode.FINISHED, list(results.runs()["error"])
    return results, results.metrics().set_index(["split", "name"])["value"]


def refusal(table: dict[str, Any], folder: Path) -> str:
    results = run(table, folder, local=True)
    assert results.exit_code == ExitCode.FAILED
    (error,) = results.runs()["error"]
    return str(error)


@pytest.mark.parametrize("members", [{"dropout_passes": 3}, {"swag_samples": 3}], ids=["passes", "samples"])
def test_members_that_do_not_differ_are_the_stored_network(
    constant_network: Path, members: dict[str, int], tmp_path: Path
) -> None:
    _, stored = run_single_job(calibrate(constant_network, method="temperature"), tmp_path / "stored")
    _, found = run_single_job(calibrate(constant_network, method="temperature", **members), tmp_path / "drawn")
    for name, value in stored.items():
        assert found[name] == pytest.approx(value, abs=2e-5), name
    assert found["test", "entropy_epistemic"] == pytest.approx(0, abs=1e-7)
    assert found["test", "entropy_total"] == pytest.approx(found["test", "entropy_aleatoric"], abs=1e-7)


def test_statistics_of_drawn_networks_are_of_the_batches_that_the_finished_network_has(
    tmp_path: Path,
) -> None:
    """With constant weights, norms have the statistics of the finished network, including augmented rows."""
    nets = trained(
        tmp_path / "nets",
        model={"name": "convnet", "depth": 1, "width": 4, "norm": "batch"},
        optimizer={"name": "sgd", "lr": 1e-12},
        augment={"pad": 1, "flip": True},
        budget={"epochs": 2, "batch_size": 32, "evaluate_every": 0},
    )
    _, stored = run_single_job(calibrate(nets), tmp_path / "stored")
    _, found = run_single_job(calibrate(nets, swag_samples=2), tmp_path / "drawn")
    for name in ("nll", "brier", "accuracy"):
        assert found["test", name] == pytest.approx(stored["test", name], abs=2e-5)


def test_the_mean_of_dropout_passes_is_evaluated_also_on_ood_sets(dropout_network: Path, tmp_path: Path) -> None:
    """By hand: 7 passes over val, calib, test and noise, one after the other."""
    table = calibrate(dropout_network, dropout_passes=7, far=["noise"], scores=["energy"], keep_predictions=True, seeds=[5])
    results, found = run_single_job(table, tmp_path)
    (row,) = results.runs().to_dict("records")
    kept = read_predictions(tmp_path / "artifacts" / row["run_key"] / "predictions.parquet")
    (nets,) = Results(dropout_network).runs()["run_key"]
    theirs = open_run(str(dropout_network / "artifacts" / nets))
    data, network = theirs.source().load(), theirs.network()
    splits = [DeviceSplit(s, mean=data.mean, std=data.std) for s in (data.val, data.calib, data.test)]
    batches = [images for split in splits for images, _ in split.batches(BATCH_SIZE)]
    logits = mc_dropout_logits(network.network, batches, 7, seed=5).double().numpy()
    members = softmax(logits[:, -len(data.test) :], axis=-1)
    assert list(kept) == ["val", "calib", "test", "ood.noise"]
    assert np.exp(kept["test"][2]) == pytest.approx(members.mean(0), abs=1e-6)
    assert kept["test"][0].tolist() == data.test.row_ids.tolist()
    own = -(members * np.log(members)).sum(-1).mean()
    assert found["test", "entropy_aleatoric"] == pytest.approx(own, rel=1e-5)
    whole = -(members.mean(0) * np.log(members.mean(0))).sum(-1).mean()
    assert found["test", "entropy_total"] == pytest.approx(whole, rel=1e-5)
    assert found["test", "entropy_epistemic"] == pytest.approx(whole - own, rel=1e-4)
    confidence = {name: np.exp(kept[name][2]).max(axis=1) for name in ("test", "ood.noise")}
    wins = (confidence["test"][:, None] > confidence["ood.noise"][None]).mean()
    assert found["ood.noise", "auroc"] == pytest.approx(wins, abs=1e-3)
    _, still_scored = run_single_job(calibrate(dropout_network, far=["noise"], scores=["energy"]), tmp_path / "network")
    assert (
        found["ood@energy", "auroc"] == still_scored["ood@energy", "auroc"]
    )  # scores are of the network itself
    assert found["ood", "auroc"] != still_scored["ood", "auroc"]


def test_drawn_networks_are_averaged_and_more_of_them_are_others(dropout_network: Path, tmp_path: Path) -> None:
    found = {num: run_single_job(calibrate(dropout_network, swag_samples=num), tmp_path / str(num))[1] for num in (1, 4)}
    assert found[1]["test", "entropy_epistemic"] == pytest.approx(0, abs=1e-9)
    assert found[4]["test", "entropy_epistemic"] > 1e-4
    assert found[4]["test", "nll"] != found[1]["test", "nll"]
    again = run_single_job(calibrate(dropout_network, swag_samples=4), tmp_path / "again")[1]
    assert again.equals(found[4])


def test_moments_are_stored_with_the_network_which_is_their_mean(dropout_network: Path) -> None:
    (nets,) = Results(dropout_network).runs()["run_key"]
    finished = open_run(str(dropout_network / "artifacts" / nets))
    moments = finished.tensors["swag.safetensors"]()
    weights = finished.network().network.state_dict()
    assert int(moments["num"]) == 6  # two an epoch, from the second on
    for name, weight in weights.items():
        assert torch.allclose(moments[f"mean/{name}"].float(), weight, atol=1e-6)
        assert (moments[f"square/{name}"] >= moments[f"mean/{name}"] ** 2 - 1e-15).all()
        assert f"deviation2/{name}" in moments
        assert f"deviation3/{name}" not in moments
    mask = finished.network().masks["hidden1.weight"]
    assert not moments["square/hidden1.weight"][~mask].any()


def test_ensembles_report_how_far_their_members_differ(dropout_network: Path, tmp_path: Path) -> None:
    pair = trained(
        tmp_path / "pair", model=DROPOUT, seeds=2, budget={"epochs": 1, "batch_size": 32}, average={}
    )
    keys = list(Results(pair).runs()["run_key"])
    members = [read_predictions(pair / "artifacts" / key / "predictions.parquet")["test"][2] for key in keys]
    log_p = np.stack([m - logsumexp(m.astype(np.float64), axis=1, keepdims=True) for m in members])
    table = calibrate(pair) | {"input": {"from": str(pair), "over": "seed"}}
    _, found = run_single_job(table, tmp_path / "trust")
    own = -(np.exp(log_p) * log_p).sum(-1).mean()
    assert found["test", "entropy_aleatoric"] == pytest.approx(own, rel=1e-6)
    with pytest.raises(SpecError, match="an ensemble has none"):
        load_spec(table | {"dropout_passes": 3, "far": ["noise"]})
    assert "has no swag.safetensors" in refusal(
        calibrate(pair, swag_samples=3, input={"runs": keys[:1], "folder": str(pair)}), tmp_path / "none"
    )


def test_members_of_sibling_runs_are_averaged_together(tmp_path: Path) -> None:
    """Each run has members of another seed, and in the limit of members that do not differ the ensemble of the runs."""
    pair = trained(tmp_path / "pair", model=DROPOUT, seeds=2, average={})
    table = calibrate(pair, keep_predictions=True) | {"input": {"from": str(pair), "over": "seed"}}
    results, _ = run_single_job({**table, "dropout_passes": 5}, tmp_path / "both")
    (key,) = results.runs()["run_key"]
    found = read_predictions(tmp_path / "both" / "artifacts" / key / "predictions.parquet")["test"][2]
    expected = []
    for number, run_key in enumerate(load_spec({**table, "dropout_passes": 5}).jobs[0].workload.input.runs):
        theirs = open_run(str(pair / "artifacts" / run_key))
        data, network = theirs.source().load(), theirs.network()
        splits = [DeviceSplit(s, mean=data.mean, std=data.std) for s in (data.val, data.calib, data.test)]
        batches = [images for split in splits for images, _ in split.batches(BATCH_SIZE)]
        seed = stream_seed(0, f"calibrate/run {number}") if number else 0
        logits = mc_dropout_logits(network.network, batches, 5, seed=seed).double().numpy()
        expected.append(softmax(logits[:, -len(data.test) :], axis=-1))
    assert np.exp(found) == pytest.approx(np.concatenate(expected).mean(axis=0), abs=1e-6)

    constant_network = trained(
        tmp_path / "still", model=CONSTANT, optimizer={"name": "sgd", "lr": 1e-12}, seeds=2
    )
    ensemble = calibrate(constant_network) | {"input": {"from": str(constant_network), "over": "seed"}}
    _, stored = run_single_job(ensemble, tmp_path / "stored")
    _, drawn = run_single_job({**ensemble, "swag_samples": 3}, tmp_path / "drawn")
    for name, value in stored.items():
        assert drawn[name] == pytest.approx(value, abs=2e-5), name


def test_a_network_without_dropout_is_refused(tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain", model={"name": "mlp", "width": 8}, average={}, budget={"epochs": 1})
    assert "the network has no dropout" in refusal(calibrate(plain, dropout_passes=3), tmp_path / "trust")


def test_val_is_neither_fitted_on_nor_judged_after_an_objective_that_learned_from_it(tmp_path: Path) -> None:
    nets = trained(
        tmp_path / "nets", model=DROPOUT, objective="adaptive_focal", budget={"epochs": 2}, average={}
    )
    _, found = run_single_job(calibrate(nets, method="temperature"), tmp_path / "calib")
    assert "val" not in found.index.get_level_values("split")
    assert "but the objective of" in refusal(calibrate(nets, fit="val"), tmp_path / "val")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dropout_passes": -1}, "is -1; it must be 0 or more"),
        ({"dropout_passes": 2, "swag_samples": 2}, "set only one of them"),
        ({"swag_samples": 2, "scores": ["energy"]}, "need an OOD set; set near or far"),
    ],
)
def test_what_no_members_can_give_is_refused(constant_network: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_spec(calibrate(constant_network, **fields))


@pytest.mark.parametrize("average", [{"swag_rank": 3}, {"begin": 0.9, "swag_rank": 3}])
def test_moments_of_fewer_than_two_samples_are_refused_before_training(average: dict[str, Any]) -> None:
    (job,) = load_spec({**NETS, "model": DROPOUT, "average": average}).jobs
    with pytest.raises(
        ValueError, match=r"average.swag_rank is 3, but this budget takes [01] weight samples"
    ):
        job.workload.check(job.workload.data.load())  # type: ignore[attr-defined]


def test_stored_moments_enter_the_run_key_and_their_absence_does_not() -> None:
    def key(**average: Any) -> str:
        (job,) = load_spec({**NETS, "model": DROPOUT, "average": average}).jobs
        return job.key

    assert key(begin=0.5) == key(begin=0.5, swag_rank=0) != key(begin=0.5, swag_rank=3)
