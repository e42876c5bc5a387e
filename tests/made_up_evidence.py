"""A folder that looks like a study of CigL, with made-up numbers, for tests of the evidence on papers' claims."""

import hashlib
import json
from pathlib import Path
from typing import Any

from made_up_study import metric, record

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.planned import write_plan
from pruneyard.reports.store import Store


def write_runs(
    folder: Path, method: dict[str, Any], values: dict[str, list[float]], *, stage: str = "fresh", **tables: Any
) -> None:
    """Writes one run per seed with the last values of measures."""
    store = Store(RunFolder(folder))
    defaults: dict[str, Any] = {"average": {"begin": 1.0}, "weight_dropout": {"drop": 0.0}, "data": {"name": "mnist"}}
    for seed in range(len(next(iter(values.values())))):
        spec = {**defaults, "method": {"density": 0.02, **method}, **tables, "seed": seed}
        key = hashlib.blake2b(json.dumps([stage, spec]).encode(), digest_size=8).hexdigest()
        run = record(key, method=method["name"], stage=stage, seed=seed, density=0.02, data="mnist", spec_json=json.dumps(spec))
        rows = [
            metric(series[seed], split=measure.partition("/")[0], name=measure.partition("/")[2])
            for measure, series in values.items()
        ]
        store.write(run, rows, [])


def write_rigged(folder: Path) -> Path:
    """CigL lowers the ECE from 0.10 to 0.05; as released, with alike weights and masks without effect, it does nothing."""
    folder.mkdir()
    acting = {"train/average_spread": [0.2, 0.22, 0.21, 0.2], "val/mask_disagreement": [0.1, 0.1, 0.11, 0.1]}
    inert = {"train/average_spread": [0.01, 0.011, 0.01, 0.01], "val/mask_disagreement": [0.001, 0.001, 0.001, 0.0]}
    accuracy = {"test/accuracy": [0.9, 0.91, 0.9, 0.91]}
    write_runs(folder, {"name": "rigl"}, {"test/ece": [0.10, 0.11, 0.09, 0.10], **accuracy})
    write_runs(folder, {"name": "rigl"}, {"test/ece": [0.5] * 4, **accuracy}, stage="tune")
    better = {"test/ece": [0.05, 0.06, 0.045, 0.05], **accuracy, **acting}
    write_runs(folder, {"name": "cigl", "weight_dropout": 0.1}, better)
    write_runs(folder, {"name": "cigl", "weight_dropout": 0.01}, {"test/ece": [0.10, 0.111, 0.089, 0.10], **accuracy, **inert})
    write_plan(RunFolder(folder), sorted(Store(RunFolder(folder)).statuses()), chosen_from=["tune"])
    return folder
