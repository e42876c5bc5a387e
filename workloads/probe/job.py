"""A job of kind `probe`: measures the networks of finished runs. It trains nothing that it keeps, and has no checkpoint.

`input` names the runs. A stage has one job for each run, or with `over: all` and `over: seed` one for several runs, for
probes that compare networks.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.parents import Runs
from pruneyard.workloads.plugins import Plugin, Settings, name_of
from pruneyard.workloads.probe.probe import Finding, Probe, Subject
from pruneyard.workloads.workload import Context, Metric, Outcome, Progress

__all__ = ["ProbeJob"]


@dataclass(frozen=True, kw_only=True)
class ProbedRuns(Runs):
    """Earlier runs that leave a network."""

    reads: ClassVar[str] = "network"


@dataclass(frozen=True, kw_only=True)
class ProbeJob:
    """input: the runs that are measured. seed: of the probe's random numbers; by default that of the run, if there is one."""

    leaves: ClassVar[tuple[str, ...]] = ()
    examples: ClassVar[tuple[Settings, ...]] = ({"input": {"from": "runs"}, "method": {"name": "heavy_tail"}},)

    input: ProbedRuns
    method: Annotated[Probe, Plugin("probe.methods")]
    seed: int = 0

    def __post_init__(self) -> None:
        num, fewest, most = len(self.input.runs), self.method.fewest_runs, self.method.most_runs
        if num < fewest or (most is not None and num > most):
            allowed = f"{fewest}" if fewest == most else f"{fewest} or more" if most is None else f"{fewest} ... {most}"
            few = "; give over: all or over: seed, and leave out by `where` a setting that has no more runs"
            runs = "1 run" if num == 1 else f"{num} runs"
            hint = few if num < fewest else "; leave out over"
            raise ValueError(f"input has {runs}; {name_of(self.method)} measures {allowed} together{hint}")

    @property
    def reads_data_of_input(self) -> bool:
        """True if the job reads the data that its input runs were trained on."""
        return self.method.reads_data

    def check(self, data: Dataset | None) -> list[str]:
        """Returns no warnings: nothing can be checked before the input runs exist."""
        return []

    def expected_work(self, data: Dataset) -> tuple[float, int]:
        """Returns (0.0, 0): the work of this kind is not counted in advance."""
        return 0.0, 0

    def run(self, context: Context) -> Iterator[Progress]:
        """Measures the runs in one step."""
        started = time.monotonic()
        subjects = [
            Subject(run=context.open_run(artifact), device=context.device, load_data=context.load_data)
            for artifact in self.input.artifacts
        ]
        finding = self.method.measure(subjects, seed=self.seed)
        yield _progress(finding, elapsed=time.monotonic() - started)


def _progress(finding: Finding, *, elapsed: float) -> Progress:
    metrics = tuple(
        Metric(step=1, epoch=1.0, split=split, name=name, value=value, wall_s=elapsed)
        for (split, name), value in finding.metrics.items()
        if math.isfinite(value)
    )
    outcome = Outcome.without_network(train_s=elapsed, files=finding.files)
    return Progress(step=1, num_steps=1, metrics=metrics, curves=finding.curves, outcome=outcome)
