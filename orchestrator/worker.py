"""The Tune actor: one process that runs trial after trial, each as if it were the first."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from orchestrator.process import Pristine
from orchestrator.trial import Order, Setting, Trial
from reports.layout import RunFolder
from workloads.data.dataset import Dataset, Source

REPORT = "report"  # the keys of ours in what Tune is told
NOTES = "notes"


class TrialActor(tune.Trainable):
    """Each `step` goes on to the next evaluation. Rows and files are written here, so Tune carries only scalars."""

    def setup(  # type: ignore[override]
        self,
        config: dict[str, Any],
        *,
        orders: Sequence[Order],
        study: str,
        folder: Path,
        stop_mark: Path,
        threads: int,
        gpus: float,
        data: Mapping[Source, ray.ObjectRef[Dataset]],
    ) -> None:
        """Called once per process; `config` names the first trial by its place in `orders`."""
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        self._notes = _Notes()
        for package in ("workloads", "reports"):
            logging.getLogger(package).addHandler(self._notes)
        self._pristine = Pristine.here()
        self._orders = orders
        loaded: dict[Source, Dataset] = {}

        def load_data(source: Source) -> Dataset:
            if source not in loaded:
                loaded[source] = ray.get(data[source])
            return loaded[source]

        self._setting = Setting(
            study=study,
            folder=RunFolder(folder),
            threads=threads,
            device=torch.device("cuda" if gpus else "cpu"),
            load_data=load_data,
            should_stop=stop_mark.exists,
        )
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial of a reused process."""
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._pristine.restore(threads=self._setting.threads)
        self._trial = Trial(self._orders[config["index"]], self._setting, trial_id=self.trial_id)

    def step(self) -> dict[str, Any]:
        """One evaluation further. A trial that was to start after a stop was asked for leaves nothing."""
        if self._trial.report.num_steps == 0 and self._setting.should_stop():
            return {"done": True}
        report = self._trial.advance()
        return {REPORT: asdict(report), NOTES: self._notes.take(), "done": report.status is not None}


class _Notes(logging.Handler):
    """Warnings of ours, which the driver says: a worker's own stderr ends in a file of Ray's."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())

    def take(self) -> list[str]:
        """Those since the last call."""
        taken, self._messages = self._messages, []
        return taken
