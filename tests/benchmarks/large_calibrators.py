"""CPU time of fitting each calibrator to logits of the size of ImageNet's validation set, and of applying it to the same rows.

50,000 rows, 1,000 classes, one thread, labels that the logits predict with a temperature of their own. Each calibrator has a
process of its own, so that its peak of memory is its own.

Run: python tests/benchmarks/large_calibrators.py [--rows 50000] [--classes 1000] [NAME ...]
"""

import argparse
import logging
import multiprocessing
import resource
import time

import numpy as np
import torch

from pruneyard.workloads.plugins import find, names

FAMILY = "calibrate.methods"


def drawn(num_rows: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits (N, C) in float32, over-confident by a factor of 1.7, and labels (N,)."""
    draws = np.random.default_rng(0)
    labels = draws.integers(0, num_classes, num_rows)
    logits = 2 * draws.normal(size=(num_rows, num_classes)).astype(np.float32)
    logits[np.arange(num_rows), labels] += draws.normal(4, 2, num_rows).astype(np.float32)
    return 1.7 * logits, labels


def measure(name: str, num_rows: int, num_classes: int) -> str:
    """Returns a row of the table: CPU seconds of the fit and of its use, and peak memory of the process in GiB."""
    torch.set_num_threads(1)
    logging.disable()  # warnings of few rows
    logits, labels = drawn(num_rows, num_classes)
    started = time.process_time()
    fitted = find(FAMILY, name)().fit(logits, labels, seed=0)
    fitted_at = time.process_time()
    fitted.log_probabilities(logits)
    applied_at = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return f"| `{name}` | {fitted_at - started:.1f} | {applied_at - fitted_at:.1f} | {peak:.1f} |"


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="calibrators; all by default")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1000)
    options = parser.parse_args()
    print("| calibrator | fit, s | applied, s | memory, GiB |")
    print("|---|---|---|---|", flush=True)
    context = multiprocessing.get_context("spawn")
    for name in options.names or names(FAMILY):
        with context.Pool(1) as pool:
            print(pool.apply(measure, (name, options.rows, options.classes)), flush=True)


if __name__ == "__main__":
    main()
