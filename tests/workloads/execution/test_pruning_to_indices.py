"""Dense trainings that are pruned to indices: the choices are those on masks, but no mask is ever made."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from test_sparse_training import WithEveryKind, assert_equal, assert_equal_at_every_step, final, training
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pruneyard.workloads import workload
from pruneyard.workloads.execution import layers
from pruneyard.workloads.masks import index_moves, index_pruning
from pruneyard.workloads.masks.index_pruning import Candidates, keep_largest_index, keep_largest_indices
from pruneyard.workloads.masks.masks import (
    NonFiniteScoresError,
    full_masks,
    keep_largest,
    keep_largest_overall,
    random_masks,
)
from pruneyard.workloads.masks.sparse_index import Mask, SparseIndex, full_mask, is_full
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.optimizers.adamw import AdamW
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.sparse.methods.magnitude import Magnitude
from pruneyard.workloads.sparse.methods.one_shot import OneShot, lamp_scores
from pruneyard.workloads.sparse.patterns.block import Block
from pruneyard.workloads.sparse.pruning import ValuePruning
from pruneyard.workloads.sparse.update_schedule import CubicSchedule
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext
from pruneyard.workloads.workload import InterruptedJobError

SHAPES = {"a": (30, 20), "b": (12, 25), "c": (7, 9)}
OFTEN = CubicSchedule(every=2)
METHODS: dict[str, ValuePruning] = {
    "one_shot, global": OneShot(density=0.05, ranking="global"),
    "one_shot, layer": OneShot(density=0.05, ranking="layer"),
    "one_shot, lamp": OneShot(density=0.05, ranking="lamp"),
    "one_shot, at the start": OneShot(density=0.05, prune_at=0.0),
    "gmp, layer": Magnitude(density=0.05, schedule=OFTEN),
    "gmp, global": Magnitude(density=0.05, scope="global", schedule=OFTEN),
    "gmp in one update": Magnitude(density=0.05, schedule=CubicSchedule(begin=0.3, end=0.3)),
}


def values(levels: int) -> dict[str, Tensor]:
    """Returns weights with so many different values, so that few levels give many ties."""
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randint(1, levels + 1, shape, generator=generator).float() for name, shape in SHAPES.items()}


@pytest.mark.parametrize("levels", [1, 3, 10**6])
@pytest.mark.parametrize("is_lamp", [False, True])
@pytest.mark.parametrize("start", ["full", "masks", "indices", "mixed"])
def test_the_choices_are_those_on_masks(monkeypatch: pytest.MonkeyPatch, levels: int, is_lamp: bool, start: str) -> None:
    monkeypatch.setattr(index_pruning, "BLOCK", 70)
    score: Callable[[Tensor], Tensor] = lamp_scores if is_lamp else torch.abs
    counts = {name: shape[0] * shape[1] // 2 for name, shape in SHAPES.items()}
    weights = values(levels)
    masks = random_masks(weights, counts, generator=torch.Generator().manual_seed(2))
    masks = dict(full_masks(weights, SHAPES)) if start == "full" else masks
    weights = {name: weight * masks[name] for name, weight in weights.items()}
    kinds: dict[str, Mask] = {
        name: SparseIndex.of_mask(mask) if start == "indices" or (start == "mixed" and name == "b") else mask
        for name, mask in masks.items()
    }
    candidates = {
        name: Candidates(
            name=name,
            mask=mask,
            values=weights[name].flatten()[mask.flat] if isinstance(mask, SparseIndex) else weights[name].flatten(),
            score=score,
            is_elementwise=not is_lamp,
        )
        for name, mask in kinds.items()
    }
    scores = {name: score(weight) for name, weight in weights.items()}
    for count in (3, 100, 400):
        one, other = (torch.Generator().manual_seed(7) for _ in range(2))
        expected = keep_largest_overall(scores, masks, count=count, generator=one)
        found = keep_largest_indices(candidates, count=count, generator=other)
        assert all(torch.equal(found[name].mask(), mask) for name, mask in expected.items())
        assert torch.equal(one.get_state(), other.get_state())
    for count in (1, 20, 300):
        one, other = (torch.Generator().manual_seed(7) for _ in range(2))
        expected_mask = keep_largest(scores["a"], masks["a"], count=count, generator=one, layer="a")
        assert torch.equal(keep_largest_index(candidates["a"], count=count, generator=other).mask(), expected_mask)
        assert torch.equal(one.get_state(), other.get_state())


def test_weights_that_are_not_finite_are_refused_with_the_layer() -> None:
    bad = torch.ones(600)
    bad[599] = torch.inf
    layer = Candidates(name="hidden", mask=full_mask((30, 20), bad.device), values=bad, score=torch.abs)
    with pytest.raises(NonFiniteScoresError, match="scores of hidden lie between"):
        keep_largest_index(layer, count=5, generator=torch.Generator())


def test_a_full_mask_holds_one_number_and_is_told_from_others() -> None:
    mask = full_mask((30, 20), torch.device("cpu"))
    assert mask.untyped_storage().nbytes() == 1
    assert torch.equal(mask, torch.ones(30, 20, dtype=torch.bool))
    assert is_full(mask)
    assert not is_full(torch.ones(30, 20, dtype=torch.bool))
    assert not is_full(torch.zeros((), dtype=torch.bool).expand(30, 20))
    assert not is_full(SparseIndex.of_mask(mask))


@pytest.mark.parametrize(
    ("name", "optimizer"), [*((name, SGD()) for name in METHODS), ("one_shot, layer", AdamW()), ("gmp, global", AdamW())]
)
def test_every_step_equals_the_masked_one(tmp_path: Path, name: str, optimizer: Any) -> None:
    method = METHODS[name]
    steps: dict[str, Any] = {"model": WithEveryKind(), "every_step": True, "steps": 14, "optimizer": optimizer}
    assert_equal(*(final(tmp_path / each, method, each, **steps) for each in ("masked", "sparse")))
    assert_equal_at_every_step(tmp_path / "masked", tmp_path / "sparse", steps=14)


class LargeMasks(TorchDispatchMode):
    """Records the operations that return a bool tensor of so many bytes."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_bytes, self.found = num_bytes, list[str]()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            is_mask = isinstance(leaf, Tensor) and leaf.device.type == "cpu" and leaf.dtype == torch.bool
            if is_mask and leaf.untyped_storage().nbytes() >= self.num_bytes:
                self.found.append(f"{function} of {tuple(leaf.shape)}")
        return result


