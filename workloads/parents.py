"""References of a job to finished runs, and what it can read of one of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.data.fingerprints import place_of
from pruneyard.workloads.fields import FILLED_IN, NOT_IDENTITY, check_runs

if TYPE_CHECKING:  # these load torch, which readers of results do without
    from torch import Tensor

    from pruneyard.workloads.networks.finished import FinishedNetwork


AnyWorkload = TypeVar("AnyWorkload")


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Earlier runs by their run keys; only the keys belong to the identity. A spec writes `from: STAGE` or `from: FOLDER`.

    folder: results folder that contains the runs; empty for the one that this study writes.
    artifacts: artifact folder of each run; not a key of the spec, the runner of the job fills it in.
    """

    runs: tuple[str, ...]
    folder: str = field(default="", metadata=NOT_IDENTITY)
    artifacts: tuple[str, ...] = field(default=(), metadata=FILLED_IN)

    def __post_init__(self) -> None:
        check_runs(self.runs)


@dataclass(frozen=True, kw_only=True)
class PlannedParent(Generic[AnyWorkload]):
    """The job of an upstream run, finished or not, and a data set with the shape and classes of the one that it reads."""

    workload: AnyWorkload
    data: Dataset


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """The artifacts of a finished run; each is read when its function is called.

    kind, spec: of its job, with all defaults filled in.
    num_extra: outputs beyond the classes, the last columns of its logits.
    data_fingerprint: finds the fingerprint of the data that its source rests on; None if it is not known.
    tensors: readers of the safetensors files of its artifact, by file name.
    initial_weights: reads the parameters and buffers that its training started from; None if they were random.
    """

    run_key: str
    kind: str
    spec: Mapping[str, Any]
    num_extra: int
    predictions: Callable[[], "Mapping[str, Predictions]"]
    network: Callable[[], "FinishedNetwork"]
    source: Callable[[], Source]
    data_fingerprint: Callable[[], str | None]
    tensors: Mapping[str, Callable[[], Mapping[str, "Tensor"]]] = field(default_factory=dict)
    initial_weights: Callable[[], Mapping[str, "Tensor"] | None] = lambda: None

    def training_data(self, load_data: Callable[[Source], Dataset]) -> Dataset:
        """Returns the data that the run was trained on. Raises `ValueError` if the data has changed since."""
        source = self.source()
        recorded, now = self.data_fingerprint(), load_data(source.rests_on()).fingerprint
        if recorded not in (None, now):
            changed = f"{self.run_key} was trained on data {recorded}, and it now holds {now}"
            raise ValueError(f"{place_of(source)} has changed: {changed}")
        return load_data(source)


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Logits on one split: `row_ids: (N,)`, `labels: (N,)`, -1 for OOD inputs, `logits: (N, C)` float32."""

    row_ids: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
