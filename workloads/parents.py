"""How a job names finished runs that it rests on, and what it may ask of one of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pruneyard.workloads.fields import NOT_IDENTITY

if TYPE_CHECKING:
    from torch import Tensor

    from pruneyard.workloads.data.dataset import Source
    from pruneyard.workloads.networks.finished import FinishedNetwork
    pass
from typing import TYPE_CHECKING

import numpy as np

from pruneyard.workloads.data.dataset import Source

if TYPE_CHECKING:
    from torch import Tensor
from pruneyard.workloads.fields import FILLED_IN, check_runs


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


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Outputs on one split: `row_ids: (N,)`, `labels: (N,)`, -1 for unknown inputs, `logits: (N, C)` float32."""

    row_ids: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
