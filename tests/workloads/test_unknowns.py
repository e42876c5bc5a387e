"""OOD inputs: resizing to the in-distribution shape, their metrics, and refused inputs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from pruneyard.testing.cases import each_case
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.dataset import Dataset, Split
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.data.sources.noise import Noise
from pruneyard.workloads.metrics.classification import standard_metrics
from pruneyard.workloads.metrics.detection import DETECTION_METRICS, auroc, confidence_scores
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.objectives.cross_entropy import CrossEntropy
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.sparse.job import SparseJob
from pruneyard.workloads.sparse.methods.dense import Dense
from pruneyard.workloads.training.ood_evaluation import (
    NO_LABEL,
    check_ood,
    evaluate_ood,
    fit_images,
    ood_splits,
    split_names,
)
from pruneyard.workloads.training.recipe import Budget
from pruneyard.workloads.workload import Context, Progress

DIGITS = Digits(max_train=120, max_test=60).load()


def noise(**fields: Any) -> Dataset:
    return Noise(**({"shape": (1, 8, 8), "num_train": 40, "num_test": 20} | fields)).load()


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_sets_of_one_kind_of_source_are_numbered() -> None:
    assert split_names([]) == []
    assert split_names([Noise(), Digits()]) == ["ood.noise", "ood.digits"]
    assert split_names([Noise(), Digits(), Noise(seed=1)]) == ["ood.noise-1", "ood.digits", "ood.noise-2"]


def test_images_of_the_right_shape_are_left_alone() -> None:
    given = images(5, 3, 4, 6)
    assert fit_images(given, (3, 4, 6)) is given


def test_grey_becomes_colour_by_repetition_and_colour_grey_by_luminance() -> None:
    grey = images(5, 1, 4, 6)
    assert (fit_images(grey, (3, 4, 6)) == np.repeat(grey, 3, axis=1)).all()
    assert (fit_images(fit_images(grey, (3, 4, 6)), (1, 4, 6)) == grey).all()
    pure = np.zeros((4, 3, 1, 1), dtype=np.uint8)
    pure[0, 0], pure[1, 1], pure[2, 2], pure[3] = 255, 255, 255, 255
    assert fit_images(pure, (1, 1, 1)).ravel().tolist() == [76, 150, 29, 255]  # 76.2, 149.7, 29.1


@each_case("size", [(8, 8), (3, 5), (11, 2), (1, 1), (16, 48)])
def test_other_sizes_are_resized_as_pillow_does(size: tuple[int, int]) -> None:
    """Pillow rounds after each of its two passes and works with integers, hence up to 2 of 255 apart."""
    given = images(3, 1, 8, 12)
    got = fit_images(given, (1, *size))
    for before, after in zip(given, got, strict=True):
        ours = Image.fromarray(before[0]).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(ours, dtype=int) - after[0]).max() <= 2
    assert (fit_images(np.full((2, 1, 8, 12), 77, dtype=np.uint8), (3, *size)) == 77).all()


def test_rows_do_not_depend_on_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    given = images(7, 3, 5, 4)
    whole = fit_images(given, (1, 3, 3))
    monkeypatch.setattr("pruneyard.workloads.training.ood_evaluation.ROWS_PER_CHUNK", 2)
    assert (fit_images(given, (1, 3, 3)) == whole).all()


def test_the_test_rows_of_every_set_come_without_a_label() -> None:
    sources = [Noise(shape=(3, 16, 16), num_test=20), Noise(seed=1, num_test=5)]
    found = ood_splits(sources, [source.load() for source in sources], known=DIGITS)
    assert list(found) == ["ood.noise-1", "ood.noise-2"]
    assert [split.images.shape for split in found.values()] == [(20, 1, 8, 8), (5, 1, 8, 8)]
    assert all((split.labels == NO_LABEL).all() for split in found.values())
    assert found["ood.noise-2"].row_ids.tolist() == [0, 1, 2, 3, 4]


def test_metrics_of_a_set_worked_by_hand_and_their_mean() -> None:
    """Odds of the larger class: 9, 8, 8 and 4 against 1 for known rows; 8, 5 and 1 here, 0 unknown rows above there."""
    splits = {"ood.a": unknown_split(3), "ood.b": unknown_split(1)}
    outputs = {3: logits_with_odds(8, 5, 1), 1: logits_with_odds(2)}
    metrics, predictions = evaluate_ood(splits, lambda split: outputs[len(split)], known=logits_with_odds(9, 8, 8, 4))
    assert {name: metrics["ood.a", name] for name in ("auroc", "aupr_in", "aupr_out", "fpr95")} == pytest.approx(
        {"auroc": 9 / 12, "aupr_in": (1 + 2 * 3 / 4 + 4 / 6) / 4, "aupr_out": (1 + 2 / 3 + 3 / 6) / 3, "fpr95": 2 / 3}
    )
    assert metrics["ood.b", "auroc"] == 1
    assert metrics["ood", "auroc"] == pytest.approx((9 / 12 + 1) / 2)
    assert metrics["ood", "fpr95"] == pytest.approx((2 / 3 + 0) / 2)
    assert list(predictions) == ["ood.a", "ood.b"]
    assert predictions["ood.a"].labels.tolist() == [NO_LABEL] * 3
    assert predictions["ood.a"].logits is outputs[3]


def test_probability_of_the_unknown_output_lowers_the_confidence() -> None:
    known = np.log(np.array([[9, 1, 1], [8, 1, 1]], dtype=np.float32))
    unknown = np.log(np.array([[90, 1, 1000]], dtype=np.float32))  # sure between the classes, but unknown

    def area(num_extra: int) -> float:
        width = 2 + num_extra
        outputs = unknown[:, :width]
        metrics, _ = evaluate_ood({"ood.a": unknown_split(1)}, lambda _: outputs, known=known[:, :width], num_extra=num_extra)
        return metrics["ood", "auroc"]

    assert (area(0), area(1)) == (0, 1)


def test_without_sets_nothing_is_measured() -> None:
    assert evaluate_ood({}, lambda _: np.zeros((0, 2), np.float32), known=logits_with_odds(1)) == ({}, {})


@each_case(("channels", "allowed"), [(1, True), (3, True), (4, False)])
def test_sets_whose_channels_do_not_fit_are_refused(channels: int, allowed: bool) -> None:
    unknown = noise(shape=(channels, 4, 4))
    if allowed:
        check_ood(unknown, known=DIGITS)
        return
    with pytest.raises(ValueError, match="has images of 4 channels; the data trained on has 1"):
        check_ood(unknown, known=DIGITS)


def test_the_known_data_under_other_settings_is_still_known() -> None:
    with pytest.raises(ValueError, match="is known: 30 of its 30 test rows"):
        check_ood(Digits(split_seed=3, max_test=30, max_train=60).load(), known=Digits().load())
    check_ood(noise(), known=DIGITS)
    some = replace(noise(), test=Split.from_arrays(np.concatenate([noise().test.images, DIGITS.test.images[:5]]), [0] * 25))
    check_ood(some, known=DIGITS)


JOB = SparseJob(
    data=Digits(max_train=400, max_test=200),
    model=Mlp(width=48, depth=1),
    method=Dense(),
    budget=Budget(epochs=12, batch_size=32, evaluate_every=4),
    optimizer=SGD(lr=0.1),
)


def trained(folder: Path, job: SparseJob) -> list[Progress]:
    return list(job.run(Context(checkpoints=CheckpointFolder(folder))))


def test_a_trained_network_distinguishes_noise_from_digits_and_is_not_changed(tmp_path: Path) -> None:
    sets = (Noise(shape=(1, 8, 8), num_test=300), Noise(shape=(3, 24, 24), distribution="binary", num_test=100))
    plain, shown = trained(tmp_path / "plain", JOB), trained(tmp_path / "shown", replace(JOB, ood=sets))
    splits = ["ood.noise-1", "ood.noise-2"]
    values = {(m.split, m.name): m.value for m in shown[-1].metrics}
    assert values["test", "accuracy"] > 0.85
    assert min(values[split, "auroc"] for split in splits) > 0.8
    assert max(values[split, "fpr95"] for split in splits) < 0.8
    for name in DETECTION_METRICS:
        assert values["ood", name] == pytest.approx(np.mean([values[split, name] for split in splits]))

    before, after = plain[-1].outcome, shown[-1].outcome
    assert before is not None
    assert after is not None
    assert list(after.predictions) == ["val", "calib", "test", *splits]
    assert all((after.weights[name] == tensor).all() for name, tensor in before.weights.items())
    assert all((after.predictions[split].logits == given.logits).all() for split, given in before.predictions.items())
    outputs = after.predictions["ood.noise-1"]
    assert outputs.logits.shape == (300, 10)
    assert (outputs.labels == NO_LABEL).all()
    scores = [confidence_scores(after.predictions[split].logits) for split in ("test", "ood.noise-1")]
    assert values["ood.noise-1", "auroc"] == auroc(*scores)


def test_ood_inputs_are_evaluated_at_the_end_only(tmp_path: Path) -> None:
    *earlier, last = trained(tmp_path, replace(JOB, ood=(Noise(num_test=20),)))
    assert len(earlier) == 2
    assert {m.split for progress in earlier for m in progress.metrics} == {"train", "val", "test"}
    assert {m.split for m in last.metrics} == {"train", "val", "calib", "test", "ood", "ood.noise"}
    assert {m.name for m in last.metrics if m.split.startswith("ood")} == DETECTION_METRICS.keys()
    assert {point.key for point in last.curves if point.name == "reliability"} == {"val", "calib", "test"}


def test_ood_images_are_normalised_by_the_in_distribution_data(tmp_path: Path) -> None:
    """The test digits of another cut, shown as unknown, get the outputs that they get as test digits."""
    again = Digits(max_train=400, max_test=200, split_seed=JOB.data.split_seed, val_fraction=0.2)
    outcome = trained(tmp_path, replace(JOB, ood=(again,)))[-1].outcome
    assert outcome is not None
    known, unknown = outcome.predictions["test"], outcome.predictions["ood.digits"]
    assert (known.row_ids == unknown.row_ids).all()
    assert (known.logits == unknown.logits).all()


@dataclass(frozen=True, kw_only=True)
class WithUnknown(CrossEntropy):
    """Cross-entropy over the classes and an output for "unknown" that is never a label."""

    num_extra: ClassVar[int] = 1


def test_an_extra_output_takes_its_share_of_confidence_in_every_number_reported(tmp_path: Path) -> None:
    job = replace(JOB, objective=WithUnknown(), ood=(Noise(shape=(1, 8, 8), num_test=50),))
    last = trained(tmp_path, job)[-1]
    values = {(m.split, m.name): m.value for m in last.metrics}
    assert last.outcome is not None
    test, noise = last.outcome.predictions["test"], last.outcome.predictions["ood.noise"]
    assert test.logits.shape == (200, 11)
    for name, value in standard_metrics(test.logits, test.labels, num_extra=1).items():
        assert values["test", name] == value
    scores = [confidence_scores(outputs.logits, num_extra=1) for outputs in (test, noise)]
    assert values["ood", "auroc"] == auroc(*scores)
    points = [point for point in last.curves if point.name == "reliability" and point.key == "test"]
    assert values["test", "ece"] == pytest.approx(sum(p.count * abs(p.x - p.y) for p in points) / 200)


def unknown_split(num: int) -> Split:
    return Split.from_arrays(np.zeros((num, 1, 2, 2), np.uint8), np.full(num, NO_LABEL))


def logits_with_odds(*odds: float) -> np.ndarray:
    return np.log(np.array([[value, 1.0] for value in odds], dtype=np.float32))
