"""Lets Tune create a trial only once its jobs can start, while the trials that they wait for are running."""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search.basic_variant import BasicVariantGenerator

from pruneyard.orchestrator.execution.capacity import Room
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.ray_backend.trial_process import INPUTS
from pruneyard.orchestrator.spec.job import Resources

INDEX = "index"
PATIENCE_S = 30.0  # after which trials that wait for room, or for processes of their own, are passed no more
SHORT_S = 0.5  # jobs of a stage whose newest ones took less share trials
TRIAL_S = 1.0  # how long the jobs that share a trial should take together
MIN_TRIAL_S = 0.05  # and how long at least, since Tune itself takes 10 to 50 ms for a trial
NUM_NEWEST = 10


class RunnableTrials(BasicVariantGenerator):
    """Creates one trial for each job that can start, or for several short ones, as many at once as there is room for.

    The newest added jobs come first, but those that take what running trials take pass others: they take over their processes,
    while a process for other resources starts anew. So do those for which there is room now. None passes for longer than
    `patience_s`.

    Where the newest jobs of a stage took less than `SHORT_S` each, a trial takes several of them: half of the share of its slot,
    so that all slots end together, but no less than what takes `MIN_TRIAL_S`. An attempt after the first
    is alone: should it crash its process again, it takes no other job with it. So is one that may stop early, since the order of
    reports decides.

    created: the attempts of the trials, by `index`. It is the only state that others read.
    """

    def __init__(
        self,
        attempts: Sequence[PlannedAttempt],
        *,
        room: Room,
        may_stop_early: Callable[[str], bool] = lambda key: False,
        patience_s: float = PATIENCE_S,
    ) -> None:
        super().__init__()
        self.created: list[list[PlannedAttempt]] = []
        self._inputs: list[list[Any]] = []
        self._waiting = deque[tuple[PlannedAttempt, Any]]((planned, number) for number, planned in enumerate(attempts))
        self._room, self._live = room, dict[str, Resources]()
        self._num_waiting = Counter(planned.resources for planned in attempts)
        self._patience_s, self._passed_since = patience_s, dict[Resources, float]()
        self._warm: Resources | None = None  # what the trial took that ended last
        self._chosen = 0  # the place of the next job
        self._may_stop_early = may_stop_early
        self._seconds: dict[str | None, deque[float]] = {}  # of the newest jobs, by stage

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it into files that nobody reads

    def add(self, planned: PlannedAttempt, job_input: Any) -> None:
        """Adds a job that can start. Its trial gets the input; for attempts known at the start that is their number."""
        self._waiting.appendleft((planned, job_input))
        self._num_waiting[planned.resources] += 1

    def take_back(self, index: int, place: int) -> None:
        """Lets the jobs of a trial from this place on wait again, before all others."""
        returned = list(zip(self.created[index], self._inputs[index], strict=True))[place:]
        del self.created[index][place:], self._inputs[index][place:]
        for planned, job_input in reversed(returned):
            self.add(planned, job_input)

    def record(self, stage: str | None, seconds: float) -> None:
        """Learns how long a job of this stage took."""
        self._seconds.setdefault(stage, deque(maxlen=NUM_NEWEST)).append(seconds)

    def param_space(self) -> dict[str, Any]:
        """Returns the space from which Tune samples the config of each trial that this generator creates."""

        def inputs_of(spec: Any) -> Any:
            return list(self._inputs[spec.config[INDEX]])

        return {INDEX: tune.sample_from(lambda _: self._take()), INPUTS: tune.sample_from(inputs_of)}

    def _take(self) -> int:
        first, _ = self._waiting[self._chosen]
        num_together = self._num_together(first)
        taken: list[tuple[PlannedAttempt, Any]] = []
        while self._chosen < len(self._waiting) and len(taken) < num_together:
            planned, _ = self._waiting[self._chosen]
            if taken and not (_alike(planned, first) and self._may_share(planned)):
                break
            taken.append(self._waiting[self._chosen])
            del self._waiting[self._chosen]
        self._num_waiting[first.resources] -= len(taken)
        self._chosen = 0
        self.created.append([planned for planned, _ in taken])
        self._inputs.append([job_input for _, job_input in taken])
        return len(self.created) - 1

    def _num_together(self, planned: PlannedAttempt) -> int:
        """Returns how many jobs the trial of this one may take."""
        seconds = self._seconds.get(planned.job.stage)
        if not seconds or max(seconds) >= SHORT_S or not self._may_share(planned):
            return 1
        fair = self._num_waiting[planned.resources] // (2 * self._room.num_slots(planned.resources))
        mean = sum(seconds) / len(seconds)
        return max(1, min(max(fair, int(MIN_TRIAL_S / mean)), int(TRIAL_S / mean)))

    def _may_share(self, planned: PlannedAttempt) -> bool:
        alone = planned.attempt > 1 or planned.until < 1 or planned.resources.workers > 1
        return not alone and not self._may_stop_early(planned.job.key)

    def waiting_resources(self) -> Resources:
        """Returns the resources of the newest trial that was created, which waits if any does."""
        return self.created[-1][0].resources

    def next_trial(self) -> TuneTrial | None:
        """Returns a new trial; None if no job can start, or there is no room for one."""
        if self.is_finished() or (chosen := self._next_place()) is None:
            return None
        resources = self._waiting[chosen][0].resources
        self._chosen = chosen  # Tune samples the config, and so takes the jobs, before it asks for the next trial
        trial: TuneTrial | None = super().next_trial()  # type: ignore[no-untyped-call]
        if trial is not None:
            self._live[trial.trial_id] = resources
            now = time.monotonic()
            for shape, number in self._num_waiting.items():
                if number and shape != resources:
                    self._passed_since.setdefault(shape, now)
            self._passed_since.pop(resources, None)
        return trial

    def _next_place(self) -> int | None:
        """Returns the place of the waiting job to start next; None if there is no room for one."""
        shapes = [shape for shape, number in self._num_waiting.items() if number]
        now = time.monotonic()
        urgent = [shape for shape in shapes if now - self._passed_since.get(shape, math.inf) >= self._patience_s]
        fitting = {shape for shape in urgent or shapes if self._room.fits(shape, self._live.values())}
        warm = fitting.intersection({*self._live.values(), self._warm})
        return next((place for place, (job, _) in enumerate(self._waiting) if job.resources in (warm or fitting)), None)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Frees the slot of a trial that has ended."""
        super().on_trial_complete(trial_id, result, error)
        self._warm = self._live.pop(trial_id, self._warm)

    def is_finished(self) -> bool:
        """Returns whether no job can start, and none will: only running trials let others start, and none after a stop."""
        is_stopped: bool = super().is_finished()  # Tune calls `set_finished` when a study stops
        return is_stopped or (not self._waiting and not self._live)

    def save_to_dir(self, dirpath: str, session_str: str = "", **kwargs: Any) -> None:
        """Saves nothing: a study that is resumed is planned again."""


def _alike(planned: PlannedAttempt, first: PlannedAttempt) -> bool:
    return planned.resources == first.resources and planned.job.stage == first.job.stage
