"""Trainings that start from the weights of a file or of an earlier run, and learning rates by part of the network."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.errors import SpecError, UsageError
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.workloads.networks.parameter_groups import parameter_groups
from pruneyard.workloads.training.initial_weights import InitialWeights

SPEC: dict[str, Any] = {
    "name": "tuned",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 100, "max_test": 50},
    "model": {"name": "mlp", "width": 8, "depth": 1},
    "method": {"name": "dense"},
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0},
    "budget": {"steps": 3, "batch_size": 16},
}


def network(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def saved(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> str:
    path = tmp_path / "start.safetensors"
    safetensors.torch.save_file(tensors, path)
    return str(path)


def test_weights_and_buffers_of_a_file_are_loaded_except_those_that_are_reset(tmp_path: Path) -> None:
    source, target = network(), network()
    before = target.state_dict()["2.weight"].clone()
    initial = InitialWeights(path=saved(tmp_path, source.state_dict()), reset=("2.*",))
    initial.check(target)
    initial.load_into(target)
    after = target.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in source.state_dict().items() if not name.startswith("2."))
    assert torch.equal(after["2.weight"], before)


@pytest.mark.parametrize(
    ("change", "reset", "message"),
    [
        ({"0.weight": None}, (), r"lacks 0.weight; give the same model, or name in initial.reset what is to start at random"),
        ({"head.weight": torch.ones(1)}, (), r"has head.weight, which the network does not have"),
        ({"0.weight": torch.ones(4, 2)}, (), r"has 0.weight of shape \(4, 2\); it must be \(3, 2\)"),
        ({}, ("haed.*",), r"initial.reset\[0\] is 'haed.\*', which matches none of 0.weight, 0.bias, 1.weight, 1"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_they_are_read(
    change: dict[str, torch.Tensor | None], reset: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    tensors = {name: tensor for name, tensor in {**network().state_dict(), **change}.items() if tensor is not None}
    initial = InitialWeights(path=saved(tmp_path, tensors), reset=reset)
    with torch.device("meta"):
        empty = network()
    with pytest.raises(ValueError, match=message):
        initial.check(empty)


def test_numbers_that_are_not_finite_and_other_files_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, network().state_dict() | {"2.bias": torch.tensor([0.0, torch.nan])})
    with pytest.raises(ValueError, match=r"has numbers that are not finite in 2.bias"):
        InitialWeights(path=path).load_into(network())
    Path(path).write_bytes(b"not tensors")
    with pytest.raises(ValueError, match=r"is no safetensors file"):
        InitialWeights(path=path).check(network())


def test_the_content_of_a_file_and_what_is_reset_are_part_of_the_run_key_and_its_path_is_not(tmp_path: Path) -> None:
    def key(**initial: Any) -> str:
        (job,) = load_spec(SPEC | {"initial": initial}).jobs
        return job.key

    (plain,) = load_spec(SPEC).jobs
    path = saved(tmp_path, network().state_dict())
    first = key(path=path)
    assert "initial" not in plain.identity
    assert first != plain.key
    (tmp_path / "copy.safetensors").write_bytes(Path(path).read_bytes())
    assert key(path=str(tmp_path / "copy.safetensors")) == first
    assert key(path=path, reset=["2.*"]) != first
    assert key(path=saved(tmp_path, network(4).state_dict())) != first
    with pytest.raises(SpecError, match=r"initial.path: is '.*gone', which cannot be read: No such file"):
        key(path=str(tmp_path / "gone"))
    with pytest.raises(SpecError, match=r"initial.reset: is \('2.\*',\), but there are no initial weights; give path or from"):
        key(reset=["2.*"])
    with pytest.raises(SpecError, match=r"initial.digest: is 0{16}; .* so it holds other weights"):
        key(path=path, digest="0" * 16)


def test_a_stage_starts_from_the_runs_of_another_and_freezes_what_has_factor_0(tmp_path: Path) -> None:
    recipe = {name: SPEC[name] for name in ("kind", "model", "method", "optimizer", "budget")}
    tuned = recipe | {
        "initial": {"from": "train", "reset": ["classifier.*"]},
        "optimizer": SPEC["optimizer"] | {"lr_factors": [["hidden1.*", 0], ["*", 2]]},
    }
    chain = {"name": "chain", "data": SPEC["data"], "stages": {"train": recipe | {"seeds": 2}, "tune": tuned}}
    runs = run(chain, tmp_path / "out", local=True).runs().set_index("run_key")
    assert list(runs["status"]) == 4 * ["COMPLETED"], list(runs["error"])
    children = runs[runs["stage"] == "tune"]
    assert sorted(children["seed"]) == [0, 1]
    for key, child in children.iterrows():
        own, parent = (
            safetensors.torch.load_file(tmp_path / "out" / "artifacts" / str(each) / "model.safetensors")
            for each in (key, child["parent_key"])
        )
        assert torch.equal(own["hidden1.weight"], parent["hidden1.weight"])
        assert not torch.equal(own["classifier.weight"], parent["classifier.weight"])
    first = {"from": str(tmp_path / "out"), "where": {"seed": 0}}
    wrong = SPEC | {"initial": first, "model": {"name": "mlp", "width": 9, "depth": 1}}
    with pytest.raises(UsageError, match=r"has hidden1.weight of shape \(8, 64\); it must be \(9, 64\)"):
        run(wrong, tmp_path / "other", local=True)


def test_groups_have_factors_of_the_learning_rate_and_keep_their_order_without_them() -> None:
    named = dict(network().named_parameters())
    groups = parameter_groups(
        named.items(), weight_decay=0.1, decay_bias_and_norm=False, lr_factors=(("2.bias", 3.0), ("2.*", 10.0))
    )
    names = {id(parameter): name for name, parameter in named.items()}
    found = [([names[id(p)] for p in group["params"]], group["weight_decay"], group["lr_factor"]) for group in groups]
    assert found == [
        (["0.weight"], 0.1, 1.0),
        (["0.bias", "1.weight", "1.bias"], 0.0, 1.0),
        (["2.bias"], 0.0, 3.0),
        (["2.weight"], 0.1, 10.0),
    ]
    (plain,) = parameter_groups(named.items(), weight_decay=0.1, decay_bias_and_norm=True)
    assert list(plain) == ["params", "weight_decay"]


def test_wrong_factors_are_refused() -> None:
    with pytest.raises(SpecError, match=r"optimizer.lr_factors\[0\]: is \[\*, -1.0\]; the factor must be 0 or more"):
        load_spec(SPEC | {"optimizer": {"name": "adamw", "lr_factors": [["*", -1]]}})
    job: Any = load_spec(SPEC | {"optimizer": {"name": "sgd", "lr_factors": [["haed.*", 1]]}}).jobs[0].workload
    with pytest.raises(ValueError, match=r"optimizer.lr_factors\[0\] is 'haed.\*', which matches no parameter of hidden1.weight"):
        job.check(job.data.load())
