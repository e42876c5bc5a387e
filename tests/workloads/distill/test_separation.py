"""DD-Ranking: contributions of images, augmentation and labels, worked by hand and in whole jobs."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from distilling import context

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill.distillation import Distillation
from pruneyard.workloads.distill.evaluate import Evaluation
from pruneyard.workloads.distill.job import DistillJob
from pruneyard.workloads.distill.methods.dm import DM
from pruneyard.workloads.distill.methods.random import Random
from pruneyard.workloads.distill.methods.whole import Whole
from pruneyard.workloads.distill.separation import measure_separation
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.workload import Context, InterruptedJobError, Progress

DATA = Digits(max_train=240, max_test=60)
EVALUATION = Evaluation(networks=2, epochs=30, batch_size=16, max_steps=60, dd_ranking=True)


def set_of(shade: float, *, soft: bool = False) -> SyntheticSet:
    return SyntheticSet(
        images=torch.full((2, 1, 4, 4), shade),
        labels=torch.arange(2),
        soft_labels=torch.full((2, 2), 0.5) if soft else torch.zeros(0, 2),
        mean=(0.0,),
        std=(1.0,),
    )


def by_hand(synthetic: SyntheticSet, evaluation: Evaluation) -> Mapping[str, float]:
    """Returns made-up accuracies by pixel value: 0.4, 0.2 or 0.8, plus 0.1 with augmentation and 0.2 with soft labels."""
    base = {1: 0.4, 2: 0.2, 3: 0.8}[round(10 * float(synthetic.images[0, 0, 0, 0]))]
    return {"accuracy": base + 0.1 * bool(evaluation.augment) + 0.2 * bool(len(synthetic.soft_labels))}


def test_hard_labels_by_hand() -> None:
    parts = {"random": set_of(0.2), "whole": set_of(0.3)}
    found = measure_separation(by_hand, EVALUATION, baseline={"accuracy": 0.5}, synthetic=set_of(0.1), **parts)
    assert found == pytest.approx(
        {
            ("test@no_augment", "accuracy"): 0.4,
            ("test@random", "accuracy"): 0.3,
            ("test@random_no_augment", "accuracy"): 0.2,
            ("test@whole", "accuracy"): 0.9,
            ("test", "hlr"): 0.4,
            ("test", "ior"): 0.2,
            ("test@no_augment", "ior"): 0.2,
        }
    )


def test_real_images_are_trained_on_without_the_rate_that_was_learned_with_the_set() -> None:
    recipes: dict[int, set[bool]] = {}

    def measure(synthetic: SyntheticSet, evaluation: Evaluation) -> Mapping[str, float]:
        recipes.setdefault(id(synthetic), set()).add(evaluation.learned_rate)
        return {"accuracy": 0.5}

    own, random, whole = set_of(0.1), set_of(0.2), set_of(0.3)
    learned = replace(EVALUATION, learned_rate=True)
    measure_separation(measure, learned, baseline={"accuracy": 0.5}, synthetic=own, random=random, whole=whole)
    assert recipes == {id(own): {True}, id(random): {False}, id(whole): {False}}


def test_soft_labels_are_left_out_of_both_comparisons() -> None:
    parts = {"random": set_of(0.2), "whole": set_of(0.3)}
    soft = set_of(0.1, soft=True)
    found = measure_separation(by_hand, EVALUATION, baseline=by_hand(soft, EVALUATION), synthetic=soft, **parts)
    assert found["test@hard_labels", "accuracy"] == pytest.approx(0.5)
    assert found["test@no_augment", "accuracy"] == pytest.approx(0.6)
    assert (found["test", "hlr"], found["test", "ior"]) == (pytest.approx(0.4), pytest.approx(0.2))


def test_random_images_have_no_improvement_and_the_whole_set_has_nothing_to_recover() -> None:
    one, whole = set_of(0.2), set_of(0.3)
    as_random = measure_separation(
        by_hand, EVALUATION, baseline=by_hand(one, EVALUATION), synthetic=one, random=one, whole=whole
    )
    assert as_random["test", "ior"] == as_random["test@no_augment", "ior"] == 0
    as_whole = measure_separation(
        by_hand, EVALUATION, baseline={"accuracy": 0.9}, synthetic=whole, random=one, whole=whole
    )
    assert as_whole["test", "hlr"] == pytest.approx(0)


def job(evaluation: Evaluation, **fields: object) -> DistillJob:
    tables: dict[str, object] = {"data": DATA, "method": Random(ipc=2), "model": ConvNet(width=8, depth=2)}
    return DistillJob(**(tables | {"evaluation": evaluation} | fields))  # type: ignore[arg-type]


def metrics_of(made: DistillJob, folder: Path) -> dict[tuple[str, str], float]:
    (progress,) = made.run(Context(checkpoints=CheckpointFolder(folder)))
    return {(metric.split, metric.name): metric.value for metric in progress.metrics}


def test_a_job_reports_what_separate_jobs_would(tmp_path: Path) -> None:
    found = metrics_of(job(EVALUATION), tmp_path / "all")
    without = replace(EVALUATION, dd_ranking=False)
    for split, evaluation, method in (
        ("test", without, Random(ipc=2)),
        ("test@no_augment", replace(without, augment=""), Random(ipc=2)),
        ("test@whole", without, Whole()),
    ):
        alone = metrics_of(job(evaluation, method=method), tmp_path / split)
        assert {name: value for (part, name), value in alone.items() if part == "test"} == {
            name: value
            for (part, name), value in found.items()
            if part == split and name not in ("hlr", "ior")
        }
    assert found["test", "hlr"] == found["test@whole", "accuracy"] - found["test", "accuracy"]
    assert found["test", "ior"] == found["test", "accuracy"] - found["test@random", "accuracy"]
    assert found["test@whole", "accuracy"] > found["test@random", "accuracy"]
    assert not any("@" in split for split, _ in metrics_of(job(without), tmp_path / "without"))


def test_large_sets_are_trained_for_fewer_epochs() -> None:
    evaluation = Evaluation(epochs=1000, batch_size=100, max_steps=50)
    assert evaluation.for_images(20).epochs == 50
    assert evaluation.for_images(100).epochs == 50
    assert evaluation.for_images(101).epochs == 25
    assert evaluation.for_images(100_000).epochs == 1
    assert replace(evaluation, max_steps=5000).for_images(200).epochs == 1000
    assert Evaluation(epochs=7).for_images(10**6).epochs == 7
    rates = [evaluation.for_images(101).rate(epoch) for epoch in (0, 11, 12, 24)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001])
    assert [evaluation.for_images(100_000).rate(0), Evaluation(epochs=2).rate(1)] == pytest.approx([0.01, 0.001])


def test_architectures_of_one_model_are_told_apart() -> None:
    models = (ConvNet(width=4, depth=1), Mlp(width=8, depth=1), ConvNet(width=8, depth=1))
    evaluation = Evaluation(networks=1, epochs=1, batch_size=16, architectures=models)
    distillation = Distillation.start(DM(ipc=1, iterations=1), evaluation, context(), should_stop=lambda: False)
    outputs = distillation.evaluate({"test": context().real.split}, "test")
    assert [name for name, _ in outputs] == ["", "convnet", "mlp", "convnet-2"]
    assert not np.array_equal(outputs["convnet", "test"], outputs["convnet-2", "test"])


def numbers(progress: list[Progress]) -> list[tuple[object, ...]]:
    return [(m.step, m.split, m.name, m.value) for part in progress for m in part.metrics]


@pytest.mark.parametrize("evaluation_at", [2, 4])
def test_a_job_stopped_during_an_evaluation_resumes_as_if_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluation_at: int
) -> None:
    """Evaluations come after iterations 2 and 4, the last one; the job stops between two epochs of one of them."""
    made = job(
        Evaluation(networks=2, epochs=3, batch_size=16), method=DM(ipc=1, iterations=4, real_batch=8), evaluate_every=2
    )
    whole = list(made.run(Context(checkpoints=CheckpointFolder(tmp_path / "whole"))))
    monkeypatch.setattr("pruneyard.workloads.workload.STOP_CHECK_EVERY_S", 0.0)
    questions = iter(range(1000))
    asked_at = {2: 2 + 3, 4: 2 + 6 + 2 + 3}[evaluation_at]  # one question an iteration, three a network
    context = Context(checkpoints=CheckpointFolder(tmp_path / "cut"), should_stop=lambda: next(questions) == asked_at)
    before = []
    with pytest.raises(InterruptedJobError) as stop:
        before.extend(made.run(context))
    assert stop.value.step == evaluation_at
    assert CheckpointFolder(tmp_path / "cut").load(torch.device("cpu")).step == evaluation_at  # type: ignore[union-attr]
    after = list(made.run(Context(checkpoints=CheckpointFolder(tmp_path / "cut"))))
    assert numbers(after) == numbers(whole)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"max_steps": 0}, "max_steps is 0"), ({"dd_ranking": True}, "dd_ranking is true without max_steps")],
)
def test_values_that_cannot_be_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Evaluation(**fields)  # type: ignore[arg-type]
