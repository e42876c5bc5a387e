"""A script of a user, which a test copies and runs: sixty jobs of milliseconds, one of which is killed and one of which waits.

Run: python FILE OUT ADDRESS, where the address `local` stands for a run without Ray.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import pruneyard
from pruneyard.orchestrator.ray_backend import runnable_trials

NUM_JOBS, FATAL, WAITING = 60, 30, 45

runnable_trials.SHORT_S = runnable_trials.TRIAL_S = 1e6  # so that a busy machine takes as many jobs for a trial as an idle one


def quick(place: int) -> dict[str, float]:
    """Uses a generator that each job must find in its first state."""
    folder = Path(os.environ["WATCHED_FOLDER"])
    with (folder / "starts").open("a") as file:
        file.write(f"{place}\n")
    if place == FATAL and not (folder / "killed").exists():
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    while place == WAITING and not (folder / "released").exists():
        time.sleep(0.05)
    return {"test/value": place + random.random()}


if __name__ == "__main__":
    out, address = sys.argv[1:]
    where = {"local": True} if address == "local" else {"address": address}
    results = pruneyard.sweep(quick, {"place": list(range(NUM_JOBS))}, out=out, **where)
    print(int(results.exit_code))
