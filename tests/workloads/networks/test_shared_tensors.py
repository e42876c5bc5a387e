"""Networks with a weight that two layers share, from training to what is done with the finished network."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.deploy.files import read_network
from pruneyard.workloads.execution.layers import Execution
from pruneyard.workloads.merge.member import Member
from pruneyard.workloads.networks.channel_graph import UntraceableError, channel_graph
from pruneyard.workloads.networks.finished import Blueprint, FinishedNetwork
from pruneyard.workloads.networks.shared_tensors import first_names, state_once
from pruneyard.workloads.plugins import find
from pruneyard.workloads.sparse.job import SparseJob
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.sparse.uncovered import uncovered_parts
from pruneyard.workloads.sparse.update_schedule import UpdateSchedule
from pruneyard.workloads.training.initial_weights import InitialWeights
from pruneyard.workloads.training.recipe import Budget
from pruneyard.workloads.user_code.registration import register
from pruneyard.workloads.workload import Context, InterruptedJobError, Outcome

SHAPE = (1, 8, 8)
ONCE = ["inner.weight", "inner.bias", "outer.bias", "head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"]


class Tied(nn.Module):
    """Layers `inner` and `outer` with one weight."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(in_features, in_features), nn.Linear(in_features, in_features)
        self.outer.weight = self.inner.weight
        self.head = nn.Sequential(nn.Linear(in_features, 8), nn.ReLU(), nn.Linear(8, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.outer(self.inner(images.flatten(1)).relu()).relu())
        return logits


def job(execution: Execution = "masked") -> SparseJob:
    return SparseJob(
        data=Digits(max_train=100, max_test=50),
        model=find("models", register(Tied))(),
        method=RigL(density=0.2, schedule=UpdateSchedule(every=2)),
        budget=Budget(epochs=3, batch_size=32),
        execution=execution,
    )


def outcome_of(job: SparseJob, folder: Path) -> Outcome:
    *_, last = job.run(Context(checkpoints=CheckpointFolder(folder)))
    assert last.outcome is not None
    return last.outcome


def finished_of(outcome: Outcome) -> FinishedNetwork:
    assert outcome.blueprint is not None
    return FinishedNetwork.of(Blueprint.of_table(dict(outcome.blueprint)), weights=outcome.weights, masks=outcome.masks)


@pytest.mark.parametrize("execution", ["masked", "sparse"])
def test_a_training_with_a_shared_weight_resumes_from_its_checkpoint(execution: Execution, tmp_path: Path) -> None:
    paused = Context(checkpoints=CheckpointFolder(tmp_path / "paused"), should_pause=lambda: True)
    with pytest.raises(InterruptedJobError):
        list(job(execution).run(paused))
    whole, resumed = (outcome_of(job(execution), tmp_path / name) for name in ("whole", "paused"))
    assert list(whole.weights) == ONCE
    assert all(torch.equal(resumed.weights[name], tensor) for name, tensor in whole.weights.items())


def test_the_finished_network_shares_the_weight_again(tmp_path: Path) -> None:
    outcome = outcome_of(job(), tmp_path)
    finished = finished_of(outcome)
    assert finished.network.get_parameter("outer.weight") is finished.network.get_parameter("inner.weight")
    total, others = 64 * 64 + 64 * 8 + 8 * 10, 64 + 64 + 8 + 10
    active = {name: int(mask.sum()) for name, mask in outcome.masks.items()}
    assert finished.density == sum(active.values()) / total == pytest.approx(0.2, abs=1 / total)
    assert (outcome.num_parameters, outcome.num_active) == (total + others, sum(active.values()) + others)
    assert finished.forward_flops == pytest.approx(2 * (sum(active.values()) + active["inner.weight"]))  # it multiplies twice
    assert list(Member(run_key="a", network=finished).weights) == ONCE


def test_exports_store_the_weight_once_and_compute_with_it_twice(tmp_path: Path) -> None:
    blueprint = Blueprint(model={"name": register(Tied)}, image_shape=SHAPE, num_outputs=10, mean=(0.0,), std=(1.0,))
    masks = {"inner.weight": torch.rand(64, 64) < 0.3, "head.0.weight": torch.ones(8, 64, dtype=torch.bool)}
    masks["head.0.weight"][:3] = False  # dead units, which the format `compact` removes
    finished = FinishedNetwork.of(blueprint, weights=blueprint.build().state_dict(), masks=masks)
    for name in ("dense", "csr", "auto", "compact"):
        chosen = find("deploy.formats", name)()
        (tmp_path / "net").write_bytes(chosen.encode(finished))
        images = finished.random_images(3)
        torch.testing.assert_close(read_network(tmp_path / "net").network(images), finished.network(images))
        torch.testing.assert_close(chosen.build(finished, batch_size=3).run(images), finished.network(images))


def test_weights_under_both_names_are_read_where_they_are_equal(tmp_path: Path) -> None:
    blueprint = Blueprint(model={"name": register(Tied)}, image_shape=SHAPE, num_outputs=10, mean=(0.0,), std=(1.0,))
    source, target = blueprint.build(), blueprint.build()
    both = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    assert both.keys() - set(ONCE) == {"outer.weight"}
    assert first_names(FinishedNetwork.of(blueprint, weights=both, masks={}).network) == {"outer.weight": "inner.weight"}
    path = str(tmp_path / "start.safetensors")
    for stored in (both, state_once(source), {name: tensor for name, tensor in both.items() if name != "inner.weight"}):
        safetensors.torch.save_file(stored, path)
        initial = InitialWeights(path=path)
        initial.check(target)
        initial.load_into(target)
        assert torch.equal(target.get_parameter("outer.weight"), source.get_parameter("inner.weight"))
    safetensors.torch.save_file({**both, "outer.weight": torch.zeros(64, 64)}, path)
    with pytest.raises(ValueError, match=r"different numbers in inner.weight and outer.weight, which are one tensor"):
        InitialWeights(path=path).load_into(target)


def test_a_shared_weight_is_not_named_among_those_that_stay_dense() -> None:
    assert uncovered_parts(Tied(64, 10), SHAPE, prunes=True) == []


def test_channels_of_a_shared_weight_are_not_followed() -> None:
    with pytest.raises(UntraceableError, match=r"inner.weight and outer.weight are one tensor, whose channels cannot be"):
        channel_graph(Tied(64, 10), SHAPE)
