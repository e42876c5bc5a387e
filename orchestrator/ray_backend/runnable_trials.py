"""Lets Tune create a trial only once its jobs can start, while the trials that they wait for are running."""

import math
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search.basic_variant import BasicVariantGenerator

from pruneyard.orchestrator.execution.capacity import Room
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.ray_backend.trial_actor import BUNDLE
from pruneyard.orchestrator.spec.job import Resources

INDEX = "index"
PATIENCE_S = 30.0  # after which trials that wait for room, or for processes of their own, are passed no more


class RunnableTrials(BasicVariantGenerator):
    """Creates one trial for each bundle that can start, as many at once as there is room for.

    The newest added bundles come first, but those that take what running trials take pass others: they take over their processes,
    while a process for other resources starts anew. So do those for which there is room now. None passes for longer than
    `patience_s`.
    created: the bundles of the trials, by `index`. It is the only state that others read.
    """

    def __init__(
        self, bundles: Sequence[Sequence[PlannedAttempt]], *, room: Room, patience_s: float = PATIENCE_S
    ) -> None:
        super().__init__()
        self.created: list[Sequence[PlannedAttempt]] = []
        self._inputs: list[Any] = []
        self._waiting: deque[tuple[Sequence[PlannedAttempt], Any]] = deque(
            (bundle, number) for number, bundle in enumerate(bundles)
        )
        self._room, self._live = room, dict[str, Resources]()
        self._num_waiting = Counter(_shape(bundle) for bundle in bundles)
        self._patience_s, self._passed_since = patience_s, dict[Resources, float]()
        self._warm: Resources | None = None  # what the trial took that ended last
        self._chosen = 0  # the place of the next bundle

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it into files that nobody reads

    def add(self, bundle: Sequence[PlannedAttempt], bundle_input: Any) -> None:
        """Adds a bundle that can start. Its trial gets the input; for bundles known at the start that is their number."""
        self._waiting.appendleft((bundle, bundle_input))
        self._num_waiting[_shape(bundle)] += 1

    def param_space(self) -> dict[str, Any]:
        """Returns the space from which Tune samples the config of each trial that this generator creates."""

        def input_of(spec: Any) -> Any:
            return self._inputs[spec.config[INDEX]]

        return {INDEX: tune.sample_from(lambda _: self._take()), BUNDLE: tune.sample_from(input_of)}

    def _take(self) -> int:
        bundle, bundle_input = self._waiting[self._chosen]
        del self._waiting[self._chosen]
        self._num_waiting[_shape(bundle)] -= 1
        self._chosen = 0
        self.created.append(bundle)
        self._inputs.append(bundle_input)
        return len(self.created) - 1

    def waiting_resources(self) -> Resources:
        """Returns the resources of the newest trial that was created, which waits if any does."""
        return _shape(self.created[-1])

    def next_trial(self) -> TuneTrial | None:
        """Returns a new trial; None if no bundle can start, or there is no room for one."""
        if self.is_finished() or (chosen := self._next_place()) is None:
            return None
        resources = _shape(self._waiting[chosen][0])
        self._chosen = chosen  # Tune samples the config, and so takes the bundle, before it asks for the next trial
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
        """Returns the place of the waiting bundle to start next; None if there is no room for one."""
        shapes = [shape for shape, number in self._num_waiting.items() if number]
        now = time.monotonic()
        urgent = [shape for shape in shapes if now - self._passed_since.get(shape, math.inf) >= self._patience_s]
        fitting = {shape for shape in urgent or shapes if self._room.fits(shape, self._live.values())}
        warm = fitting.intersection({*self._live.values(), self._warm})
        return next((place for place, (bundle, _) in enumerate(self._waiting) if _shape(bundle) in (warm or fitting)), None)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Frees the slot of a trial that has ended."""
        super().on_trial_complete(trial_id, result, error)
        self._warm = self._live.pop(trial_id, self._warm)

    def is_finished(self) -> bool:
        """Returns whether no bundle can start, and none will: only running trials let others start, and none after a stop."""
        is_stopped: bool = super().is_finished()  # Tune calls `set_finished` when a study stops
        return is_stopped or (not self._waiting and not self._live)

    def save_to_dir(self, dirpath: str, session_str: str = "", **kwargs: Any) -> None:
        """Saves nothing: a study that is resumed is planned again."""


def _shape(bundle: Sequence[PlannedAttempt]) -> Resources:
    return bundle[0].resources
