"""Training functions as jobs: what they report, and that a stop at any point changes nothing."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from function_runs import fails, function_threads, job_of, numbers, run

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.function import importing
from pruneyard.workloads.function.context import FunctionContext
from pruneyard.workloads.function.job import FunctionJob
from pruneyard.workloads.function.metric_values import MetricError
from pruneyard.workloads.function.predicted import as_predictions
from pruneyard.workloads.function.random_states import random_states
from pruneyard.workloads.function.saved_state import decode_folder
from pruneyard.workloads.ranks import SingleRank
from pruneyard.workloads.training.segment import Segment
from pruneyard.workloads.workload import (
    Context,
    NonFiniteError,
    Outcome,
    Progress,
)

EPOCHS = 5
T = TypeVar("T")


def walk(context: FunctionContext, *, epochs: int = EPOCHS, scale: float = 1.0) -> dict[str, float]:
    """A training that uses all global generators and resumes from its checkpoints."""
    position, first = torch.zeros(2), 0
    if (state := context.restore()) is not None:
        position, first = state["position"], state["epoch"]
    for epoch in range(first + 1, epochs + 1):
        position = position + scale * torch.rand(2) + random.random() + np.random.random()
        context.report(step=epoch, train_loss=1 / position.sum(), accuracy=float(position[0] / 100))
        context.checkpoint({"position": position, "epoch": epoch, "past": [np.arange(epoch)]})
    return {"test/accuracy": float(position[1] / 100)}


def early_saver(context: FunctionContext) -> None:
    """Saves before it reports, and tells the step."""
    first = (context.restore() or {"epoch": 0})["epoch"]
    for epoch in range(first + 1, 4):
        context.checkpoint({"epoch": epoch}, step=epoch)
        context.report(step=epoch, accuracy=epoch / 10)


def outcome(progress: list[Progress]) -> Outcome:
    assert progress[-1].outcome is not None
    return progress[-1].outcome


@pytest.mark.parametrize("function", [walk, early_saver])
def test_a_function_that_is_stopped_after_every_report_gives_the_numbers_of_one_that_is_not(
    function: Callable[..., Any], tmp_path: Path
) -> None:
    whole = numbers(run(job_of(function, seed=3), tmp_path / "whole"))
    assert numbers(run(job_of(function, seed=3), tmp_path / "paused", pause=True)) == whole
    assert (
        numbers(run(job_of(function, seed=3), tmp_path / "whole"))[:-1] == whole[: len(whole) - 1]
    )  # nothing left to train
    assert not function_threads()


def test_reports_and_what_is_returned_become_metrics_of_their_splits(tmp_path: Path) -> None:
    progress = run(job_of(walk), tmp_path)
    assert [(p.step, p.num_steps) for p in progress] == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5), (5, 5)]
    assert [(m.split, m.name, m.epoch) for m in progress[1].metrics] == [
        ("train", "loss", 2.0),
        ("val", "accuracy", 2.0),
    ]
    assert [(m.split, m.name) for m in progress[-1].metrics] == [("test", "accuracy")]


def test_the_seed_decides_the_global_generators_and_is_an_argument_where_it_is_asked_for(
    tmp_path: Path,
) -> None:
    def seeded(seed: int) -> dict[str, float]:
        return {"seed": seed, "drawn": random.random() + np.random.random() + float(torch.rand(1))}

    one, again, other = (
        numbers(run(job_of(seeded, seed=seed), tmp_path / str(n))) for n, seed in enumerate((7, 7, 8))
    )
    assert one == again != other
    assert one[0] == (1, "val", "seed", 7.0)


def test_a_function_may_only_return_and_need_no_context(tmp_path: Path) -> None:
    (last,) = run(job_of(lambda: {"accuracy": torch.tensor(0.5), "test_nll": np.float32(2)}), tmp_path)
    assert numbers([last]) == [(1, "val", "accuracy", 0.5), (1, "test", "nll", 2.0)]


def test_outputs_and_files_become_part_of_the_run(tmp_path: Path) -> None:
    def saves(context: FunctionContext) -> None:
        (context.artifact / "plots").mkdir()
        (context.artifact / "plots" / "note.txt").write_text("seen")
        context.save_predictions(
            "test", torch.tensor([0, 1, 1]), np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        )

    last = run(job_of(saves), tmp_path)[-1]
    assert outcome([last]).files == {"files/plots/note.txt": b"seen"}
    assert outcome([last]).predictions["test"].labels.tolist() == [0, 1, 1]
    assert {m.name: m.value for m in last.metrics}["accuracy"] == pytest.approx(2 / 3)
    assert sum(point.count for point in last.curves) == 3


def test_what_a_function_raises_is_raised_and_its_frames_are_in_the_traceback(tmp_path: Path) -> None:
    def breaks(context: FunctionContext) -> None:
        context.report(accuracy=0.1)
        raise LookupError("no such row")

    fails(breaks, tmp_path, LookupError, "no such row")


def test_a_function_that_exits_fails_and_does_not_end_the_process(tmp_path: Path) -> None:
    def leaves() -> None:
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match=r"leaves raised SystemExit\(3\)"):
        run(job_of(leaves), tmp_path)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ("good", MetricError, "accuracy is str 'good' at step 4; a metric must be a number"),
        (None, MetricError, "accuracy is NoneType None at step 4"),
        (torch.ones(2), MetricError, r"accuracy is Tensor of shape \(2,\) at step 4"),
        (float("nan"), NonFiniteError, "accuracy is nan at step 4; a metric must be finite"),
    ],
)
def test_what_is_no_number_is_refused_with_name_value_and_step(
    value: Any, error: type[Exception], words: str, tmp_path: Path
) -> None:
    fails(lambda context: context.report(step=4, accuracy=value), tmp_path, error, words)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda: None, "ended without a metric; it must call context.report"),
        (lambda: 0.5, "returned a float; it must return a table of metrics"),
        (lambda: {"a/b/c": 1.0}, "'a/b/c' is no name of a metric in what it returned"),
        (lambda context: context.report(accuracy=1, val_accuracy=1), "val/accuracy is given twice at step 1"),
    ],
)
def test_a_function_without_metrics_or_with_wrong_names_is_refused(
    function: Callable[..., Any], words: str, tmp_path: Path
) -> None:
    fails(function, tmp_path, MetricError, words)


def test_steps_must_not_decrease_nor_exceed_those_of_the_spec(tmp_path: Path) -> None:
    def back(context: FunctionContext) -> None:
        context.report(step=2, accuracy=0.1)
        context.report(step=1, accuracy=0.1)

    fails(back, tmp_path / "1", ValueError, "step is 1 after step 2")
    fails(back, tmp_path / "2", ValueError, "step is 2, but steps is 1", steps=1)


def test_a_checkpoint_takes_only_plain_values_and_tensors_and_says_where_another_one_is(
    tmp_path: Path,
) -> None:
    def saves(context: FunctionContext) -> None:
        context.report(accuracy=0.1)
        context.checkpoint({"parts": [1, object()]})

    fails(saves, tmp_path, ValueError, r"state\['parts'\]\[1\] is a object; a checkpoint takes tensors")


def test_keys_that_a_checkpoint_could_not_be_read_with_are_refused(tmp_path: Path) -> None:
    def counts(context: FunctionContext) -> None:
        context.report(accuracy=0.1)
        context.checkpoint({"counts": {np.str_("owl"): 3}})

    fails(counts, tmp_path, ValueError, r"state\['counts'\] has the key .*, a str_; keys must be str, int or float")


def test_a_checkpoint_writes_nothing_outside_its_folder(tmp_path: Path) -> None:
    for name in ("../escaped", str(tmp_path / "escaped")):
        with pytest.raises(ValueError, match="lies outside its folder"):
            decode_folder(("folder", {name: None}), into=tmp_path / "restored")
    assert not (tmp_path / "escaped").exists()


def test_outputs_of_autocast_are_kept_and_unknown_splits_are_refused() -> None:
    logits = torch.tensor([[0.5, 1.0], [2.0, -1.0]], dtype=torch.bfloat16, requires_grad=True)
    assert as_predictions("test", [0, 1], logits).logits.tolist() == [[0.5, 1.0], [2.0, -1.0]]
    with pytest.raises(ValueError, match=r"split is 'validaton'; it must be val, calib, test or ood.NAME"):
        as_predictions("validaton", [0, 1], logits)


def test_a_folder_is_restored_as_it_was(tmp_path: Path) -> None:
    def keeps(context: FunctionContext) -> None:
        own = context.restore()
        lines = (own / "deep" / "log").read_text() if own else ""
        for epoch in range(1 + len(lines), 4):
            lines += str(epoch)
            folder = tmp_path / "work"
            (folder / "deep").mkdir(parents=True, exist_ok=True)
            (folder / "deep" / "log").write_text(lines)
            (folder / "empty").touch()
            context.report(step=epoch, digits=int(lines))
            context.checkpoint(folder=folder)

    assert numbers(run(job_of(keeps), tmp_path / "run", pause=True))[-1] == (3, "val", "digits", 123.0)


def test_every_rank_gets_its_own_random_state_back(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class SecondOfTwo(SingleRank):
        rank: int = 1
        size: int = 2

        def all_gather(self, mine: T) -> list[T]:
            return [of_first, mine]  # type: ignore[list-item]

        def run_on_rank_0(self, act: Callable[[], None]) -> None:
            act()  # rank 0 is not here, and would save the same

    of_first = random_states(torch.device("cpu"))

    def draws(context: FunctionContext) -> dict[str, float]:
        if context.restore() is None:
            random.seed(5)
            context.report(accuracy=0.1)
            context.checkpoint({"drawn": 0})
            raise RuntimeError("ended after its checkpoint")
        return {"accuracy": random.random()}

    job, context = job_of(draws), Context(checkpoints=CheckpointFolder(tmp_path), ranks=SecondOfTwo())
    with pytest.raises(RuntimeError, match="ended after its checkpoint"):
        list(job.run(context))
    (*_, last) = job.run(context)
    assert last.metrics[-1].value == random.Random(5).random()


def test_parts_of_a_training_equal_the_whole(tmp_path: Path) -> None:
    """Trains in parts as populations do: each part resumes from the checkpoint of the one before."""
    whole = numbers(run(job_of(walk, arguments={"epochs": 6}), tmp_path / "whole"))
    found, before = [], Segment(until=1 / 3)
    for part in range(3):
        folder = tmp_path / str(part)
        context = Context(
            checkpoints=CheckpointFolder(folder), open_checkpoints=lambda path: CheckpointFolder(Path(path))
        )
        found += numbers(list(job_of(walk, arguments={"epochs": 6}, segment=before).run(context)))
        before = Segment(runs=(f"run{part}",), until=min(1.0, (part + 2) / 3), artifacts=(str(folder),))
    assert found == whole


def test_a_part_of_a_training_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    def reports(context: FunctionContext, epochs: int = 4) -> None:
        for _ in range(epochs):
            context.report(accuracy=0.1)

    words = "has no checkpoint, but this part of the training ends at step 2"
    fails(reports, tmp_path / "1", ValueError, words, segment=Segment(until=0.5))
    words = "resumes from run r, but the function does not call context.restore"
    fails(
        reports, tmp_path / "2", ValueError, words, segment=Segment(runs=("r",), artifacts=(str(tmp_path),))
    )


def test_an_import_that_does_not_end_is_named_with_the_line_where_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sleepy.py").write_text("import os, time\nwhile not os.path.exists('awake'): time.sleep(0.01)\n")
    monkeypatch.setattr(importing, "TIMEOUT_S", 2.0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"function cannot be used: 'sleepy.py:main' cannot be imported: .* 2 s; it stands at .*sleepy.py:2",
    ):
        FunctionJob(function="sleepy.py:main")
    with pytest.raises(ValueError, match=r"an earlier import has not ended; it stands at .*sleepy.py:2"):
        FunctionJob(function="sleepy.py:main")
    (tmp_path / "awake").touch()


def test_arguments_are_held_to_the_signature() -> None:
    def train(lr: float, context: FunctionContext) -> None: ...

    for arguments, words in (
        ({"lrr": 0.1}, "arguments.lrr is no argument of .*; did you mean lr?"),
        ({}, "arguments.lr is missing"),
        ({"lr": 0.1, "seed": 1}, "arguments.seed is reserved: give `seeds` instead"),
        ({"lr": float("inf")}, "arguments.lr is inf; it must be finite"),
    ):
        with pytest.raises(ValueError, match=words):
            job_of(train, arguments=arguments)
    with pytest.raises(ValueError, match="function cannot be used: 'no_such:main' cannot be imported"):
        FunctionJob(function="no_such:main")


def test_jobs_are_equal_and_hash_alike_by_their_fields() -> None:
    one = job_of(walk, arguments={"scale": 2.0, "epochs": 3})
    assert one == replace(one)
    assert hash(one) == hash(job_of(walk, arguments={"epochs": 3, "scale": 2.0}))
