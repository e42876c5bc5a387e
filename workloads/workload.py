"""What a job of any kind is to those who run it: it is given a context and yields its progress."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from pruneyard.workloads.checkpoint import Checkpoints
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.parents import FinishedRun
from pruneyard.workloads.ranks import SINGLE_RANK, Ranks

if TYPE_CHECKING:
    from torch import Tensor
from pruneyard.workloads.parents import Predictions


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number at one step. `wall_s` counts training time of all attempts, evaluation excluded."""

    step: int
    epoch: float
    split: str
    name: str
    value: float
    wall_s: float


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One point of a curve (`density` per layer, `reliability` per split); `count` is what it averages over."""

    name: str
    step: int
    key: str
    x: float
    y: float
    count: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished job leaves. What cannot be counted is None, never small."""

    predictions: Mapping[str, Predictions]
    weights: Mapping[str, "Tensor"]
    masks: Mapping[str, "Tensor"]
    num_parameters: int | None  # None for a job that leaves no network
    num_active: int | None
    train_flops: float | None
    train_s: float
    peak_memory_bytes: int | None
    num_extra: int = 0  # outputs beyond the classes: the last columns of the predictions' logits
    blueprint: Mapping[str, Any] | None = None  # plain data from which the network of `weights` is rebuilt
    files: Mapping[str, bytes] = field(default_factory=dict)  # of the artifact, by name, beside those above


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A job's report after an evaluation; the last one carries the outcome."""

    step: int
    num_steps: int
    metrics: tuple[Metric, ...]
    curves: tuple[CurvePoint, ...] = ()
    outcome: Outcome | None = None


def no_open_run(artifact: str) -> FinishedRun:
    """Raises `ValueError`: files of earlier runs are read by whoever runs the job."""
    raise ValueError(f"the run in {artifact} cannot be read here; give the context an open_run")


def no_open_checkpoints(artifact: str) -> Checkpoints:
    """Raises `ValueError`, as `no_open_run` does."""
    raise ValueError(f"a run lies in {artifact}, whose checkpoints cannot be read here; give the context an open_checkpoints")


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where a job runs. `should_stop` is asked about twice a second, between two steps; one rank is enough to stop all.
    `open_run` reads what lies in the artifact folder of an earlier run, `open_checkpoints` says where its checkpoints lie.
    `should_pause` is asked after each evaluation that was yielded but the last: where it says so, the job stops there as it
    would on request.

    Every rank runs the job and yields the same progress, but for times; rank 0 writes the checkpoints.
    """

    checkpoints: Checkpoints
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    load_data: Callable[[Source], Dataset] = lambda source: source.load()
    open_run: Callable[[str], FinishedRun] = no_open_run
    open_checkpoints: Callable[[str], Checkpoints] = no_open_checkpoints
    should_stop: Callable[[], bool] = lambda: False
    should_pause: Callable[[], bool] = lambda: False
    ranks: Ranks = SINGLE_RANK


class InterruptedJobError(Exception):
    """The job was asked to stop, or to pause; its checkpoint at `step` is on disk."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped on request after step {step}")
        self.step = step


class NonFiniteError(ArithmeticError):
    """A number that training cannot go on from."""


class Workload(Protocol):
    """A resolved job: a frozen dataclass whose fields are the spec's tables; `data`, a source, is one of most."""

    seed: int

    def run(self, context: Context) -> Iterator[Progress]:
        """Goes on from the newest good checkpoint of the context, or starts."""
        ...

    def check(self, data: Dataset | None) -> list[str]:
        """Warnings about what the job would do on its data; raises `ValueError` where it cannot be run."""
        ...

    def expected_work(self, data: Dataset) -> tuple[float, int]:
        """Returns the FLOPs that dense kernels would execute and the optimizer steps of the whole job, for cost estimates.

        (0.0, 0) where nothing can be counted in advance.
        """
        ...


STOP_CHECK_EVERY_S = 0.5  # how often a running job asks whether it should stop


class RateLimitedCheck:
    """Asks a question at most every `STOP_CHECK_EVERY_S` seconds; in between the answer is no."""

    def __init__(self, question: Callable[[], bool]) -> None:
        self._question, self._asked_at = question, time.monotonic()

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._asked_at < STOP_CHECK_EVERY_S:
            return False
        self._asked_at = now
        return self._question()
