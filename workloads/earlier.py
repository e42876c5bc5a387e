"""How a job names finished runs that it rests on, and what it may ask of one of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workloads.recipe import NOT_IDENTITY

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.data.dataset import Source
    from workloads.deploy.finished import FinishedNetwork
    from workloads.workload import Predictions

FILLED_IN = {"identity": False, "given": False}  # fields that say where things lie, known only when a job is run


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Earlier runs by their run keys, which are all of them that is identity. A spec writes `from: STAGE` or `from: FOLDER`.

    folder: of the results in which the runs lie; empty for the one that this study writes.
    artifacts: the folder of what each run left; no spec gives it, whoever runs the job fills it in.
    """

    runs: tuple[str, ...]
    folder: str = field(default="", metadata=NOT_IDENTITY)
    artifacts: tuple[str, ...] = field(default=(), metadata=FILLED_IN)

    def __post_init__(self) -> None:
        check_runs(self.runs)


def check_runs(runs: tuple[str, ...], *, num: int | None = None) -> None:
    """Raises `ValueError` where runs are missing or named twice, or are not as many as `num`."""
    if not runs or len(set(runs)) < len(runs):
        raise ValueError(f"runs is {list(runs)}; it must name at least one run, none of them twice")
    if num is not None and len(runs) != num:
        raise ValueError(f"runs is {list(runs)}; it must name {num}")


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """What one finished run left, read when it is asked for.

    kind, spec: of its job; the tables are complete.
    num_extra: outputs beyond the classes, the last columns of its logits.
    tensors: of the safetensors files of its artifact, by file name.
    """

    run_key: str
    kind: str
    spec: Mapping[str, Any]
    num_extra: int
    predictions: Callable[[], "Mapping[str, Predictions]"]
    network: Callable[[], "FinishedNetwork"]
    source: Callable[[], "Source"]
    tensors: Mapping[str, Callable[[], Mapping[str, "Tensor"]]] = field(default_factory=dict)
