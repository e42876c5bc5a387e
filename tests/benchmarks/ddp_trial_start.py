"""Times the start of the first and of later trials of two workers, and of trials of one, in studies of their own.

    python tests/benchmarks/ddp_trial_start.py [TRIALS]

The start of a trial is its wall time less its training time: processes, the rendezvous of ranks, loading of data, records.
"""

import sys
import tempfile
from pathlib import Path
from statistics import median

import pruneyard

SPEC = {
    "name": "start",
    "kind": "sparse",
    "data": {"name": "digits"},
    "model": {"name": "mlp", "width": 32},
    "method": {"name": "static", "density": 0.2},
    "budget": {"epochs": 1, "batch_size": 64},
}


def start_seconds(num_workers: int, num_trials: int) -> list[float]:
    """Returns the seconds of start of each trial, in the order in which they started; one trial runs at a time."""
    resources = {"workers": num_workers, "cpus": 2 // num_workers}
    with tempfile.TemporaryDirectory() as folder:
        spec = {**SPEC, "seeds": num_trials, "resources": resources}
        runs = pruneyard.run(spec, Path(folder) / "out").runs().sort_values("started_at")
    return [float(seconds) for seconds in runs["wall_s"] - runs["train_s"]]


def main(num_trials: int) -> None:
    """Prints one line for each number of workers."""
    for num_workers in (2, 1):
        first, *later = start_seconds(num_workers, num_trials)
        print(f"{num_workers} workers: first trial {first:.2f} s, median of {len(later)} later ones {median(later):.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
