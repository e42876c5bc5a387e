"""The function of sixty jobs of milliseconds, some of which are killed, wait or fail, and the command that runs them.

Run: python FILE run SPEC ..., as `pruneyard`. `WATCHED_FOLDER` is where jobs write that they have started; `KILLED`, `WAITING`
and `FAILING` are the places of jobs.
"""

import os
import random
import signal
import time
from pathlib import Path

from pruneyard.orchestrator.cli import main
from pruneyard.orchestrator.ray_backend import runnable_trials, study

NUM_JOBS = 60


def quick(place: int) -> dict[str, float]:
    """Uses a generator that each job must find in its first state."""
    folder = Path(os.environ["WATCHED_FOLDER"])
    with (folder / "starts").open("a") as file:
        file.write(f"{place}\n")
    if place == int(os.environ.get("KILLED", "-1")) and not (folder / "killed").exists():
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    while place == int(os.environ.get("WAITING", "-1")) and not (folder / "released").exists():
        time.sleep(0.05)
    if place == int(os.environ.get("FAILING", "-1")):
        raise ValueError("this one fails")
    return {"test/value": place + random.random()}


if __name__ == "__main__":  # the test imports this file, too
    # So that a busy machine takes as many jobs for a trial as an idle one.
    runnable_trials.SHORT_S = runnable_trials.TRIAL_S = 1e6
    study.TAKE_BACK_AFTER_S = float(os.environ.get("TAKE_BACK_AFTER_S", study.TAKE_BACK_AFTER_S))
    main()
