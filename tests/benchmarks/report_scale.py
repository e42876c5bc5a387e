"""Measures the page of 10,000 runs with 1,000,000 metric rows: CPU seconds, memory and size, against pandas over Tune's files.

The obvious way without pruneyard is a script that reads the `result.json` of every trial, one JSON object per evaluation, into
one pandas table and takes the mean of the last values of each setting; it draws nothing.

    python tests/benchmarks/report_scale.py [--runs 10000] [--rows 100]
"""

import argparse
import itertools
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent))

from made_up_study import START, record

from pruneyard.reports.attempt import Attempt
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.page import write_page
from pruneyard.reports.records import MetricRow
from pruneyard.reports.store import Store

METHODS = ("rigl", "set", "static", "magnitude", "snip")
DENSITIES = (0.5, 0.3, 0.2, 0.1, 0.05)
NAMES = ("val/accuracy", "val/nll", "val/ece", "val/brier")
BATCH = 500


def settings(num: int) -> list[tuple[str, float, float, int]]:
    """Returns method, density, learning rate and seed of each run: 500 settings of 20 seeds for 10,000 runs."""
    rates = [round(0.01 * (1 + place), 2) for place in range(20)]
    cells = itertools.product(METHODS, DENSITIES, rates)
    return [(*cell, seed) for cell in cells for seed in range(max(1, num // 500))][:num]


def write(folder: Path, tune: Path, *, num: int, rows: int) -> None:
    """Writes the same numbers twice: as a folder of results, and as one `result.json` per trial."""
    store, rng = Store(RunFolder(folder)), np.random.default_rng(0)
    steps = rows // len(NAMES)
    batch: list[Attempt] = []
    for number, (method, density, rate, seed) in enumerate(settings(num)):
        values = np.sort(rng.random((steps, len(NAMES))), axis=0).round(6)
        spec = {"method": {"name": method, "density": density}, "optimizer": {"lr": rate}}
        run = record(f"{number:012x}", seed=seed, method=method, density=density, spec_json=json.dumps(spec), started_at=START)
        metrics = [
            MetricRow(step=step, epoch=step, split="val", name=name.partition("/")[2], value=float(value), wall_s=float(step))
            for step, row in enumerate(values)
            for name, value in zip(NAMES, row, strict=True)
        ]
        batch.append(Attempt(run=run, metrics=metrics, curves=[]))
        if len(batch) == BATCH or number + 1 == num:
            store.write_together(batch)
            batch = []
        trial = tune / f"trial_{number:05d}"
        trial.mkdir(parents=True)
        told = [dict(zip(NAMES, map(float, row), strict=True)) for row in values]
        config = {**spec, "seed": seed}
        lines = [json.dumps({**each, "training_iteration": step, "config": config}) for step, each in enumerate(told)]
        (trial / "result.json").write_text("\n".join(lines) + "\n")
    store.compact()


def page(folder: Path) -> str:
    """Renders the page; returns its size."""
    out = write_page([folder], folder / "report.html")
    return f"{out.stat().st_size / 1e6:.1f} MB"


def obvious(tune: Path) -> str:
    """Reads every trial with pandas and takes the mean last value of each setting; returns how many there are."""
    frames = []
    for path in sorted(tune.glob("*/result.json")):
        frame = pd.json_normalize([json.loads(line) for line in path.read_text().splitlines()])
        frames.append(frame.assign(trial=path.parent.name))
    table = pd.concat(frames, ignore_index=True)
    last = table.sort_values("training_iteration").groupby("trial").tail(1)
    keys = ["config.method.name", "config.method.density", "config.optimizer.lr"]
    return f"{len(last.groupby(keys)[list(NAMES)].agg(['mean', 'std']))} settings"


def measured(name: str, function: Callable[[Path], str], path: Path) -> None:
    """Runs the function in a process of its own and prints its CPU time, wall time and peak memory."""
    begun = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result, cpu_s, peak_kib = pool.apply(_costs, (function, path))
    wall_s = time.perf_counter() - begun
    print(f"{name}: {cpu_s:.1f} s of CPU, {wall_s:.1f} s, {peak_kib / 2**20:.2f} GiB at most, {result}", flush=True)


def _costs(function: Callable[[Path], str], path: Path) -> tuple[str, float, int]:
    begun = time.process_time()
    result = function(path)
    return result, time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=100, help="metric rows of each run, a multiple of four")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, tune = Path(temporary) / "study", Path(temporary) / "tune"
        write(folder, tune, num=arguments.runs, rows=arguments.rows)
        print(f"{arguments.runs:,} runs, {arguments.runs * arguments.rows:,} metric rows", flush=True)
        measured("page", page, folder)
        measured("pandas over result.json, no page", obvious, tune)
