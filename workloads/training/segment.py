"""A stretch of a training as a job of its own: where it begins, and where it ends."""

from dataclasses import dataclass, field

from pruneyard.workloads.checkpoint import Checkpoint
from pruneyard.workloads.fields import FILLED_IN, NOT_IDENTITY, check_runs


@dataclass(frozen=True, kw_only=True)
class Segment:
    """By default the whole training.

    runs: one run of the same budget, data and network, from whose end the training goes on: its weights, masks, optimizer
        state, random streams and step, but with this job's own rates and other numbers. A spec writes `from: STAGE`.
    until: share of the budget's steps after which the job ends, in (0, 1].
    folder, artifacts: as in `pruneyard.workloads.parents.Runs`.

    Steps, counted FLOPs and seconds of training go on from those of the run; metrics are those of this stretch.
    """

    runs: tuple[str, ...] = ()
    until: float = 1.0
    folder: str = field(default="", metadata=NOT_IDENTITY)
    artifacts: tuple[str, ...] = field(default=(), metadata=FILLED_IN)

    def __post_init__(self) -> None:
        if self.runs:
            check_runs(self.runs, num=1)
        elif self.folder:
            raise ValueError(f"folder is {self.folder!r} without runs; it belongs to them")
        if not 0 < self.until <= 1:
            raise ValueError(f"until is {self.until}; it must lie in (0, 1], a share of the budget's steps")

    def end(self, num_steps: int) -> int:
        """The step after which the job ends, of a budget of so many."""
        return max(1, round(self.until * num_steps))

    def check(self, begun: Checkpoint, *, num_steps: int) -> None:
        """Raises `ValueError` where the run that it goes on from has come as far as this job is to come."""
        if begun.step >= self.end(num_steps):
            raise ValueError(
                f"segment.until is {self.until}, step {self.end(num_steps)} of {num_steps}; run {self.runs[0]} ended at "
                f"step {begun.step}, so it must be larger"
            )


WHOLE = Segment()
