"""The interface between a job of any kind and its runner: the job gets a context and yields its progress."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from pruneyard.workloads.checkpoint import Checkpoints
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.parents import FinishedRun, Predictions
from pruneyard.workloads.ranks import SINGLE_RANK, Ranks


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric value at one step. `wall_s` is the training time of all attempts, without evaluation."""

    step: int
    epoch: float
    split: str
    name: str
    value: float
    wall_s: float


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One point of a curve (`density` per layer, `reliability` per split); `count` is the number of items averaged."""

    name: str
    step: int
    key: str
    x: float
    y: float
    count: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The results of a finished job. A quantity that cannot be counted is None, not an underestimate."""

    predictions: Mapping[str, Predictions]
    weights: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    num_parameters: int | None  # None for a job without a network
    num_active: int | None
    train_flops: float | None
    train_s: float
    peak_memory_bytes: int | None
    num_extra: int = 0  # outputs beyond the classes: the last columns of the predictions' logits
    blueprint: Mapping[str, Any] | None = None  # plain data from which the network of `weights` is rebuilt
    files: Mapping[str, bytes] = field(default_factory=dict)  # further files of the artifact, by name

    @classmethod
    def without_network(cls, *, train_s: float, files: Mapping[str, bytes]) -> "Outcome":
        """Returns the outcome of a job that leaves no network, but only metrics and files."""
        return cls(
            predictions={},
            weights={},
            masks={},
            num_parameters=None,
            num_active=None,
            train_flops=None,
            train_s=train_s,
            peak_memory_bytes=None,
            files=files,
        )


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The report of a job after an evaluation; the last one contains the outcome."""

    step: int
    num_steps: int
    metrics: tuple[Metric, ...]
    curves: tuple[CurvePoint, ...] = ()
    outcome: Outcome | None = None


def no_open_run(artifact: str) -> FinishedRun:
    """Raises `ValueError`: the default of `Context.open_run`, for a runner that cannot read earlier runs."""
    raise ValueError(f"the run in {artifact} cannot be read here; give the context an open_run")


def no_open_checkpoints(artifact: str) -> Checkpoints:
    """Raises `ValueError`: the default of `Context.open_checkpoints`, for a runner that cannot read earlier runs."""
    raise ValueError(f"a run lies in {artifact}, whose checkpoints cannot be read here; give the context an open_checkpoints")


@dataclass(frozen=True, kw_only=True)
class Context:
    """The environment of a running job: device, data, checkpoints, earlier runs, and requests to stop.

    open_run: reads the artifact folder of an earlier run; open_checkpoints: returns the checkpoints of that run.
    should_stop: called about twice a second, between two steps; the job stops if one rank gets True.
    should_pause: called after each yielded evaluation except the last; if it returns True, the job stops as on request.

    Every rank runs the job and yields the same progress, except for times; rank 0 writes the checkpoints.
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
    """The job stopped because it was asked to stop or to pause; its checkpoint at `step` is stored."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped on request after step {step}")
        self.step = step


class StillRunningError(RuntimeError):
    """Code of the user's own has not ended after its job was stopped, so that this process cannot run another job."""


class NonFiniteError(ArithmeticError):
    """A loss or gradient that is not finite, so that training cannot continue."""

    ADVICE = "it must be finite: lower the learning rate, or look for a division by 0 or a logarithm of 0 in the loss"


class Workload(Protocol):
    """A resolved job: a frozen dataclass whose fields are the tables of the spec; most have a source named `data`."""

    seed: int

    def run(self, context: Context) -> Iterator[Progress]:
        """Runs the job and yields its progress, resuming from the newest intact checkpoint of the context if there is one."""
        ...

    def check(self, data: Dataset | None) -> list[str]:
        """Returns warnings about the job on its data; raises `ValueError` if it cannot be run."""
        ...

    def expected_work(self, data: Dataset) -> tuple[float, int]:
        """Returns the FLOPs that dense kernels would execute and the optimizer steps of the whole job, for cost estimates.

        Returns (0.0, 0) if nothing can be counted in advance. A method `measured_step_s` may also return the seconds of one step,
        or None, in the same way as `SparseJob` does.
        """
        ...


STOP_CHECK_EVERY_S = 0.5  # shortest time between two calls of `should_stop`


class RateLimitedCheck:
    """Calls a function at most every `STOP_CHECK_EVERY_S` seconds and returns False in between."""

    def __init__(self, check: Callable[[], bool]) -> None:
        self._check, self._checked_at = check, time.monotonic()

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._checked_at < STOP_CHECK_EVERY_S:
            return False
        self._checked_at = now
        return self._check()
