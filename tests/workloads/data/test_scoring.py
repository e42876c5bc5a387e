"""The scoring run: its statistics, resuming from any epoch, and noisy labels that get the hardest scores."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.testing.cases import each_case
from pruneyard.workloads.data.batches import Augmentation, DeviceSplit
from pruneyard.workloads.data.dataset import Split
from pruneyard.workloads.data.scoring import (
    Scorer,
    Scoring,
    compute_errors_and_margins,
    compute_gradient_norms,
)
from pruneyard.workloads.data.selection import (
    CLASSIFIER_GRADIENTS,
    FEATURES,
    GRADIENTS,
    OUTPUTS,
    Pool,
    area_under_margin,
    error_norms,
    forgetting_events,
)
from pruneyard.workloads.data.selectors.ccs import CCS
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.seeding import global_stream, seed_globally, stream

TABLE = Scoring(networks=2, epochs=3, batch_size=32, lr=0.05)
ALL = frozenset({FEATURES, OUTPUTS, GRADIENTS})


@cache
def digits() -> Split:
    return Digits(max_train=300, max_test=60).load().train


def with_noise(num: int) -> tuple[Split, np.ndarray]:
    """Returns rows, `num` of which carry another class's label, and which rows these are."""
    split = digits()
    wrong = np.random.default_rng(0).choice(len(split), num, replace=False)
    labels = split.labels.copy()
    labels[wrong] = (labels[wrong] + 1 + np.arange(num) % 9) % 10
    return replace(split, labels=labels), wrong


def scorer(split: Split, *, asks: frozenset[str] = ALL, model: Any = Mlp(width=32, depth=1), **fields: Any) -> Scorer:  # noqa: B008
    def network(index: int) -> nn.Module:
        with global_stream(index, "scorer"):
            built: nn.Module = model.build(image_shape=(1, 8, 8), num_classes=10)
        return built

    return Scorer(
        table=replace(TABLE, **fields),
        rows=DeviceSplit(split, mean=[0.3], std=[0.4]),
        asks=asks,
        network=network,
        epoch_generator=lambda number: stream(0, "score", number),
    )


def finished(run: Scorer) -> dict[str, Tensor]:
    state = run.initial_state()
    for number in range(run.table.num_epochs):
        state = run.run_epoch(state, number)
    return state


def known(run: Scorer) -> Pool:
    return run.build_pool(finished(run))


def test_errors_and_margins_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [50.0, -50.0], [50.0, -50.0]])
    errors, margins = compute_errors_and_margins(logits, torch.tensor([0, 0, 1]))
    assert errors.tolist() == pytest.approx([0.5**0.5, 0, 2**0.5], abs=1e-6)
    assert margins.tolist() == pytest.approx([0, 1, -1], abs=1e-6)


def test_everything_asked_for_is_there_and_in_range() -> None:
    run = scorer(digits())
    pool, num = known(run), len(digits())
    assert pool.errors.shape == pool.margins.shape == (2, 3, num)
    assert pool.gradient_norms.shape == (2, num)
    assert pool.features.shape == (num, 32)
    assert ((pool.errors >= 0) & (pool.errors <= 2**0.5)).all()
    assert ((pool.margins >= -1) & (pool.margins <= 1)).all()
    assert (pool.gradient_norms > 0).all()
    assert (pool.errors[0] != pool.errors[1]).any()
    assert pool.errors[:, -1].mean() < pool.errors[:, 0].mean()  # they learn


def test_one_scoring_run_serves_every_selector() -> None:
    whole = known(scorer(digits()))
    for asks in (frozenset({FEATURES}), frozenset({OUTPUTS}), frozenset({GRADIENTS})):
        part = known(scorer(digits(), asks=asks))
        assert torch.equal(part.errors, whole.errors)
        assert torch.equal(part.features, whole.features) or FEATURES not in asks
        assert torch.equal(part.gradient_norms, whole.gradient_norms) or GRADIENTS not in asks


def test_scores_of_networks_with_dropout_do_not_depend_on_the_global_generator() -> None:
    run = scorer(digits(), model=Mlp(width=32, depth=1, dropout=0.5))
    pools = []
    for seed in (0, 1):
        seed_globally(seed)
        pools.append(known(run))
    assert torch.equal(pools[0].errors, pools[1].errors)
    plain = known(scorer(digits(), model=Mlp(width=32, depth=1)))
    assert not torch.equal(pools[0].errors, plain.errors)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_scoring_resumes_from_any_epoch_and_modifies_no_state(momentum: float) -> None:
    run = scorer(digits(), model=ConvNet(width=4, depth=1, norm="batch"), momentum=momentum, augment=Augmentation(pad=1))
    whole, state = finished(run), run.initial_state()
    for number in range(run.table.num_epochs):
        before = {key: tensor.clone() for key, tensor in state.items()}
        after = run.run_epoch(state, number)
        assert all(torch.equal(state[key], tensor) for key, tensor in before.items())
        state = {key: after[key].clone() for key in sorted(after)}
    assert state.keys() == whole.keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in whole.items())


@pytest.mark.parametrize("model", [Mlp(width=8, depth=1), ConvNet(width=4, depth=2)])
def test_gradient_norms_are_those_of_one_backward_pass_per_row(model: Any) -> None:
    run = scorer(digits(), model=model)
    network = run.network(0).eval()
    images, labels = next(run.rows.batches(40))
    classifier = {f"classifier.{name}" for name, _ in network.get_submodule("classifier").named_parameters()}
    for layers, names in (("all", {name for name, _ in network.named_parameters()}), ("classifier", classifier)):
        found = compute_gradient_norms(network, images, labels, layers=layers)
        for row in range(40):
            network.zero_grad(set_to_none=True)
            functional.cross_entropy(network(images[row : row + 1]), labels[row : row + 1]).backward()
            gradients = [p.grad.flatten() for name, p in network.named_parameters() if name in names and p.grad is not None]
            assert float(found[row]) == pytest.approx(float(torch.cat(gradients).norm()), rel=1e-4)


def test_rows_with_wrong_labels_come_out_hardest_and_ccs_drops_them() -> None:
    split, wrong = with_noise(24)
    pool = known(scorer(split, epochs=12, asks=frozenset({OUTPUTS, CLASSIFIER_GRADIENTS})))
    noisy = torch.zeros(len(split), dtype=torch.bool)
    noisy[wrong] = True
    scores = {
        "el2n": error_norms(pool),
        "margin": -area_under_margin(pool),
        "forgetting": forgetting_events(pool),
        "grand": pool.gradient_norms.mean(0),
    }
    for name, hardness in scores.items():
        hardest = hardness.sort(descending=True, stable=True).indices[:24]
        assert noisy[hardest].float().mean() > 0.6, name  # a tenth by chance
    kept = CCS(drop=0.3).select(pool, [5] * 10, stream(0, "select"))
    assert not noisy[kept].any()


@each_case("name", ["networks", "epochs", "batch_size"])
def test_counts_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is 0"):
        Scoring(**{name: 0})
