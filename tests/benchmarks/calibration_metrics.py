"""All calibration metrics on 1,000,000 x 10 and 50,000 x 1,000 logits against torchmetrics and netcal on the same input.

Every case begins at the same float32 logits. torchmetrics takes them as they are; netcal takes probabilities in float64, made
by torch, which its time includes. One thread each, in turns; the numbers are medians over rounds of CPU seconds of this
process, which a busy machine leaves nearly as they are. A ratio is theirs over ours, of the same measures, in the same round;
`against all` compares the peer's few with all of ours together. `largest difference` is between values that
should be equal: torchmetrics sums in float32.
Run: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python tests/benchmarks/calibration_metrics.py
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from netcal.metrics import ACE, ECE, MCE
from torchmetrics.functional.classification import multiclass_calibration_error

from pruneyard.workloads.metrics.binned_errors import largest_gap, mean_gap, root_mean_square_gap
from pruneyard.workloads.metrics.binning import bin_by_confidence
from pruneyard.workloads.metrics.classification import all_metrics, standard_metrics
from pruneyard.workloads.metrics.probabilities import TopLabel

ROUNDS = 5
CASES = {"1,000,000 x 10": (1_000_000, 10), "50,000 x 1,000": (50_000, 1000)}
Values = dict[str, float]


def random_rows(num_rows: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns float32 logits of an overconfident network: labels are sampled from the softmax of half of them."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(num_rows, num_classes)).astype(np.float32) * 3
    noise = generator.gumbel(size=(num_rows, num_classes)).astype(np.float32)
    return logits, (logits / 2 + noise).argmax(axis=1)


def of_torchmetrics(logits: np.ndarray, labels: np.ndarray, *norms: str) -> Values:
    """Its calibration error by the norms named; inputs are not validated, as that alone takes a pass."""
    inputs, targets = torch.from_numpy(logits), torch.from_numpy(labels)
    names = {"l1": "ece", "l2": "rmsce", "max": "mce"}
    return {
        names[norm]: float(
            multiclass_calibration_error(
                inputs, targets, num_classes=logits.shape[1], n_bins=15, norm=norm, validate_args=False
            )
        )
        for norm in norms
    }


def of_netcal(logits: np.ndarray, labels: np.ndarray, *measures: type) -> Values:
    """Its measures, of probabilities."""
    probabilities = torch.from_numpy(logits).double().softmax(dim=1).numpy()
    names = {ECE: "ece", MCE: "mce", ACE: "ace"}
    return {names[measure]: float(measure(15).measure(probabilities, labels)) for measure in measures}


def ours(logits: np.ndarray, labels: np.ndarray, *names: str) -> Values:
    """Returns the named metrics of logits, with all checks of the input."""
    top = TopLabel.from_logits(logits, labels)
    bins = bin_by_confidence(top, num_bins=15)
    measures: dict[str, Callable[[], float]] = {
        "ece": lambda: mean_gap(bins),
        "rmsce": lambda: root_mean_square_gap(bins),
        "mce": lambda: largest_gap(bins),
        "ace": lambda: mean_gap(bin_by_confidence(top, num_bins=15, binning="equal_mass")),
    }
    return {name: measures[name]() for name in names}


PAIRS: dict[str, tuple[Callable[..., Values], Callable[..., Values]]] = {
    "torchmetrics: ece": (lambda z, y: of_torchmetrics(z, y, "l1"), lambda z, y: ours(z, y, "ece")),
    "torchmetrics: ece, rmsce, mce": (
        lambda z, y: of_torchmetrics(z, y, "l1", "l2", "max"),
        lambda z, y: ours(z, y, "ece", "rmsce", "mce"),
    ),
    "netcal: ece": (lambda z, y: of_netcal(z, y, ECE), lambda z, y: ours(z, y, "ece")),
    "netcal: ece, mce, ace": (
        lambda z, y: of_netcal(z, y, ECE, MCE, ACE),
        lambda z, y: ours(z, y, "ece", "mce", "ace"),
    ),
}


def timed(function: Callable[..., Values], *arguments: np.ndarray) -> tuple[float, Values]:
    """Returns the CPU seconds of a call and what it returned."""
    before = time.process_time()
    found = function(*arguments)
    return time.process_time() - before, found


def main(num_rounds: int) -> None:
    """Prints one JSON line for each size."""
    torch.set_num_threads(1)
    print(json.dumps({"torch": torch.__version__, "numpy": np.__version__, "load": os.getloadavg()[0]}), flush=True)
    for case, shape in CASES.items():
        rows = random_rows(*shape)
        seconds: dict[str, list[float]] = {}
        differences: dict[str, float] = {}
        for _ in range(num_rounds):
            for name, function in (("all_metrics", all_metrics), ("standard_metrics", standard_metrics)):
                spent, _ = timed(function, *rows)
                seconds.setdefault(name, []).append(spent)
            for name, (theirs, own) in PAIRS.items():
                spent, expected = timed(theirs, *rows)
                own_spent, found = timed(own, *rows)
                seconds.setdefault(name, []).append(spent)
                seconds.setdefault(f"ours for {name}", []).append(own_spent)
                same = expected.keys() - {"ace"}  # cut at quantiles there, by position here
                differences[name] = max(abs(expected[key] - found[key]) for key in same)
        medians = {name: round(statistics.median(spans), 3) for name, spans in seconds.items()}
        ratios = {}
        for name in PAIRS:
            of_same = [a / b for a, b in zip(seconds[name], seconds[f"ours for {name}"], strict=True)]
            of_all = [a / b for a, b in zip(seconds[name], seconds["all_metrics"], strict=True)]
            ratios[name] = {
                "theirs over ours": round(statistics.median(of_same), 2),
                "against all": round(statistics.median(of_all), 2),
                "largest difference": float(f"{differences[name]:.1e}"),
            }
        print(json.dumps({"case": case, "cpu_s": medians, "ratio": ratios}, indent=1), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
