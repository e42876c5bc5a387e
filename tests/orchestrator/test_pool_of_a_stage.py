"""A chain whose first stage trains the networks that Acc-DD distils along."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from pool_of_networks import CONVNET, distil_along
from safetensors.torch import load_file

from pruneyard import run
from pruneyard.orchestrator.artifacts.parents import locate_upstream
from pruneyard.orchestrator.artifacts.reader import open_run
from pruneyard.orchestrator.errors import ExitCode, UsageError
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.distill.distiller import DistillContext, RealSet
from pruneyard.workloads.distill.methods.acc_dd import AccDD

DISTIL = {**distil_along("pretrain"), "seeds": 2}
PRETRAIN: dict[str, Any] = {
    "kind": "sparse",
    "model": CONVNET,
    "method": {"name": "static", "density": 0.5},
    "budget": {"epochs": 1, "batch_size": 20},
    "seeds": 3,
}
CHAIN: dict[str, Any] = {
    "name": "pool",
    "data": {"name": "digits", "max_train": 200, "max_test": 60},
    "stages": {"pretrain": PRETRAIN, "distil": DISTIL},
}


def with_stage(name: str, **fields: Any) -> dict[str, Any]:
    return {**CHAIN, "stages": {**CHAIN["stages"], name: {**CHAIN["stages"][name], **fields}}}


def test_the_pool_is_the_networks_that_the_stage_left(tmp_path: Path) -> None:
    spec = load_spec(CHAIN)
    pretrained, distilled = (
        [job for job in spec.jobs if job.stage == stage] for stage in ("pretrain", "distil")
    )
    keys = tuple(job.key for job in pretrained)
    assert len(keys) == 3
    assert [(job.parents, job.workload.seed) for job in distilled] == [(keys, 0), (keys, 1)]
    results = run(CHAIN, out=tmp_path / "out", local=True)
    assert set(results.runs()["status"]) == {"COMPLETED"}
    assert set(results.metrics().query("name == 'storage_bytes'")["step"]) == {
        2
    }  # sweeps, and no epochs of a pool

    folder = RunFolder(tmp_path / "out")
    method = locate_upstream(distilled[0].workload, folder).method
    assert isinstance(method, AccDD)
    data = Digits(max_train=200, max_test=60).load()
    split = DeviceSplit(data.train, mean=data.mean, std=data.std)
    real = RealSet.of(split, mean=data.mean, std=data.std, num_classes=10)
    pool = method.start(DistillContext(real=real, model=distilled[0].workload.model, seed=0, open_run=open_run)).tensors
    for member, key in enumerate(keys):
        weights = load_file(folder.artifact(key) / "model.safetensors")
        masks = load_file(folder.artifact(key) / "masks.safetensors")
        assert masks
        for name, weight in weights.items():
            wanted = torch.where(masks[name], weight, 0.0) if name in masks else weight
            assert torch.equal(pool[f"pool/{member}/{name}"], wanted)

    as_run = load_spec(str(tmp_path / "out" / "spec.yaml"))
    assert {job.key for job in as_run.jobs} == {job.key for job in spec.jobs}
    again = run(CHAIN, out=tmp_path / "out", local=True)
    assert list(again.runs()["attempt"]) == [1] * 5


def test_the_runs_are_identity_and_their_absence_is_none() -> None:
    def keys(spec: dict[str, Any]) -> list[str]:
        return [job.key for job in load_spec(spec).jobs if job.stage == "distil"]

    longer = with_stage("pretrain", budget={"epochs": 2, "batch_size": 20})
    fewer = with_stage("pretrain", seeds=2)
    assert len({keys(spec)[0] for spec in (CHAIN, longer, fewer)}) == 3
    own = {name: value for name, value in DISTIL["method"].items() if name != "networks"}
    alone = {**DISTIL, "name": "own", "data": CHAIN["data"]}
    first, empty = (load_spec({**alone, "method": table}).jobs[0] for table in (own, {**own, "networks": {}}))
    assert "networks" not in first.identity["method"]
    assert first.key == empty.key


def test_networks_of_another_width_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"width=8.*it must be.*width=4"):
        run(with_stage("pretrain", model={**CONVNET, "width": 8}), out=tmp_path, local=True)
    assert not (tmp_path / "artifacts").exists()


def test_networks_of_another_width_in_another_folder_fail_with_both_named(tmp_path: Path) -> None:
    run({**CHAIN, "stages": {"pretrain": {**PRETRAIN, "model": {**CONVNET, "width": 8}}}}, out=tmp_path / "wide", local=True)
    method = {**DISTIL["method"], "networks": {"from": str(tmp_path / "wide"), "over": "all"}}
    results = run({**CHAIN, "stages": {"distil": {**DISTIL, "method": method}}}, out=tmp_path / "out", local=True)
    assert results.exit_code == ExitCode.FAILED
    failed = results.runs().query("status == 'FAILED'")
    assert len(failed) == 2
    assert all("width=8" in error and "width=4" in error for error in failed["error"])


def test_the_form_in_the_packaged_spec_is_one(tmp_path: Path) -> None:
    text = files("pruneyard.orchestrator.specs").joinpath("distil-speed.yaml").read_text(encoding="utf-8")
    form = text[text.index("# name: distil-speed-stages") :]
    path = tmp_path / "form.yaml"
    path.write_text(
        "".join(line.removeprefix("# ") for line in form.splitlines(keepends=True)), encoding="utf-8"
    )
    spec = load_spec(str(path))
    pretrained, distilled = (
        [job for job in spec.jobs if job.stage == stage] for stage in ("pretrain", "distil")
    )
    assert (len(pretrained), len(distilled)) == (5, 9)
    assert {job.parents for job in distilled} == {tuple(job.key for job in pretrained)}
    assert {job.workload.method.num_iterations for job in distilled} == {40000, 20000, 10000}


@pytest.mark.parametrize("table", [{"pool": 2}, {"early_epochs": 1}])
def test_settings_that_exclude_a_pool_of_a_stage_are_refused_before_anything_starts(table: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="|".join(table)):
        load_spec(with_stage("distil", method={**DISTIL["method"], **table}))
