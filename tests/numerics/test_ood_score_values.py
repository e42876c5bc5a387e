"""Scores of unknown inputs against published values, closed forms, brute-force twins, and the score each becomes at a limit."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from evidences import by_hand, drawn, images, logits_alone, network, num_pixels, rows_of, seen
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch import nn

from workloads.calibrate.evidence import Evidence, Floats, LastLayer, evidence_of
from workloads.calibrate.score import Score
from workloads.calibrate.scores.ash import ASH
from workloads.calibrate.scores.dice import DICE
from workloads.calibrate.scores.energy import Energy
from workloads.calibrate.scores.gaussian import Gaussian
from workloads.calibrate.scores.gen import GEN
from workloads.calibrate.scores.grad_norm import GradNorm
from workloads.calibrate.scores.knn import KNN, kth_squared_distance, unit_length
from workloads.calibrate.scores.mahalanobis import Mahalanobis
from workloads.calibrate.scores.max_logit import MaxLogit
from workloads.calibrate.scores.msp import MSP
from workloads.calibrate.scores.odin import ODIN
from workloads.calibrate.scores.react import ReAct, cut_energy
from workloads.calibrate.scores.relative_mahalanobis import RelativeMahalanobis
from workloads.calibrate.scores.scale import Scale
from workloads.calibrate.scores.vim import ViM, virtual_logit_score

GOLDEN = logits_alone([[2.0, 1.0, 0.0, -1.0]])
ACTIVATIONS = np.array([[4.0, 3.0, 2.0, 1.0]])


def scored(score: Score, rows: Evidence, *, train: Evidence | None = None) -> Floats:
    return score.fit(train, seed=0).score(rows)


def log_softmax(logits: Floats) -> Floats:
    return np.asarray(logits - logsumexp(logits, axis=1, keepdims=True))


# Values worked by hand or published


def test_golden_values_of_one_row_of_logits() -> None:
    assert np.exp(scored(MSP(), GOLDEN)) == pytest.approx([0.6439143], abs=5e-8)
    assert scored(Energy(), GOLDEN) == pytest.approx([2.4401897], abs=5e-8)
    assert scored(MaxLogit(), GOLDEN) == [2.0]


def test_golden_gradient_length_for_uniform_targets_and_for_targets_of_one() -> None:
    weight = np.outer([2.0, 1.0, 0.0, -1.0], [1 / 14, 2 / 14, 3 / 14])  # gives these logits for h = (1, 2, 3)
    rows = by_hand([[1.0, 2.0, 3.0]], weight, np.zeros(4))
    assert rows.logits == pytest.approx(GOLDEN.logits, abs=1e-12)
    assert scored(GradNorm(), rows) == pytest.approx([4.7269711], abs=5e-8)
    assert 4 * scored(GradNorm(), rows) == pytest.approx([18.9078845], abs=5e-8)


@pytest.mark.parametrize(
    ("score", "shaped"),
    [
        (ASH(variant="p", prune=0.5), [4, 3, 0, 0]),
        (ASH(variant="b", prune=0.5), [5, 5, 0, 0]),
        (ASH(variant="s", prune=0.5), [16.6909, 12.5182, 0, 0]),
        (Scale(prune=0.5), [16.6909, 12.5182, 8.3455, 4.1727]),
    ],
)
def test_golden_activations_after_shaping(score: ASH | Scale, shaped: list[float]) -> None:
    assert score.shape(ACTIVATIONS)[0] == pytest.approx(shaped, abs=5e-5)


def test_dice_keeps_the_largest_contributions_of_all_classes_together() -> None:
    """Mean features 1 and 2: contributions (3, 2), (-1, 8). The larger half keeps W_00 and W_11."""
    train = by_hand([[0.0, 4.0], [2.0, 0.0]], [[3.0, 1.0], [-1.0, 4.0]], [0.5, -0.5])
    found = scored(DICE(drop=0.5), train, train=train)
    assert found == pytest.approx(logsumexp([[0.5, 15.5], [6.5, -0.5]], axis=1))


def test_react_cuts_at_a_quantile_of_all_activations() -> None:
    train = by_hand([[0.0, 1.0], [2.0, 3.0], [4.0, 8.0]], np.eye(2), np.zeros(2))
    fitted = ReAct(quantile=0.8).fit(train, seed=0)
    assert fitted.numbers == {"ceiling": 4.0}
    assert fitted.score(train) == pytest.approx(logsumexp([[0, 1], [2, 3], [4, 4]], axis=1))


def test_vim_takes_off_what_lies_outside_the_principal_direction() -> None:
    """Two features, no bias: the origin is 0 and the principal direction the first axis, along which the rows spread most."""
    train = by_hand([[3.0, 1.0], [-3.0, 1.0], [3.0, -1.0], [-3.0, -1.0]], np.eye(2), np.zeros(2))
    fitted = ViM(principal=0.5).fit(train, seed=0)
    assert fitted.numbers == {
        "alpha": pytest.approx(1.5),
        "dimension": 1,
    }  # largest logits 3, 1, 3, -1; residuals 1
    rows = by_hand([[2.0, 0.0], [2.0, 4.0]], np.eye(2), np.zeros(2))
    assert fitted.score(rows) == pytest.approx(logsumexp(rows.logits, axis=1) - [0, 6])


# Brute-force twins


def test_mahalanobis_by_loops_over_rows_and_classes() -> None:
    train, rows = drawn(31), drawn(7, seed=1)
    h, labels, shrinkage = train.features, train.class_labels, 0.03
    means = [h[labels == k].mean(axis=0) for k in range(3)]
    tied = sum(np.outer(x - means[k], x - means[k]) for x, k in zip(h, labels, strict=True)) / len(h)
    background = sum(np.outer(x - h.mean(axis=0), x - h.mean(axis=0)) for x in h) / len(h)

    def precision(covariance: Floats) -> Floats:
        identity = np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
        return np.linalg.inv((1 - shrinkage) * covariance + shrinkage * identity)

    def squared(x: Floats, mean: Floats, inverse: Floats) -> float:
        return float((x - mean) @ inverse @ (x - mean))

    near = [min(squared(x, mean, precision(tied)) for mean in means) for x in rows.features]
    far = [squared(x, h.mean(axis=0), precision(background)) for x in rows.features]
    assert scored(Mahalanobis(shrinkage=shrinkage), rows, train=train) == pytest.approx(-np.array(near))
    expected = np.array(far) - np.array(near)
    assert scored(RelativeMahalanobis(shrinkage=shrinkage), rows, train=train) == pytest.approx(expected)


def test_gaussian_is_the_log_density_that_scipy_gives() -> None:
    train, rows = drawn(50), drawn(7, seed=1)
    h = train.features
    twin = multivariate_normal(h.mean(axis=0), np.cov(h, rowvar=False, bias=True))
    assert scored(Gaussian(shrinkage=0.0), rows, train=train) == pytest.approx(twin.logpdf(rows.features))


@pytest.mark.parametrize("distances_at_once", [1, 100, 10**6])
def test_the_kth_neighbour_by_sorting_all_distances(distances_at_once: int) -> None:
    train, rows = drawn(40), drawn(11, seed=1)
    bank, queries = unit_length(train.features), unit_length(rows.features)
    for k in (1, 7, 40):
        brute = [sorted(float(((x - y) ** 2).sum()) for y in bank)[k - 1] for x in queries]
        found = kth_squared_distance(queries, bank, k, distances_at_once=distances_at_once)
        assert found == pytest.approx(brute, abs=1e-14)
        assert scored(KNN(k=k), rows, train=train) == pytest.approx(-np.array(brute), abs=1e-14)


def test_a_bank_of_a_share_holds_that_many_training_rows() -> None:
    train = drawn(40)
    nearest = KNN(k=1, share=0.25).fit(train, seed=0)
    assert nearest.numbers == {"bank": 10}
    assert (nearest.score(train) > -1e-14).sum() == 10  # rows of the bank find themselves
    other = KNN(k=1, share=0.25).fit(train, seed=1)
    assert (nearest.score(train) != other.score(train)).any()


def test_the_gradient_length_is_that_of_autograd() -> None:
    rows = drawn(9, num_extra=1)
    weight, bias = rows.class_layer
    layer = nn.Linear(weight.shape[1], len(weight)).double()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    expected = []
    for feature in torch.from_numpy(rows.features):
        layer.zero_grad()
        uniform = torch.full((1, len(bias)), 1 / len(bias), dtype=torch.float64)
        nn.functional.cross_entropy(layer(feature[None]), uniform).backward()
        assert layer.weight.grad is not None
        expected.append(float(layer.weight.grad.abs().sum()))
    assert scored(GradNorm(), rows) == pytest.approx(expected)


@pytest.mark.parametrize("top", [1, 2, 4, 100])
def test_generalised_entropy_by_loops(top: int) -> None:
    logits = np.random.default_rng(0).normal(size=(6, 4)) * 3
    for row, found in zip(logits, scored(GEN(gamma=0.3, top=top), logits_alone(logits)), strict=True):
        p = np.sort(np.exp(row) / np.exp(row).sum())[::-1][:top]
        assert found == pytest.approx(-sum(x**0.3 * (1 - x) ** 0.3 for x in p))


@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_odin_of_a_linear_network_moves_the_image_by_its_known_gradient(temperature: float) -> None:
    """dCE/dx = W'(softmax(z / T) - one-hot) / T, and a step in normalised images of eps / std of the channel."""
    rows = evidence_of(network({"name": "mlp", "depth": 0}), images(12), batch_size=5)
    weight, bias = rows.class_layer
    x = rows.features.astype(np.float64)  # the flattened normalised image
    p = np.exp(log_softmax(rows.class_logits / temperature))
    onehot = np.eye(3)[rows.logits.argmax(axis=1)]
    std = np.repeat([0.25, 0.5], num_pixels() // 2)
    moved = x - 0.01 / std * np.sign((p - onehot) @ weight)
    expected = log_softmax((moved @ weight.T + bias) / temperature).max(axis=1)
    found = scored(ODIN(temperature=temperature, eps=0.01), rows)
    assert found == pytest.approx(expected, abs=1e-5 / temperature)  # the network computes in float32
    assert (found > scored(ODIN(temperature=temperature, eps=0.0), rows)).all()


def test_odin_works_where_nothing_may_be_differentiated_and_leaves_no_trace() -> None:
    rows, score = seen(9), ODIN(eps=0.01)
    usual = scored(score, rows)
    with torch.inference_mode():
        assert (scored(score, rows) == usual).all()
    with torch.no_grad():
        assert (scored(score, rows) == usual).all()
    assert all(parameter.grad is None for parameter in rows.run_again.network.parameters())


def test_odin_scores_a_row_whatever_rows_share_its_batch() -> None:
    finished, split = network(), images(12)
    together = scored(ODIN(eps=0.01), evidence_of(finished, split, batch_size=12))
    alone = scored(ODIN(eps=0.01), evidence_of(finished, split, batch_size=1))
    assert together == pytest.approx(alone, abs=1e-7)


# What each becomes at a limit


def test_energy_becomes_the_largest_logit_as_temperature_falls() -> None:
    rows = drawn(20)
    assert scored(Energy(temperature=1e-4), rows) == pytest.approx(scored(MaxLogit(), rows), abs=1e-3)


@pytest.mark.parametrize("num_extra", [0, 1])
def test_odin_without_step_and_temperature_is_msp_bit_for_bit(num_extra: int) -> None:
    rows = seen(20, num_extra=num_extra)
    assert (scored(ODIN(temperature=1.0, eps=0.0), rows) == scored(MSP(), rows)).all()


def test_nothing_cut_dropped_pruned_or_taken_off_leaves_energy() -> None:
    train, rows = drawn(30, num_extra=1), drawn(20, num_extra=1, seed=1)
    energy = pytest.approx(scored(Energy(), rows), rel=1e-12)
    assert cut_energy(rows, math.inf) == energy
    assert scored(DICE(drop=0.0), rows, train=train) == energy
    assert scored(ASH(variant="p", prune=0.0), rows) == energy
    width = rows.features.shape[1]
    assert virtual_logit_score(rows, np.zeros(width), np.eye(width)[:, :2], 0.0) == energy
    assert scored(ReAct(quantile=1.0), train, train=train) == pytest.approx(
        scored(Energy(), train), rel=1e-12
    )


def test_scaling_by_all_activations_multiplies_them_by_e() -> None:
    rows = drawn(20)
    weight, bias = rows.class_layer
    expected = logsumexp(math.e * rows.features @ weight.T + bias, axis=1)
    assert scored(Scale(prune=0.0), rows) == pytest.approx(expected)
    assert scored(ASH(variant="s", prune=0.0), rows) == pytest.approx(expected)


def test_full_shrinkage_measures_euclidean_distance() -> None:
    train, rows = drawn(30), drawn(20, seed=1)
    labels = train.class_labels
    means = np.array([train.features[labels == k].mean(axis=0) for k in range(3)])
    variance = ((train.features - means[labels]) ** 2).mean()
    squares = ((rows.features[:, None] - means) ** 2).sum(axis=2).min(axis=1)
    assert scored(Mahalanobis(shrinkage=1.0), rows, train=train) == pytest.approx(-squares / variance)


def test_the_relative_distance_is_mahalanobis_less_twice_the_gaussian_s_log_density() -> None:
    train, rows = drawn(30), drawn(20, seed=1)
    relative, near, density = (
        scored(score, rows, train=train) for score in (RelativeMahalanobis(), Mahalanobis(), Gaussian())
    )
    assert np.ptp(relative - (near - 2 * density)) == pytest.approx(0, abs=1e-9)


def test_with_classes_that_share_a_mean_nothing_is_left_of_the_relative_distance() -> None:
    half = drawn(30)
    h = np.concatenate([half.features, half.features, half.features])
    labels = np.repeat(np.arange(3), 30)
    layer = LastLayer(features=h, weight=np.eye(3, h.shape[1]), bias=np.zeros(3))
    train = Evidence(logits=h[:, :3], labels=labels, last_layer=layer)
    assert scored(RelativeMahalanobis(), train, train=train) == pytest.approx(np.zeros(90), abs=1e-9)


def test_generalised_entropy_of_two_classes_ranks_as_msp_does_and_tells_saturated_rows_apart() -> None:
    logits = np.array([[gap, 0.0] for gap in (0.1, 0.5, 3, 20, 36, 37, 38, 60, 200)])
    found = scored(GEN(), logits_alone(logits))
    assert (np.diff(found) > 0).all()
    assert (np.diff(scored(MSP(), logits_alone(logits))) > 0).all()


def test_outputs_that_are_no_classes_count_for_the_softmax_of_msp_alone() -> None:
    rows = drawn(20, num_extra=2)
    layer = rows.last_layer
    assert layer is not None
    classes = dataclasses.replace(
        rows,
        logits=rows.logits[:, :3],
        num_extra=0,
        last_layer=dataclasses.replace(layer, weight=layer.weight[:3], bias=layer.bias[:3]),
    )
    train, of_classes = (rows_of(part, np.arange(15)) for part in (rows, classes))
    for score in (
        Energy(),
        MaxLogit(),
        GradNorm(),
        ASH(),
        Scale(),
        DICE(),
        ReAct(),
        ViM(),
        Mahalanobis(),
        KNN(k=2),
    ):
        found, expected = scored(score, rows, train=train), scored(score, classes, train=of_classes)
        assert found == pytest.approx(expected), score
    assert (scored(MSP(), rows) < scored(MSP(), classes)).all()


# What cannot be scored


def test_rows_of_zeros_keep_a_score() -> None:
    train = drawn(30)
    weight, bias = train.class_layer
    dark = by_hand(np.zeros((2, weight.shape[1])), weight, bias)
    at_bias = pytest.approx(np.full(2, logsumexp(bias)))
    for score in (ASH(variant="b"), ASH(variant="s"), ASH(variant="p"), Scale()):
        assert scored(score, dark) == at_bias, score
    assert scored(KNN(k=3), dark, train=train) == pytest.approx([-1, -1])


def test_a_score_that_overflows_is_refused_by_row() -> None:
    h = np.zeros((2, 2000))
    h[:, 0], h[1] = 1.0, 1.0  # one kept of 2000 equal ones: multiplied by exp(2000)
    with pytest.raises(ValueError, match="row 1 has ash score"):
        scored(ASH(variant="s", prune=0.9999), by_hand(h, np.ones((2, 2000)), np.zeros(2)))


def test_negative_activations_are_refused_where_they_are_ranked() -> None:
    rows = by_hand([[1.0, 1.0], [1.0, -2.0]], np.eye(2), np.zeros(2))
    for score in (ASH(), Scale()):
        with pytest.raises(ValueError, match=r"row 1 has feature -2\.0; activations must not be negative"):
            scored(score, rows)


def relabelled(labels: list[int]) -> Evidence:
    return dataclasses.replace(drawn(len(labels)), labels=np.array(labels))


@pytest.mark.parametrize("score", [Mahalanobis(), RelativeMahalanobis()])
def test_a_class_of_one_row_and_rows_of_no_class_are_refused(score: Score) -> None:
    with pytest.raises(ValueError, match="class 2 has 1 training rows; it must have at least 2"):
        score.fit(relabelled([0, 0, 1, 1, 2]), seed=0)
    with pytest.raises(ValueError, match="row 1 has label -1"):
        score.fit(relabelled([0, -1, 1, 1, 2]), seed=0)


def test_dead_units_make_the_covariance_singular_and_shrinkage_mends_it() -> None:
    train = drawn(30)
    weight, bias = train.class_layer
    dead = np.c_[train.features, np.zeros(30)]
    with_dead = by_hand(dead, np.c_[weight, np.ones(3)], bias, labels=train.labels)
    woken = by_hand(dead + np.eye(7)[6], np.c_[weight, np.ones(3)], bias)
    for score in (Mahalanobis, Gaussian, RelativeMahalanobis):
        with pytest.raises(
            ValueError, match=r"shrinkage is 0\.0, at which the covariance of 7 features is singular"
        ):
            score(shrinkage=0.0).fit(with_dead, seed=0)
        assert np.isfinite(scored(score(), with_dead, train=with_dead)).all()
    mended = Mahalanobis().fit(with_dead, seed=0)
    assert (mended.score(woken) < mended.score(with_dead) - 100).all()  # a dead unit that wakes is unknown


def test_features_that_teach_nothing_are_refused() -> None:
    flat = by_hand(np.ones((6, 3)), np.eye(3), np.zeros(3), labels=np.arange(6) % 3)
    for score in (Mahalanobis(), Gaussian()):
        with pytest.raises(ValueError, match="do not vary"):
            score.fit(flat, seed=0)
    with pytest.raises(ValueError, match="leaves nothing of the training features outside"):
        ViM(principal=0.4).fit(flat, seed=0)
    with pytest.raises(ValueError, match=r"k is 7; it must be at most 6"):
        KNN(k=7).fit(flat, seed=0)
    dull = by_hand([[1.0, 2.0], [2.0, 1.0]], -np.eye(2), np.zeros(2))
    with pytest.raises(
        ValueError, match=r"mean largest logit of the training rows is -1; it must be above 0"
    ):
        ViM().fit(dull, seed=0)


@pytest.mark.parametrize(
    ("score", "options", "message"),
    [
        (Energy, {"temperature": 0.0}, r"temperature is 0\.0; it must be above 0"),
        (ODIN, {"temperature": -1.0}, r"temperature is -1\.0"),
        (ODIN, {"eps": -0.1}, r"eps is -0\.1; it must be 0 or more"),
        (GEN, {"gamma": 0.0}, r"gamma is 0\.0; it must lie in \(0, 1\]"),
        (GEN, {"top": 0}, "top is 0; it must be 1 or more"),
        (Mahalanobis, {"shrinkage": 1.5}, r"shrinkage is 1\.5; it must lie in \[0, 1\]"),
        (RelativeMahalanobis, {"shrinkage": -1.0}, r"shrinkage is -1\.0"),
        (Gaussian, {"shrinkage": math.nan}, "shrinkage is nan"),
        (KNN, {"k": 0}, "k is 0; it must be 1 or more"),
        (KNN, {"share": 0.0}, r"share is 0\.0; it must lie in \(0, 1\]"),
        (ReAct, {"quantile": 0.0}, r"quantile is 0\.0; it must lie in \(0, 1\]"),
        (DICE, {"drop": 1.0}, r"drop is 1\.0; it must lie in \[0, 1\)"),
        (ASH, {"variant": "x"}, "variant is 'x'; it must be b, p or s"),
        (ASH, {"prune": 1.0}, r"prune is 1\.0; it must lie in \[0, 1\)"),
        (Scale, {"prune": -0.1}, r"prune is -0\.1"),
        (ViM, {"principal": 1.0}, r"principal is 1\.0; it must lie in \(0, 1\)"),
    ],
)
def test_options_out_of_range_are_refused(
    score: type[Score], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        score(**options)
