"""Resident memory of the driver after 100, 1,000 and 5,000 trivial trials, its time for each, and the largest that Tune's own
checkpoint of the study became, every study in a process of its own.

Run: python tests/benchmarks/driver_memory.py [TRIALS ...]
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

MIB = 2**20


@contextmanager
def largest_state(folder: Path) -> Iterator[list[int]]:
    """Yields the bytes of the largest `experiment_state` that lay below the folder at any tenth of a second."""
    found, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            for path in folder.glob(".scheduler/*/experiment_state*"):
                with suppress(FileNotFoundError):
                    found[0] = max(found[0], path.stat().st_size)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


def measure(num_trials: int) -> None:
    """Runs the study in the child process and prints memory before and after."""
    from orchestration import run_ours, trivial_spec

    from pruneyard.cluster.session import session
    from pruneyard.reports.layout import RunFolder

    with tempfile.TemporaryDirectory() as folder, session() as joined, largest_state(Path(folder)) as state:
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
                "tune_state_kib": round(state[0] / 1024),
            }
        )
    )


def main(counts: list[int]) -> None:
    """Prints one line per number of trials."""
    for count in counts:
        subprocess.run([sys.executable, __file__, "--child", str(count)], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        measure(int(sys.argv[2]))
    else:
        main([int(text) for text in sys.argv[1:]] or [100, 1000, 5000])
