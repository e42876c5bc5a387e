"""Merges in chains: which runs are taken together, the data and the seed of a merge, and what follows it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pruneyard import Results, load_spec, run
from pruneyard.orchestrator.artifacts.reader import finished_network, open_run
from pruneyard.orchestrator.errors import ExitCode, SpecError

SPEC: dict[str, Any] = {
    "name": "soups",
    "data": {"name": "digits", "max_train": 120, "max_test": 60},
    "model": {"name": "mlp", "width": 12},
    "stages": {
        "dense": {"kind": "sparse", "method": "dense", "seeds": [4, 5], "budget": {"steps": 4, "batch_size": 16}},
        "tuned": {
            "kind": "sparse",
            "initial": {"from": "dense"},
            "method": {"name": "one_shot", "density": 0.3, "prune_at": 0},
            "budget": {"steps": 4, "batch_size": 16},
            "seeds": [10, 11],
        },
        "soup": {"kind": "merge", "input": {"from": "tuned", "over": "siblings"}, "method": "uniform"},
        "again": {"kind": "merge", "input": {"from": "soup", "over": "seed"}, "method": "greedy", "masks": "union"},
        "trust": {"kind": "calibrate", "input": {"from": "soup"}, "method": "temperature", "far": ["noise"]},
    },
}
TRAINED: dict[str, Any] = {key: SPEC[key] for key in ("data", "model")}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    found = run(SPEC, tmp_path_factory.mktemp("soups"), local=True)
    assert found.exit_code == ExitCode.FINISHED, list(found.runs()["error"])
    return found


def test_siblings_come_from_one_run_and_have_its_seed() -> None:
    jobs = {stage.name: stage.jobs for stage in load_spec(SPEC).stages}
    assert [job.workload.seed for job in jobs["soup"]] == [4, 5]
    by_key = {job.key: job for job in jobs["tuned"]}
    for soup, dense in zip(jobs["soup"], jobs["dense"], strict=True):
        assert [by_key[key].workload.seed for key in soup.parents] == [10, 11]
        assert {by_key[key].parents for key in soup.parents} == {(dense.key,)}
    assert len(jobs["again"]) == 1
    assert len(jobs["again"][0].parents) == 2


def test_the_data_of_a_merge_is_that_of_its_runs() -> None:
    without = {key: value for key, value in SPEC.items() if key != "data"}
    stages = {name: dict(table) for name, table in SPEC["stages"].items()}
    for name in ("dense", "tuned"):
        stages[name]["data"] = SPEC["data"]
    jobs = {stage.name: stage.jobs for stage in load_spec({**without, "stages": stages}).stages}
    assert jobs["soup"][0].resolved["data"] == jobs["tuned"][0].resolved["data"]
    assert [job.key for job in jobs["soup"]] == [job.key for job in load_spec(SPEC).stages[2].jobs]
    stages["other"] = {**stages["dense"], "data": {**SPEC["data"], "max_train": 100}}
    stages["mixed"] = {"kind": "merge", "input": {"runs": [jobs["dense"][0].key]}, "method": "uniform"}
    other = load_spec({**without, "stages": stages}).stages[-1].jobs[0]
    assert other.resolved["data"]["max_train"] == 120


def test_runs_without_common_data_are_refused_until_it_is_given() -> None:
    stages = {
        "dense": {**SPEC["stages"]["dense"], **TRAINED, "grid": {"data.max_train": [100, 120]}},
        "soup": {"kind": "merge", "input": {"from": "dense", "over": "all"}, "method": "uniform"},
    }
    with pytest.raises(SpecError) as caught:
        load_spec({"name": "mixed", "stages": stages})
    assert "data: is missing; input names" in str(caught.value)
    assert "share no data, so it must be given" in str(caught.value)
    stages["soup"] |= {"data": SPEC["data"]}
    assert load_spec({"name": "mixed", "stages": stages}).stages[1].jobs[0].resolved["data"]["max_train"] == 120


def test_networks_of_different_shapes_are_refused_before_they_are_trained(tmp_path: Path) -> None:
    stages = {
        "dense": {**SPEC["stages"]["dense"], **TRAINED, "grid": {"model.width": [12, 13]}},
        "soup": {"kind": "merge", "input": {"from": "dense", "over": "all"}, "method": "uniform", "data": SPEC["data"]},
    }
    with pytest.raises(SpecError, match=r"whose networks differ in hidden1.weight.*one architecture only"):
        run({"name": "mixed", "stages": stages}, tmp_path, local=True)


def test_a_merge_of_networks_trained_on_synthetic_sets_rests_on_the_set_too() -> None:
    distil = {"kind": "distill", "method": {"name": "random", "ipc": 2}, "seeds": 2, "data": SPEC["data"]}
    train = {**SPEC["stages"]["dense"], "data": {"from": "distil"}, "model": SPEC["model"]}
    soup = {"kind": "merge", "input": {"from": "train", "over": "siblings"}, "method": "uniform"}
    spec = load_spec({"name": "chain", "stages": {"distil": distil, "train": train, "soup": soup}})
    jobs = {stage.name: stage.jobs for stage in spec.stages}
    assert [job.workload.data.runs for job in jobs["soup"]] == [(job.key,) for job in jobs["distil"]]
    assert all(sets.key in soups.parents for sets, soups in zip(jobs["distil"], jobs["soup"], strict=True))
    assert jobs["soup"][0].identity["data"] == jobs["soup"][1].identity["data"]


def test_a_soup_has_the_mask_of_its_members_and_their_mean(results: Results) -> None:
    runs = results.runs().set_index("run_key")
    for key, soup in runs[runs["stage"] == "soup"].iterrows():
        members = [finished_network(results.folder, member) for member in soup["parent_key"].split(",")]
        network = finished_network(results.folder, str(key))
        assert soup["density"] == 0.3
        assert soup["num_active"] == runs.loc[soup["parent_key"].split(",")[0], "num_active"]
        for name, mask in network.masks.items():
            assert all(torch.equal(mask, member.masks[name]) for member in members)
            weights = [member.network.get_parameter(name) for member in members]
            torch.testing.assert_close(network.network.get_parameter(name), (weights[0] + weights[1]) / 2)


def test_what_training_started_from_is_read(results: Results) -> None:
    runs = results.runs()
    tuned, dense = (runs[runs["stage"] == stage].iloc[0] for stage in ("tuned", "dense"))
    start = open_run(str(results.folder.artifact(tuned["run_key"]))).initial_weights()
    assert start is not None
    expected = finished_network(results.folder, tuned["parent_key"]).network.state_dict()
    assert all(torch.equal(start[name], tensor) for name, tensor in expected.items())
    assert open_run(str(results.folder.artifact(dense["run_key"]))).initial_weights() is None


def test_a_soup_is_calibrated_and_merged_again(results: Results) -> None:
    runs = results.runs()
    assert (runs[runs["stage"].isin(["again", "trust"])]["status"] == "COMPLETED").all()
    trust = runs[runs["stage"] == "trust"]["run_key"]
    metrics = results.metrics()
    assert {"ood.noise", "test"} <= set(metrics[metrics["run_key"].isin(trust)]["split"])
