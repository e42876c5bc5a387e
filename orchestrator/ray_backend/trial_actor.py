"""The actor that Tune starts for trials: a process that runs trials one after the other."""

import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class TrialActor:
    """Has the methods of a `tune.Trainable` that Tune calls, with the arguments that `tune_patches.plain_actors` passes.

    It is no subclass, because importing Tune takes a quarter of the time in which a process starts. This module imports nothing
    that takes time, because Ray imports it before garbage collection is paused.
    """

    def __init__(self, config: Mapping[str, Any], trial_id: str, arguments: Mapping[str, Any]) -> None:
        """Prepares the process and starts the trial. arguments: those of `TrialProcess`."""
        with _garbage_collection_paused():
            from pruneyard.orchestrator.ray_backend.trial_process import TrialProcess
            from pruneyard.workloads.networks.deferred_compiler import freeze_imports

            freeze_imports()
        self._process = TrialProcess(**arguments)
        self._num_results = 0
        self._process.start_trial(config, trial_id)

    def reset(self, config: Mapping[str, Any], trial_id: str) -> bool:
        """Starts the next trial in this process; returns True, which tells Tune that the actor can be reused."""
        self._num_results = 0
        self._process.start_trial(config, trial_id)
        return True

    def train(self) -> dict[str, Any]:
        """Runs to the next evaluation, or through several short jobs, and returns what Tune reads of a result."""
        self._num_results += 1
        return {"training_iteration": self._num_results, "pid": os.getpid(), **self._process.step()}

    def get_auto_filled_metrics(self, *, debug_metrics_only: bool) -> dict[str, Any]:
        """Returns what Tune asks for before the first result."""
        return {"pid": os.getpid()}

    def stop(self) -> None:
        """Ends what this process keeps for a next trial; Tune calls it when there is none."""
        self._process.close()


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Pauses garbage collection, which takes a fifth of the time of imports although they create hardly any garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