@pytest.mark.parametrize("name", ["one_shot, global", "one_shot, layer", "one_shot, lamp", "gmp in one update"])
def test_no_mask_of_a_layer_exists_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Neither while all weights are active, nor in the update, nor in checkpoints: of layers with 200 x 64 weights or more."""
    for module in (index_moves, index_pruning):
        monkeypatch.setattr(module, "BLOCK", 1000)
    monkeypatch.setattr(layers, "MIN_SIZE", 200 * 64)
    model = Mlp(width=200)
    with LargeMasks(200 * 64) as masked:
        final(tmp_path / "masked", METHODS[name], "masked", model=model, steps=6)
    assert masked.found
    with LargeMasks(200 * 64) as sparse:
        final(tmp_path / "sparse", METHODS[name], "sparse", model=model, steps=6, every_step=True)
    assert not sparse.found


@pytest.mark.parametrize("name", ["one_shot, global", "one_shot, layer", "gmp, layer", "gmp, global"])
def test_a_training_stopped_before_and_after_pruning_resumes_bit_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    method = METHODS[name]
    monkeypatch.setattr(workload, "STOP_CHECK_EVERY_S", 0)
    model = WithEveryKind()
    whole = final(tmp_path / "whole", method, "sparse", model=model)
    for stop_at in (3, 10):
        with pytest.raises(InterruptedJobError):
            list(training(tmp_path / "cut", method, "sparse", model=model, stop_at=stop_at))
    resumed = final(tmp_path / "cut", method, "sparse", model=model)
    assert whole.outcome is not None
    assert resumed.outcome is not None
    for name, weight in whole.outcome.weights.items():
        assert torch.equal(resumed.outcome.weights[name], weight), name
    shares = [{m.name: m.value for m in each.metrics if m.name in ("explored", "density")} for each in (whole, resumed)]
    assert shares[0] == shares[1]


def test_a_pattern_or_an_update_of_its_own_is_given_masks() -> None:
    class Own(OneShot):
        def update(self, state: SparseState, context: UpdateContext) -> SparseState:
            return state

    assert OneShot(density=0.1).prunes_to_indices
    assert not Own(density=0.1).prunes_to_indices
    assert not OneShot(density=0.1, pattern=Block(shape=(2, 2))).prunes_to_indices


@pytest.mark.parametrize("execution", ["sparse", "auto"])
@pytest.mark.parametrize(
    "method",
    [
        OneShot(density=0.1, prune_at=0.0),
        OneShot(density=0.1, prune_at=0.0, ranking="lamp"),
        Magnitude(density=0.1, distribution="uniform", schedule=CubicSchedule(begin=0.0, end=0.0)),
    ],
    ids=["global", "lamp", "layer"],
)
def test_convolutions_get_masks_beside_layers_that_get_indices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: ValuePruning, execution: layers.Execution
) -> None:
    """`auto` measures the classifier after it has been given an index, and here finds it faster masked."""
    monkeypatch.setattr(layers, "is_sparse_faster", lambda *_, **__: False)
    assert_equal(*(final(tmp_path / each, method, each, model=ConvNet(width=8), steps=4) for each in ("masked", execution)))
