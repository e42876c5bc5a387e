"""A folder that looks like a finished study of every kind of jobs, with made-up numbers: each runs on the results of another."""

import json
from dataclasses import replace

import numpy as np
from made_up_study import START, metric, record

from pruneyard.reports.latency import write_latency
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import CurveRow, LatencyRow, MetricRow, Status
from pruneyard.reports.store import Store

SEEDS = 3
BINS = ((0.95, 0.9, 80), (0.55, 0.5, 20))  # confidence, accuracy, samples
SPLITS = ("ood.near", "ood.far", "ood.kmnist", "ood.noise")
LATENCY = LatencyRow(
    run_key="", format="csr", batch_size=8, threads=1, device="A CPU", median_s=1.234e-4, low_s=9e-5, high_s=1.1e-3,
    dense_median_s=3e-4, speedup=2.431, speedup_low=2.1, speedup_high=2.8, size_bytes=20_480, dense_size_bytes=1_234_567,
    num_repeats=11, measured_at=START, torch_version="2.8.0", density=0.1, forward_flops=1.3e5, dense_forward_flops=1e6,
    kernels=json.dumps({"hidden1.weight": "csr", "classifier.weight": "dense"}), max_difference=1e-7, load=None,
)  # fmt: skip


def write_whole(path):
    """Writes distillations, sparse trainings, merges, two probes, calibrations with OOD detection and sets, latency."""
    store, rng = Store(RunFolder(path)), np.random.default_rng(11)

    def values(base, split="test"):
        noise = rng.standard_normal(4)
        accuracy, nll = base + 0.01 * noise[0], 1.2 - base + 0.02 * noise[1]
        finals = {"accuracy": accuracy, "nll": nll, "brier": 0.1 + 0.01 * noise[2], "ece": 0.05 + 0.004 * noise[3]}
        return [metric(value, name=name, split=split) for name, value in finals.items()]

    def write(key, rows, curves=(), **columns):
        kind, method, seed = (columns[name] for name in ("kind", "method", "seed"))
        spec = {"kind": kind, "seed": seed, "method": {"name": method}} | columns.pop("more", {})
        spent = {"train_s": 20 + 5 * rng.random(), "wall_s": 30 + 5 * rng.random(), "train_flops": 1e11 * (1 + rng.random())}
        store.write(record(key, **{"spec_json": json.dumps(spec)} | spent | columns), rows, list(curves))

    for place, method in enumerate(("random", "dm")):
        for seed in range(SEEDS):
            rows = values(0.6 + 0.1 * place)
            rows += [MetricRow(step=s, epoch=s, split="val", name="accuracy", value=0.5 + 0.01 * s, wall_s=s) for s in (5, 10)]
            write(f"{method}{seed}", rows, stage="distil", kind="distill", method=method, seed=seed, density=None, ipc=10)
    for place, method in enumerate(("dense", "static", "rigl")):
        for seed in range(SEEDS):
            status = Status.PRUNED if (method, seed) == ("static", 2) else Status.COMPLETED
            curves = [CurveRow(name="reliability", step=10, key="test", x=x, y=y, count=num) for x, y, num in BINS]
            curves += [CurveRow(name="class_accuracy", step=10, key=k, x=int(k), y=0.8 + 0.05 * rng.random()) for k in "01"]
            density = 1.0 if method == "dense" else 0.1
            columns = {"stage": "train", "kind": "sparse", "method": method, "density": density, "status": status}
            write(f"{method}{seed}", values(0.8 + 0.05 * place), curves, seed=seed, **columns)
    write("broken", [], stage="train", kind="sparse", method="rigl", seed=7, status=Status.FAILED, error="ValueError: 3 of 4")
    of_rigl = {"input": {"runs": {"kind": "sparse", "method": {"name": "rigl"}}}}
    for seed in range(SEEDS):
        own = {"seed": seed, "parent_key": f"rigl{seed}"}
        rows = values(0.92)
        for split in ("mean_member", "best_member", "ensemble"):
            rows += values(0.9, f"test@{split}")
        write(f"soup{seed}", rows, stage="soup", kind="merge", method="uniform", more=of_rigl, **own)
        curves = [
            CurveRow(name=f"shift_{name}", step=10, key=key, x=level, y=start + 0.02 * level + 0.01 * rng.random(), count=10)
            for name, start in (("accuracy", 0.7), ("ece", 0.05), ("nll", 0.4))
            for key in ("fog", "rotation")
            for level in (0, 1, 5)
        ]
        write(f"shift{seed}", values(0.75, "shift"), curves, stage="shift", kind="probe", method="shift", more=of_rigl, **own)
        for calibrator, gain in (("none", 0.0), ("temperature", 0.02)):
            rows = [*values(0.85 + gain), *values(0.85 + gain, "val")]
            for name in ("ece_floor", "ece_floor_95", "ece_smooth", "aurc"):
                rows.append(metric(0.02 + 0.01 * rng.random(), name=name))
            drawn = {(split, name): 0.8 + 0.1 * rng.random() for split in SPLITS for name in ("auroc", "fpr95", "ccr_10")}
            rows += [metric(value - gain, name=name, split=split) for (split, name), value in drawn.items()]
            energy = np.random.default_rng(100 + seed)  # the score reads the network before calibration
            rows += [metric(0.7 + 0.1 * energy.random(), name=n, split=f"{s}@energy") for s in SPLITS for n in ("auroc", "fpr95")]
            rows += [metric(0.9 + 0.02 * rng.random(), name="coverage", split="sets@aps")]
            rows += [metric(1.5 + 0.1 * rng.random(), name="set_size", split="sets@aps")]
            curves = [CurveRow(name="reliability", step=10, key="test", x=x, y=y, count=num) for x, y, num in BINS]
            curves += [CurveRow(name="risk", step=10, key="test", x=x, y=0.1 * x * (1 + seed), count=100) for x in (0.5, 1.0)]
            for key, num in (("test", 100), ("ood.kmnist", 300), ("ood.noise", 1200)):
                curves += [CurveRow(name="score", step=10, key=key, x=-x, y=0.5, count=num // 2) for x in (0.1, 0.2)]
            more = {**of_rigl, "near": [{"name": "kmnist"}], "far": [{"name": "noise"}], "sets": [{"name": "aps", "alpha": 0.1}]}
            columns = {"stage": "judge", "kind": "calibrate", "method": calibrator, "train_flops": None, "num_active": None}
            write(f"{calibrator}{seed}", rows, curves, more=more, **columns, **own)
    keys = [f"rigl{seed}" for seed in range(SEEDS)]
    rows = [metric(0.3 + 0.1 * place, name=name, split="weights") for place, name in enumerate(("jaccard", "jaccard_chance"))]
    curves = [
        CurveRow(name="mask_overlap", step=1, key=key, x=place, y=1.0 if key == other else 0.2 + 0.01 * place, count=1)
        for key in keys
        for place, other in enumerate(keys)
    ]
    columns = {"stage": "overlap", "kind": "probe", "method": "mask_overlap", "seed": 0, "parent_key": ",".join(keys)}
    write("overlap", rows, curves, more=of_rigl, **columns)
    for seed in range(2):
        write_latency(RunFolder(path), replace(LATENCY, run_key=f"rigl{seed}", speedup=2.431 + seed))
    return path
