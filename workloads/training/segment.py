"""A segment of a training as a job of its own: where it starts and where it ends."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pruneyard.workloads.checkpoint import Checkpoint
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.fields import FILLED_IN, NOT_IDENTITY, check_runs
from pruneyard.workloads.masks.choice import listed
from pruneyard.workloads.parents import PlannedParent
from pruneyard.workloads.training.planned_training import planned_shapes, trainings


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The part of a training that a job runs; by default all of it.

    runs: one run of the same budget, data and network. Training resumes from its end, with its weights, masks, optimizer
        state, random streams and step, but with the learning rate and other options of this job. A spec writes `from: STAGE`.
    until: share of the budget's steps after which the job ends, in (0, 1].
    folder, artifacts: see `pruneyard.workloads.parents.Runs`.

    Steps, counted FLOPs and seconds of training continue those of the run; metrics are those of this segment alone.
    """

    reads: ClassVar[str] = "checkpoint"

    runs: tuple[str, ...] = ()
    until: float = 1.0
    folder: str = field(default="", metadata=NOT_IDENTITY)
    artifacts: tuple[str, ...] = field(default=(), metadata=FILLED_IN)

    def __post_init__(self) -> None:
        if self.runs:
            check_runs(self.runs, num=1)
        elif self.folder:
            raise ValueError(f"folder is {self.folder!r}, but runs is missing; give both or neither")
        if not 0 < self.until <= 1:
            raise ValueError(f"until is {self.until}; it must lie in (0, 1], a share of the budget's steps")

    def end(self, num_steps: int) -> int:
        """Returns the step after which the job ends, for a budget of `num_steps` steps."""
        return max(1, round(self.until * num_steps))

    def check_parents(self, job: Any, data: Dataset, parents: Mapping[str, PlannedParent[Any]]) -> None:
        """Raises `ValueError` if the job that has this table cannot resume from an upstream training, for its network or budget.

        data: a set with the shape and classes of the job's own. parents: the known upstream runs, by run key.
        """
        for run, parent in trainings(self.runs, parents).items():
            before = parent.workload
            if self.until <= before.segment.until:
                ended = f"run {run} ends at the share {before.segment.until} of its steps, so until must be larger"
                raise ValueError(f"segment.until is {self.until}; {ended}")
            for name in ("epochs", "steps", "batch_size"):
                own, other = getattr(job.budget, name), getattr(before.budget, name)
                if own != other:
                    raise ValueError(f"budget.{name} is {own}; it must be {other}, as in run {run} from which segment resumes")
            shapes, found = planned_shapes(job, data), planned_shapes(before, parent.data)
            if shapes is not None and found is not None and shapes != found:
                differing = listed([name for name in {**shapes, **found} if shapes.get(name) != found.get(name)])
                raise ValueError(f"segment resumes from run {run}, whose network differs in {differing}; give the same model")

    def check(self, checkpoint: Checkpoint, *, num_steps: int) -> None:
        """Raises `ValueError` if the run to resume from already reached the end of this segment."""
        if checkpoint.step >= self.end(num_steps):
            raise ValueError(
                f"segment.until is {self.until}, step {self.end(num_steps)} of {num_steps}; run {self.runs[0]} ended at "
                f"step {checkpoint.step}, so until must be larger"
            )


WHOLE = Segment()
