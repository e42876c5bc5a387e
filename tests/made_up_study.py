"""A folder that looks like a finished study, with made-up numbers, for tests of its readers."""

import hashlib
import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import CurveRow, MetricRow, RunRecord, Status
from pruneyard.reports.store import Store

START = datetime(2025, 3, 1, 9, 0, tzinfo=UTC)
LAYERS = ("stem.weight", "block1.conv1.weight", "block1.conv2.weight", "block2.conv1.weight", "head.weight")


def record(key: str = "0123456789ab", **changes: object) -> RunRecord:
    """Returns the record of a completed run; any column may be changed."""
    columns: dict[str, object] = {
        "run_key": key,
        "study": "density-sweep",
        "stage": None,
        "kind": "sparse",
        "trial_id": f"trial_{key}",
        "attempt": 1,
        "parent_key": None,
        "status": Status.COMPLETED,
        "error": None,
        "seed": 0,
        "data": "digits",
        "model": "mlp",
        "method": "rigl",
        "density": 0.1,
        "ipc": None,
        "spec_json": "{}",
        "started_at": START,
        "ended_at": START + timedelta(seconds=42),
        "wall_s": 42.0,
        "train_s": 35.5,
        "device": "cpu",
        "num_workers": 1,
        "train_flops": 3.2e11,
        "num_parameters": 85_002,
        "num_active": 8_500,
        "peak_memory_bytes": None,
        "code_version": "0.1.0",
        "torch_version": "2.8.0",
        "artifact": f"artifacts/{key}",
    }
    return RunRecord(**(columns | changes))  # type: ignore[arg-type]


def metric(value: float, *, step: int = 10, name: str = "accuracy", split: str = "test") -> MetricRow:
    """Returns one metric row."""
    return MetricRow(step=step, epoch=step / 10, split=split, name=name, value=value, wall_s=0.1 * step)


def write_study(
    path: Path,
    *,
    methods: Sequence[str] = ("dense", "rigl", "set", "static"),
    densities: Sequence[float] = (0.2, 0.1, 0.05, 0.02),
    seeds: int = 3,
    evaluations: int = 30,
    troubles: bool = True,
) -> Path:
    """Writes a sweep of methods x densities x seeds; with `troubles` one run failed and one was pruned."""
    store = Store(RunFolder(path))
    path.mkdir(parents=True, exist_ok=True)
    RunFolder(path).spec.write_text(
        "name: density-sweep\nkind: sparse\ndata: {name: digits}\n", encoding="utf-8"
    )
    number = 0
    for place, method in enumerate(methods):
        for density in (1.0,) if method == "dense" else densities:
            for seed in range(seeds):
                number += 1
                status = Status.COMPLETED
                if troubles and method == "set" and density == min(densities):
                    status = (Status.FAILED, Status.PRUNED, Status.INTERRUPTED)[seed % 3]
                key = hashlib.sha256(f"{method} {density} {seed}".encode()).hexdigest()[:12]
                _write_run(store, key, number, place, method, density, seed, status, evaluations)
    return path


def _write_run(
    store: Store,
    key: str,
    number: int,
    place: int,
    method: str,
    density: float,
    seed: int,
    status: Status,
    evaluations: int,
) -> None:
    rng = np.random.default_rng(int(key, 16))
    best = 0.975 - 0.012 * (place + 1) * math.log(1 / density) / 2 + 0.003 * rng.standard_normal()
    spec = {
        "kind": "sparse",
        "seed": seed,
        "data": {"name": "digits", "val_fraction": 0.1},
        "model": {"name": "mlp", "width": 256},
        "method": {"name": method, "density": density, "schedule": {"every": 100}},
        "optimizer": {"name": "sgd", "lr": 0.1},
    }
    error = None
    if status is Status.FAILED:
        error = (
            'Traceback (most recent call last):\n  File "loop.py", line 81, in run\nValueError: loss is NaN'
        )
    started = START + timedelta(seconds=40 * number)
    run = record(
        key,
        seed=seed,
        method=method,
        density=density,
        status=status,
        error=error,
        spec_json=json.dumps(spec),
        started_at=started,
        ended_at=started + timedelta(seconds=40),
        num_active=int(85_002 * density),
        train_flops=3.2e12 * (0.3 + density),
        train_s=30 + 5 * float(rng.random()),
    )
    end = evaluations if status is Status.COMPLETED else evaluations // 3
    rows = []
    for epoch in range(1, end + 1):
        accuracy = best - 0.75 * math.exp(-epoch / 3) + 0.004 * rng.standard_normal()
        nll = 0.1 + 2.2 * math.exp(-epoch / 3) + (1 - best) * 2 + 0.01 * rng.standard_normal()
        rows += [
            MetricRow(
                step=10 * epoch, epoch=epoch, split="val", name="accuracy", value=accuracy, wall_s=epoch
            ),
            MetricRow(step=10 * epoch, epoch=epoch, split="val", name="nll", value=nll, wall_s=epoch),
        ]
    if status is not Status.COMPLETED:
        store.write(run, rows, [])
        return
    gap = 0.02 + 0.05 * density + 0.002 * float(rng.standard_normal())
    finals = {"accuracy": best - 0.01, "nll": 0.15 + (1 - best) * 2, "brier": 0.05 + (1 - best), "ece": gap}
    rows += [metric(value, step=10 * end, name=name) for name, value in finals.items()]
    store.write(run, rows, _curves(10 * end, density, gap, rng))


def _curves(step: int, density: float, gap: float, rng: np.random.Generator) -> list[CurveRow]:
    shares = np.clip(density * np.array([4.0, 1.6, 1.0, 0.7, 3.0]), 0, 1)
    rows = [CurveRow(name="density", step=step, key=key, y=y) for key, y in zip(LAYERS, shares, strict=True)]
    for low in np.arange(0.2, 1.0, 1 / 15):
        x = float(low + 0.04)
        y = float(np.clip(x - gap + 0.03 * rng.standard_normal(), 0, 1))
        rows.append(CurveRow(name="reliability", step=step, key="test", x=x, y=y, count=int(4 + 200 * x**6)))
    return rows
