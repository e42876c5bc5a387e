"""Time and memory of QuickSelection on MNIST, with the active weights alone (`sparse`) against masks (`masked`).

One thread; each training runs in a process of its own, and they take turns. Time is the CPU time of the whole training, memory
how far the resident memory of the process grows in it; Linux only. Prints a line for each training, then how many of the 50 first
features are the same. Reads MNIST from $PRUNEYARD_DATA.
Run: python tests/benchmarks/feature_ranking.py [--epochs 1] [--width 1000] [--repeats 3]
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.feature_ranking import FILE, read_order
from pruneyard.workloads.data.flat_features import flattened
from pruneyard.workloads.data.sources.mnist import Mnist
from pruneyard.workloads.features.methods.quickselection import QuickSelection
from pruneyard.workloads.workload import Context

EXECUTIONS = ("masked", "sparse")
NUM_FIRST = 50


def measure(execution: str, seed: int, width: int, epochs: int) -> dict[str, Any]:
    """Returns CPU seconds, MiB, stored weights, and the first features of one training."""
    torch.set_num_threads(1)
    method = QuickSelection(execution=execution, width=width, epochs=epochs)  # type: ignore[arg-type]
    data = flattened(Mnist().load())
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of reading the data
    before = _memory_kib("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        context = Context(checkpoints=CheckpointFolder(Path(folder)))
        started = time.process_time()
        *_, last = method.rank(data, seed=seed, context=context)
        spent = time.process_time() - started
        file = Path(folder) / FILE
        assert last.outcome is not None
        file.write_bytes(last.outcome.files[FILE])
        first = read_order(file)[:NUM_FIRST].tolist()
    growth = (_memory_kib("VmHWM") - before) / 1024
    return {"cpu_s": round(spent, 1), "mib": round(growth), "num_active": last.outcome.num_active, "first": first}


def _memory_kib(name: str) -> int:
    """Returns the resident memory of this process: now, `VmRSS`, or its peak, `VmHWM`."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1])


def main() -> None:
    """Prints a line for each training, and one for each seed that compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--width", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for seed in range(options.repeats):
        first: dict[str, set[int]] = {}
        for execution in EXECUTIONS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found = pool.apply(measure, (execution, seed, options.width, options.epochs))
            first[execution] = set(found.pop("first"))
            print(json.dumps({"execution": execution, "seed": seed, "width": options.width, **found}), flush=True)
        print(json.dumps({"seed": seed, "same": len(first["masked"] & first["sparse"]), "of": NUM_FIRST}), flush=True)


if __name__ == "__main__":
    main()
