"""One run of a training function: what it has reported and saved, from where it resumes, and whether it is to stop."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from pruneyard.workloads.checkpoint import Checkpoint, Checkpoints
from pruneyard.workloads.function.handover import FunctionStopped
from pruneyard.workloads.function.metric_values import metric_values
from pruneyard.workloads.function.predicted import as_predictions
from pruneyard.workloads.function.random_states import random_states, set_random_states
from pruneyard.workloads.function.saved_state import (
    decode_folder,
    decode_state,
    encode_folder,
    encode_state,
    is_folder,
)
from pruneyard.workloads.parents import Predictions
from pruneyard.workloads.ranks import Ranks
from pruneyard.workloads.training.segment import Segment
from pruneyard.workloads.workload import Context, Metric, RateLimitedCheck


@dataclass(frozen=True)
class Reported:
    """The event that the function has reported a step: all metrics that were not handed over before."""

    step: int
    metrics: tuple[Metric, ...]


class FunctionRun:
    """The state of one run of a training function, or of a script, in one process.

    The function sees it as `FunctionContext`, which documents `report`, `checkpoint`, `restore`, `should_stop`, `artifact` and
    `save_predictions`. The rest is what the job needs of it.
    """

    def __init__(
        self,
        context: Context,
        *,
        seed: int,
        num_steps: int | None,
        segment: Segment,
        is_limit: bool,
        hand_over: Callable[[Reported], bool],
    ) -> None:
        """hand_over: hands a report to the runner of the job and returns whether the job is to pause there.

        num_steps: the step at which the job ends, if it is known. is_limit: whether a report beyond it is an error.
        """
        self.seed, self._num_steps = seed, num_steps
        self.device: torch.device = context.device
        self.ranks: Ranks = context.ranks
        self._context, self._segment, self._is_limit, self._hand_over = context, segment, is_limit, hand_over
        self._check_stop = RateLimitedCheck(context.should_stop)
        self._history: list[Metric] = []
        self._unreported: list[Metric] = []
        self._waiting: tuple[Any, list[dict[str, Any]]] | None = (
            None  # a state of the step that is reported next, and random states
        )
        self._started, self._seconds = time.monotonic(), 0.0
        self.step = 0
        self.has_reported = self.has_restored = False
        self.saved_step: int | None = None
        self._is_told = self._is_stopping = (
            False  # told by `should_stop`; stops at the next checkpoint or report
        )
        self.predictions: dict[str, Predictions] = {}
        self._files: TemporaryDirectory[str] | None = None

    # What functions use, by their context.

    def report(self, metrics: Mapping[str, Any], *, step: int | None, epoch: float | None) -> None:
        """Reports the metrics of a step, and ends the function here if it is to stop. See `FunctionContext.report`."""
        if self._is_stopping:
            raise FunctionStopped
        self._pause_clock()
        new = self._next_step(step)
        values = metric_values(metrics, place=f"at step {new}")
        at = float(new if epoch is None else epoch)
        rows = [
            Metric(step=new, epoch=at, split=split, name=name, value=value, wall_s=self._seconds)
            for (split, name), value in values.items()
        ]
        self.step, self.has_reported = new, True
        self._history += rows
        self._unreported += rows
        if self._waiting is not None:
            self._save(*self._waiting)
            self._waiting = None
        if self.is_at_end:
            self._is_stopping = True
            self._stop_if_saved()
        else:
            pausing = self._hand_over(Reported(new, self.take_unreported()))
            if any(self.ranks.any_rank(pausing, self._is_told, self._check_stop())):
                self._is_stopping = True
                self._stop_if_saved()
        self._start_clock()

    def checkpoint(
        self,
        state: Mapping[str, Any] | None = None,
        *,
        folder: str | Path | None = None,
        step: int | None = None,
    ) -> None:
        """Saves a state or a folder with the random states of all ranks. See `FunctionContext.checkpoint`."""
        if (state is None) == (folder is None):
            raise ValueError("checkpoint takes a state or a folder; give one of the two")
        self._pause_clock()
        saved = encode_state(state) if folder is None else encode_folder(Path(folder))
        random = self.ranks.all_gather(random_states(self.device))
        is_of_this_report = self.has_reported or self._is_told if step is None else step <= self.step
        if not is_of_this_report:
            # Saved with the report of its step, so that a resumed run has the metrics of it.
            self._waiting = (_copied(saved), random)
        else:
            self._save(saved, random)
            if any(self.ranks.any_rank(self._is_told, self._is_stopping, self._check_stop())):
                raise FunctionStopped
        self._start_clock()

    def restore(self) -> Any:
        """Returns the newest state, or the path of a copy of its folder, else None. See `FunctionContext.restore`."""
        self.has_restored = True
        checkpoint, is_own = self.ranks.broadcast_from_rank_0(self._load)
        if checkpoint is None:
            return None
        kept = checkpoint.state
        self.step = checkpoint.step
        self._seconds += checkpoint.meta["train_s"]
        if is_own:
            self.saved_step = checkpoint.step
            self._history = [Metric(**row) for row in kept["history"]]
            self._unreported = list(self._history)
        set_random_states(kept["random"][self.ranks.rank], self.device)
        if not is_folder(kept["function"]):
            return decode_state(kept["function"])
        copy = self._scratch / "restored"
        decode_folder(kept["function"], into=copy)
        return copy

    @property
    def should_stop(self) -> bool:
        """Returns whether the run is asked to stop or to pause, the same on all ranks. See `FunctionContext.should_stop`."""
        asked = any(self.ranks.any_rank(self._is_told, self._is_stopping, self._check_stop()))
        self._is_told = self._is_told or asked
        return asked

    @property
    def artifact(self) -> Path:
        """Returns the folder whose files become part of the run."""
        folder = self._scratch / "files"
        folder.mkdir(exist_ok=True)
        return folder

    def save_predictions(self, split: str, labels: Any, logits: Any, *, row_ids: Any) -> None:
        """Keeps the outputs on a split. See `FunctionContext.save_predictions`."""
        given = as_predictions(split, labels, logits, row_ids=row_ids)
        for other, known in self.predictions.items():
            if known.logits.shape[1] != given.logits.shape[1]:
                raise ValueError(
                    f"logits of {split} have {given.logits.shape[1]} classes, those of {other} {known.logits.shape[1]}; "
                    "they must be equally many"
                )
        self.predictions[split] = given

    # What the job uses.

    @property
    def is_at_end(self) -> bool:
        """Returns whether the part of the training that this job runs has ended before the function has."""
        return self._segment.until < 1 and self._num_steps is not None and self.step >= self._num_steps

    @property
    def is_stopped(self) -> bool:
        """Returns whether the function was asked to stop before its end."""
        return self._is_told or self._is_stopping

    @property
    def is_told(self) -> bool:
        """Returns whether the function learned from `should_stop` that it is to stop."""
        return self._is_told

    @property
    def seconds(self) -> float:
        """The time spent in the function, over all attempts."""
        return self._seconds

    def end_clock(self) -> None:
        """Stops counting the time spent in the function."""
        self._pause_clock()

    def take_unreported(self) -> tuple[Metric, ...]:
        """Returns the metrics that were not handed over yet, once."""
        taken, self._unreported = tuple(self._unreported), []
        return taken

    @property
    def epoch(self) -> float:
        """The epoch of the last report."""
        return self._history[-1].epoch

    def reported(self) -> dict[tuple[str, str], float]:
        """Returns the metrics of the last report by split and name; none if nothing was reported."""
        return {
            (metric.split, metric.name): metric.value for metric in self._history if metric.step == self.step
        }

    def files(self) -> dict[str, bytes]:
        """Returns the files of `artifact` by their path in the artifact of the run."""
        if self._files is None or not (folder := self._scratch / "files").is_dir():
            return {}
        return {
            f"files/{path.relative_to(folder)}": path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def close(self) -> None:
        """Deletes the temporary files of the function."""
        if self._files is not None:
            self._files.cleanup()

    def _next_step(self, step: int | None) -> int:
        new = self.step + 1 if step is None else step
        if isinstance(new, bool) or not isinstance(new, int) or new < 0:
            raise ValueError(f"step is {step!r}; it must be a whole number, 0 or more")
        if new < self.step:
            raise ValueError(f"step is {new} after step {self.step}; steps must not decrease")
        if self._segment.runs and not self.has_restored:
            raise ValueError(
                f"this run resumes from run {self._segment.runs[0]}, but the function does not call context.restore(); "
                "it must, to be part of a population"
            )
        if self._segment.until < 1 and self._num_steps is not None and new > self._num_steps:
            raise ValueError(
                f"step is {new} after step {self.step}, but this part of the training ends at step {self._num_steps}; the "
                "function must report this step"
            )
        if self._is_limit and self._num_steps is not None and new > self._num_steps:
            raise ValueError(
                f"step is {new}, but steps is {self._num_steps}; steps must be that of the last report"
            )
        return new

    def _stop_if_saved(self) -> None:
        if self.saved_step == self.step:
            raise FunctionStopped

    def _save(self, encoded: Any, random: list[dict[str, Any]]) -> None:
        """Saves the state of the last report, with the random states of all ranks."""
        history = [dict(vars(metric)) for metric in self._history]
        state = {"function": encoded, "random": random, "history": history}
        checkpoint = Checkpoint(step=self.step, tensors={}, state=state, meta={"train_s": self._seconds})
        self.ranks.run_on_rank_0(lambda: self._context.checkpoints.save(checkpoint))
        self.saved_step = self.step

    def _load(self) -> tuple[Checkpoint | None, bool]:
        """Returns the newest checkpoint of this run, else that of the run it resumes from, and whether it is its own."""
        cpu, segment = torch.device("cpu"), self._segment
        if (own := self._context.checkpoints.load(cpu)) is not None:
            return own, True
        if not segment.runs:
            return None, False
        (artifact,) = segment.artifacts
        before: Checkpoints = self._context.open_checkpoints(artifact)
        found = before.load(cpu)
        if found is None:
            raise ValueError(f"run {segment.runs[0]} has no checkpoint to resume from")
        if self._num_steps is not None and found.step >= self._num_steps:
            raise ValueError(
                f"run {segment.runs[0]} ended at step {found.step}, where this part of the training ends already"
            )
        return found, False

    @cached_property
    def _scratch(self) -> Path:
        self._files = TemporaryDirectory(prefix="pruneyard-")
        return Path(self._files.name)

    def _pause_clock(self) -> None:
        self._seconds += time.monotonic() - self._started
        self._started = time.monotonic()

    def _start_clock(self) -> None:
        self._started = time.monotonic()


def _copied(encoded: Any) -> Any:
    """Returns an encoded state that shares no memory with the function's."""
    if isinstance(encoded, torch.Tensor):
        return encoded.clone()
    if isinstance(encoded, dict):
        return {key: _copied(item) for key, item in encoded.items()}
    if isinstance(encoded, list | tuple):
        return type(encoded)(_copied(item) for item in encoded)
    return encoded
