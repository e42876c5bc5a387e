"""Caches finished runs in a process that runs many short jobs on them."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from pruneyard.orchestrator.artifacts.reader import open_run
from pruneyard.workloads.parents import FinishedRun, Predictions

MAX_CACHED_BYTES = 2**28  # bytes of predictions


class CachedRunReader:
    """Opens finished runs for many short jobs of one process, and reads the predictions of a run only once.

    The arrays are read-only, because several jobs share them. The least recently used predictions are evicted first.
    """

    def __init__(self, most_bytes: int = MAX_CACHED_BYTES) -> None:
        self._most_bytes = most_bytes
        self._runs: dict[str, FinishedRun] = {}
        self._predictions: OrderedDict[str, Mapping[str, Predictions]] = OrderedDict()

    def open_run(self, artifact: str) -> FinishedRun:
        """Returns the finished run of an artifact, as `reader.open_run` does, with cached predictions."""
        if artifact not in self._runs:
            run = open_run(artifact)
            self._runs[artifact] = replace(run, predictions=partial(self._predicted, run, artifact))
        return self._runs[artifact]

    def _predicted(self, run: FinishedRun, artifact: str) -> Mapping[str, Predictions]:
        if artifact not in self._predictions:
            found = run.predictions()
            for split in found.values():
                for array in (split.row_ids, split.labels, split.logits):
                    array.setflags(write=False)
            self._predictions[artifact] = found
            # The newest entry stays even if it exceeds the limit alone: the caller is about to use it.
            while len(self._predictions) > 1 and self._num_bytes() > self._most_bytes:
                self._predictions.popitem(last=False)
        self._predictions.move_to_end(artifact)
        return self._predictions[artifact]

    def _num_bytes(self) -> int:
        # Labels and row ids, one number per row each, are not counted.
        return sum(split.logits.nbytes for splits in self._predictions.values() for split in splits.values())
