"""Resident memory of the driver after 100, 1,000 and 5,000 trivial trials, and its time for each, every study in a process of
its own.

Run: python tests/benchmarks/driver_memory.py [TRIALS ...]
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

MIB = 2**20


def measure(num_trials: int) -> None:
    """In the child: runs the study and prints memory before and after."""
    from orchestration import run_ours, trivial_spec

    from cluster.session import session
    from reports.layout import RunFolder

    with tempfile.TemporaryDirectory() as folder, session() as joined:
        spec = trivial_spec(num_trials)
        before, worked = psutil.Process().memory_info().rss, time.process_time()
        seconds = run_ours(spec, joined, RunFolder(Path(folder)))
        after, worked = psutil.Process().memory_info().rss, time.process_time() - worked
    print(
        json.dumps(
            {
                "trials": num_trials,
                "before_mib": round(before / MIB),
                "after_mib": round(after / MIB),
                "kib_per_trial": round((after - before) / 1024 / num_trials, 1),
                "wall_ms_per_trial": round(1e3 * seconds, 1),
                "driver_cpu_ms_per_trial": round(1e3 * worked / num_trials, 2),
            }
        )
    )


def main(counts: list[int]) -> None:
    """One line per number of trials."""
    for count in counts:
        subprocess.run([sys.executable, __file__, "--child", str(count)], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        measure(int(sys.argv[2]))
    else:
        main([int(text) for text in sys.argv[1:]] or [100, 1000, 5000])
