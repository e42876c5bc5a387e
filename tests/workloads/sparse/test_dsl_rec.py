"""DSL for recommendation: an update by hand, its limit, and trainings of a recommender on a generated click log."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pruneyard.testing.four_layer_network import SHAPES, functional_network_at
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.sources.clicks import Clicks
from pruneyard.workloads.execution.layers import Execution
from pruneyard.workloads.masks.masks import active_per_layer
from pruneyard.workloads.models.recommender import Recommender
from pruneyard.workloads.optimizers.adamw import AdamW
from pruneyard.workloads.sparse.methods.dsl_rec import DSLRec
from pruneyard.workloads.sparse.methods.itop import ITOP
from pruneyard.workloads.sparse.methods.static import Static
from pruneyard.workloads.sparse.update_schedule import LastingSchedule
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.mask_updater import MaskUpdater, SparseState, UpdateContext
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context, Progress

EVERY = LastingSchedule(every=10)
DENSE = ("hidden", "classifier")  # the tables share the budget among themselves


def context(weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> UpdateContext:
    """Returns the context of a first update, which moves about the whole drop fraction."""
    return UpdateContext(
        step=0,
        num_steps=1000,
        weights=weights,
        gradients=gradients,
        generator=torch.Generator().manual_seed(0),
        network=functional_network_at({name: torch.zeros(shape) for name, shape in SHAPES.items()}),  # not read
    )


def test_an_update_is_worked_out_by_hand() -> None:
    """Three of six active weights move: 0.1, 0.2 and 0.3 drop, all in the first layer; one grows there and two elsewhere."""
    weights = {"a": torch.tensor([[0.1, -0.2, 0.0], [0.3, 0.5, 0.0]]), "b": torch.tensor([[2.0, 0.0], [-1.0, 0.0]])}
    gradients = {"a": torch.tensor([[3.0, 0.0, 0.0], [0.0, 9.0, 0.1]]), "b": torch.tensor([[9.0, -4.0], [9.0, 5.0]])}
    masks = {name: weight != 0 for name, weight in weights.items()}
    after = DSLRec(density=0.6, schedule=EVERY).update(SparseState(masks), context(weights, gradients)).masks
    assert after["a"].tolist() == [[True, False, False], [False, True, False]]
    assert after["b"].tolist() == [[True, True], [True, True]]


def test_every_layer_keeps_a_weight() -> None:
    weights = {"a": torch.full((4, 4), 0.01), "b": torch.ones(4, 4)}
    gradients = {"a": torch.zeros(4, 4), "b": torch.ones(4, 4)}
    method = DSLRec(density=0.5, drop_fraction=1.0, schedule=EVERY)
    state = method.start(weights, generator=torch.Generator().manual_seed(1))
    masked = {name: weights[name] * mask for name, mask in state.masks.items()}
    counts = active_per_layer(method.update(state, context(masked, gradients)).masks)
    assert sum(counts.values()) == 16
    assert min(counts.values()) >= 1
    assert counts["b"] > counts["a"]


def test_a_single_layer_moves_as_under_itop() -> None:
    generator = torch.Generator().manual_seed(2)
    weights, gradients = ({"a": torch.randn(20, 30, generator=generator)} for _ in range(2))
    states = []
    for method in (DSLRec(density=0.2, schedule=EVERY), ITOP(density=0.2, distribution="uniform", schedule=EVERY)):
        state = method.start(weights, generator=torch.Generator().manual_seed(3))
        masked = {"a": weights["a"] * state.masks["a"]}
        states.append((state, method.update(state, context(masked, gradients))))
    for one, other in zip(*states, strict=True):
        assert torch.equal(one.masks["a"], other.masks["a"])
    assert not torch.equal(states[0][0].masks["a"], states[0][1].masks["a"])


def final(
    folder: Path, method: MaskUpdater, *, data: Clicks, epochs: int, seed: int = 0, execution: Execution = "masked"
) -> Progress:
    """Returns the last report of a training."""
    recipe = Recipe(
        budget=Budget(epochs=epochs, batch_size=256, evaluate_every=0), optimizer=AdamW(lr=0.003, weight_decay=0.01)
    )
    context = Context(checkpoints=CheckpointFolder(folder))
    model = Recommender(rows=data.cardinalities)
    *_, last = train(recipe, model=model, method=method, data=data.load(), seed=seed, context=context, execution=execution)
    return last


def test_stored_sparse_a_recommender_trains_as_masked(tmp_path: Path) -> None:
    data = Clicks(num_train=2_000, num_test=200)
    method = DSLRec(density=0.1, keep_dense=DENSE, schedule=LastingSchedule(every=4))
    masked, sparse = (
        final(tmp_path / each, method, data=data, epochs=2, execution=each).outcome for each in ("masked", "sparse")
    )
    assert masked is not None
    assert sparse is not None
    assert masked.masks.keys() == {f"tables.{field}.weight" for field in range(8)}
    for name, mask in masked.masks.items():
        assert torch.equal(sparse.masks[name], mask)
    for name, weight in masked.weights.items():
        torch.testing.assert_close(sparse.weights[name], weight, atol=1e-5, rtol=1e-4)
    assert (masked.num_active, masked.train_flops) == (sparse.num_active, sparse.train_flops)


@pytest.mark.slow
def test_density_moves_to_important_fields_and_lowers_the_loss_at_equal_budget(tmp_path: Path) -> None:
    """Two fields of one size, of which one is noise; paired over three seeds with static masks."""
    nll: dict[str, list[float]] = {"static": [], "dsl_rec": []}
    for seed in range(3):
        data = Clicks(cardinalities=(400, 400, 50), importance=(0.0, 1.0, 1.0), num_train=10_000, num_test=2_000, seed=seed)
        methods: dict[str, MaskUpdater] = {
            "static": Static(density=0.1, distribution="uniform", keep_dense=DENSE),
            "dsl_rec": DSLRec(density=0.1, keep_dense=DENSE, schedule=LastingSchedule(every=25)),
        }
        for name, method in methods.items():
            last = final(tmp_path / f"{name}-{seed}", method, data=data, epochs=10, seed=seed)
            nll[name] += [metric.value for metric in last.metrics if (metric.split, metric.name) == ("test", "nll")]
        assert last.outcome is not None
        counts = active_per_layer(last.outcome.masks)
        assert sum(counts.values()) == round(0.1 * 16 * 850)
        assert counts["tables.1.weight"] > counts["tables.0.weight"]
    assert (np.array(nll["dsl_rec"]) < np.array(nll["static"])).all()
