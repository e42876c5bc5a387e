"""The weights that are pruned can be chosen by patterns; the others stay dense and do not count in the density."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.masks.choice import check_prunable, choose_prunable
from pruneyard.workloads.masks.masks import prunable_weights
from pruneyard.workloads.models.vit_tiny import ViTTiny
from pruneyard.workloads.networks.finished import Blueprint, FinishedNetwork
from pruneyard.workloads.plugins import find
from pruneyard.workloads.seeding import global_stream
from pruneyard.workloads.sparse.job import SparseJob
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.sparse.uncovered import uncovered_parts
from pruneyard.workloads.sparse.update_schedule import UpdateSchedule
from pruneyard.workloads.training.recipe import Budget
from pruneyard.workloads.user_code.registration import register
from pruneyard.workloads.workload import Context

SHAPE = (1, 8, 8)


def network() -> nn.Module:
    """Weights: body.0, body.2 and head; an embedding beside them cannot be pruned."""
    body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    return nn.ModuleDict({"body": body, "table": nn.Embedding(3, 4), "head": nn.Linear(4, 2)})


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ((), ["body.0.weight", "body.2.weight", "head.weight"]),
        (("*.weight", "!head.*"), ["body.0.weight", "body.2.weight"]),
        (("!head.*",), ["body.0.weight", "body.2.weight"]),
        (("!body.*", "body.2.*"), ["body.2.weight", "head.weight"]),
        (("body.?.weight",), ["body.0.weight", "body.2.weight"]),
    ],
)
def test_patterns_are_applied_in_order(patterns: tuple[str, ...], expected: list[str]) -> None:
    model = network()
    choose_prunable(model, patterns)
    assert list(prunable_weights(model)) == expected
    choose_prunable(model, ("head.*",))  # replaces the choice before
    assert list(prunable_weights(model)) == ["head.weight"]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (("haed.*",), r"prunable\[0\] is 'haed.\*', which matches no weight; .* can be pruned: body.0.weight, body.2.weight"),
        (("*.weight", "!table.*"), r"prunable\[1\] is '!table.\*', which matches only table.weight, which cannot be pruned"),
        (("head.*", "!head.*"), r"leaves no weight to prune of body.0.weight"),
    ],
)
def test_a_pattern_that_chooses_nothing_is_refused_by_name(patterns: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_prunable(network(), patterns)


class Frozen(nn.Module):
    """A body that is not trained, and a head."""

    def __init__(self, in_features: int, num_classes: int, frozen: tuple[str, ...] = ("0.weight",)) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(in_features, 16), nn.ReLU(), nn.Linear(16, 16))
        self.head = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, num_classes))
        for name in frozen:
            self.body.get_parameter(name).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images.flatten(1)))
        return logits


TRAINED = ["body.2.weight", "head.0.weight", "head.2.weight"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ((), TRAINED),
        (("*",), TRAINED),
        (("!body.0.*",), TRAINED),
        (("body.*", "head.0.*"), ["body.2.weight", "head.0.weight"]),
        (("body.0.*", "head.0.*"), ["body.0.weight", "head.0.weight"]),
    ],
)
def test_a_frozen_weight_is_pruned_only_where_a_pattern_names_it_alone(patterns: tuple[str, ...], expected: list[str]) -> None:
    model = Frozen(64, 10)
    choose_prunable(model, patterns)
    assert list(prunable_weights(model)) == expected
    said = [warning for warning in uncovered_parts(model, SHAPE, prunes=True) if "they are frozen" in warning]
    assert said == [] if "body.0.weight" in expected else said[0].startswith("body.0.weight stay dense")


@pytest.mark.parametrize("patterns", [(), ("*",)])
def test_a_frozen_weight_that_an_earlier_version_pruned_still_counts(patterns: tuple[str, ...]) -> None:
    model = Frozen(64, 10)
    choose_prunable(model, patterns, masked=["body.0.weight", "head.0.weight"])
    assert list(prunable_weights(model)) == ["body.0.weight", *TRAINED]


def test_a_model_that_is_frozen_as_a_whole_has_nothing_to_prune() -> None:
    model = network().requires_grad_(False)
    choose_prunable(model, ())
    message = r"model: has no .* weight to prune that is trained; choose method dense, or name some of body.0.weight, body.2"
    with pytest.raises(ValueError, match=message):
        check_prunable(model)


def test_rigl_leaves_a_frozen_layer_as_it_was(tmp_path: Path) -> None:
    job = SparseJob(
        data=Digits(max_train=100, max_test=50),
        model=find("models", register(Frozen))(),
        method=RigL(density=0.3, schedule=UpdateSchedule(every=2)),
        budget=Budget(steps=6, batch_size=16),
    )
    (warning,) = [warning for warning in job.check(job.data.load()) if "stay dense" in warning]
    assert warning.startswith("body.0.weight stay dense: they are frozen")
    *_, last = job.run(Context(checkpoints=CheckpointFolder(tmp_path)))
    outcome = last.outcome
    assert outcome is not None
    assert outcome.blueprint is not None
    with global_stream(job.seed, "init"):
        start = job.model.build(image_shape=SHAPE, num_classes=10)
    assert torch.equal(outcome.weights["body.0.weight"], start.get_parameter("body.0.weight"))
    assert list(outcome.masks) == TRAINED
    total, active = 16 * 16 + 16 * 8 + 8 * 10, sum(int(mask.sum()) for mask in outcome.masks.values())
    others = 64 * 16 + 16 + 16 + 8 + 10
    assert active == math.floor(0.3 * total + 0.5)
    assert (outcome.num_parameters, outcome.num_active) == (total + others, active + others)
    finished = FinishedNetwork.of(Blueprint.of_table(dict(outcome.blueprint)), weights=outcome.weights, masks=outcome.masks)
    assert finished.density == active / total
    assert finished.forward_flops == pytest.approx(2 * (active + 64 * 16))


def test_rigl_prunes_the_packed_weights_of_a_vision_transformer(tmp_path: Path) -> None:
    model = ViTTiny(patch_size=2, width=16, depth=2, heads=2)
    job = SparseJob(
        data=Digits(max_train=200, max_test=50),
        model=model,
        method=RigL(density=0.3, schedule=UpdateSchedule(every=2)),
        budget=Budget(steps=6, batch_size=16),
        prunable=("*in_proj_weight", "*.mlp.*"),
    )
    with_rest = model.build(image_shape=SHAPE, num_classes=10)
    choose_prunable(with_rest, job.prunable)
    assert uncovered_parts(with_rest, SHAPE, prunes=True)[0].startswith("exports and latency keep")  # nothing cannot be pruned
    *_, last = job.run(Context(checkpoints=CheckpointFolder(tmp_path)))
    outcome = last.outcome
    assert outcome is not None
    assert outcome.blueprint is not None
    pruned = ("attention.in_proj_weight", "mlp.0.weight", "mlp.3.weight")
    blocks = [f"block{number}.{name}" for number in (1, 2) for name in pruned]
    assert list(outcome.masks) == blocks
    total, active = sum(mask.numel() for mask in outcome.masks.values()), sum(int(mask.sum()) for mask in outcome.masks.values())
    assert active == math.floor(0.3 * total + 0.5)
    assert outcome.num_parameters is not None
    assert outcome.num_active == outcome.num_parameters - total + active
    blueprint = Blueprint.of_table(dict(outcome.blueprint))
    finished = FinishedNetwork.of(blueprint, weights=outcome.weights, masks=outcome.masks)
    assert finished.density == active / total
    assert list(finished.layers) == blocks


def test_a_pattern_that_fits_no_weight_is_refused_before_any_job_starts() -> None:
    job = SparseJob(
        data=Digits(max_train=100, max_test=50),
        model=ViTTiny(width=16, depth=1, heads=2),
        method=RigL(density=0.3),
        budget=Budget(steps=2),
        prunable=("blocks.*",),
    )
    with pytest.raises(ValueError, match=r"prunable\[0\] is 'blocks.\*', which matches no weight"):
        job.check(job.data.load())
