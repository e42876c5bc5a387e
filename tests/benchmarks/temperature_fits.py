"""Temperature fits per minute on one core, of 10,000 x 10 logits, against common ways to find the same temperature.

Each first fits T at several scales of the same logits, which shows which of them find it. Times are processor time at scale
2.5, which other work on the machine disturbs little; the ways alternate, and a number is the median over rounds.
Run: OMP_NUM_THREADS=1 python tests/benchmarks/temperature_fits.py [--rows 10000] [--classes 10] [--rounds 15]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from torch import nn

from pruneyard.workloads.calibrate.calibrator import Floats, Labels
from pruneyard.workloads.calibrate.methods.temperature import Temperature

SCALES = (0.1, 1.0, 2.5, 10.0, 100.0)
TIMED_SCALE = 2.5

Way = Callable[[Floats, Labels], float]


def drawn(num_rows: int, num_classes: int) -> tuple[Floats, Labels]:
    """Returns logits, and labels sampled from their softmax."""
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(num_rows, num_classes))
    return logits, (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)


def ours(logits: Floats, labels: Labels) -> float:
    """Fits with the checks of input that every fit makes."""
    return float(Temperature().fit(logits, labels, seed=0).numbers["temperature"])


def bounded_scalar(logits: Floats, labels: Labels) -> float:
    """Minimises the NLL over log T in [-10, 10], by Brent's method without a derivative."""
    rows = np.arange(len(labels))

    def nll(log_temperature: float) -> float:
        return float(-log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels].mean())

    found = minimize_scalar(nll, bounds=(-10, 10), method="bounded", options={"xatol": 1e-9})
    return float(np.exp(found.x))


def lbfgs(lr: float, max_iter: int, start: float) -> Way:
    """Returns a fit of T as a parameter of cross-entropy in float32, by one call of torch's L-BFGS, as published code has it."""

    def fit(logits: Floats, labels: Labels) -> float:
        given, wanted = torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)
        temperature = nn.Parameter(torch.full((1,), start))
        optimizer = torch.optim.LBFGS([temperature], lr=lr, max_iter=max_iter)
        loss_of = nn.CrossEntropyLoss()

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss: torch.Tensor = loss_of(given / temperature, wanted)
            loss.backward()
            return loss

        optimizer.step(closure)
        return float(temperature.detach())

    return fit


WAYS: dict[str, Way] = {
    "ours": ours,
    "scipy minimize_scalar, bounded": bounded_scalar,
    "torch L-BFGS, lr 0.01, 50 iterations, from 1.5": lbfgs(0.01, 50, 1.5),
    "torch L-BFGS, lr 0.1, 100 iterations, from 1": lbfgs(0.1, 100, 1.0),
}


def seconds(way: Way, logits: Floats, labels: Labels) -> float:
    """Returns the CPU seconds of one fit."""
    before = time.process_time()
    way(logits, labels)
    return time.process_time() - before


def main() -> None:
    """Prints T found at each scale, divided by the scale, then milliseconds a fit and fits a minute."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logits, labels = drawn(given.rows, given.classes)
    for name, way in WAYS.items():
        found = {scale: way(scale * logits, labels) / scale for scale in SCALES}
        print(json.dumps({"way": name, "temperature_over_scale": found}), flush=True)
    scaled = TIMED_SCALE * logits
    rounds = [{name: seconds(way, scaled, labels) for name, way in WAYS.items()} for _ in range(given.rounds)]
    for name in WAYS:
        median_s = statistics.median(each[name] for each in rounds)
        print(
            json.dumps(
                {"way": name, "ms_per_fit": round(1e3 * median_s, 2), "fits_per_minute": round(60 / median_s)}
            )
        )


if __name__ == "__main__":
    main()
