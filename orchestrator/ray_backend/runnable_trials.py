"""Lets Tune create a trial only once its jobs can start, while the trials that they wait for are running."""

from collections import deque
from collections.abc import Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search.basic_variant import BasicVariantGenerator

from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.ray_backend.trial_actor import BUNDLE

INDEX = "index"


class RunnableTrials(BasicVariantGenerator):
    """Creates one trial for each bundle that can start, at most `max_live` at once; the newest added bundles come first.

    created: the bundles of the trials, by `index`. It is the only state that others read.
    """

    def __init__(self, bundles: Sequence[Sequence[PlannedAttempt]], *, max_live: int) -> None:
        super().__init__()
        self.created: list[Sequence[PlannedAttempt]] = []
        self._inputs: list[Any] = []
        self._waiting: deque[tuple[Sequence[PlannedAttempt], Any]] = deque(
            (bundle, number) for number, bundle in enumerate(bundles)
        )
        self._max_live, self._live = max_live, set[str]()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it into files that nobody reads

    def add(self, bundle: Sequence[PlannedAttempt], bundle_input: Any) -> None:
        """Adds a bundle that can start. Its trial gets the input; for bundles known at the start that is their number."""
        self._waiting.appendleft((bundle, bundle_input))

    def param_space(self) -> dict[str, Any]:
        """Returns the space from which Tune samples the config of each trial that this generator creates."""

        def input_of(spec: Any) -> Any:
            return self._inputs[spec.config[INDEX]]

        return {INDEX: tune.sample_from(lambda _: self._take()), BUNDLE: tune.sample_from(input_of)}

    def _take(self) -> int:
        bundle, bundle_input = self._waiting.popleft()
        self.created.append(bundle)
        self._inputs.append(bundle_input)
        return len(self.created) - 1

    def next_trial(self) -> TuneTrial | None:
        """Returns a new trial; None if no bundle can start, or as many trials as allowed are live."""
        if self.is_finished() or not self._waiting or len(self._live) >= self._max_live:
            return None
        trial: TuneTrial | None = super().next_trial()  # type: ignore[no-untyped-call]
        if trial is not None:
            self._live.add(trial.trial_id)
        return trial

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Frees the slot of a trial that has ended."""
        super().on_trial_complete(trial_id, result, error)
        self._live.discard(trial_id)

    def is_finished(self) -> bool:
        """Returns whether no bundle can start, and none will: only running trials let others start, and none after a stop."""
        is_stopped: bool = super().is_finished()  # Tune calls `set_finished` when a study stops
        return is_stopped or (not self._waiting and not self._live)

    def save_to_dir(self, dirpath: str, session_str: str = "", **kwargs: Any) -> None:
        """Saves nothing: a study that is resumed is planned again."""
