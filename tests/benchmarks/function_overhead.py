"""Wall time per trivial trial of a function of the user's own: kind `function` with durable records, and plain Ray Tune.

Both call the same function on the same session, Tune with reused actors.
Run: python tests/benchmarks/function_overhead.py [TRIALS]
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from orchestration import run_ours
from ray import tune

from pruneyard.cluster.session import Session, session
from pruneyard.orchestrator.execution.capacity import max_concurrent_trials
from pruneyard.orchestrator.spec.load import Spec, load_spec
from pruneyard.reports.layout import RunFolder


def trivial(rate: float) -> dict[str, float]:
    """Trains nothing and takes no time."""
    return {"accuracy": 1 / (1 + rate)}


def trivial_spec(num_trials: int) -> Spec:
    """Returns a spec with one job per rate."""
    rates = [place / num_trials for place in range(num_trials)]
    reference = f"{Path(__file__).resolve()}:trivial"
    return load_spec({"name": "trivial", "kind": "function", "function": reference, "grid": {"arguments.rate": rates}})


def run_plain(spec: Spec, joined: Session, scratch: Path) -> float:
    """Seconds per trial of a function trainable that returns the same numbers."""

    def trial(config: dict[str, Any]) -> dict[str, float]:
        return trivial(**config)

    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space={"rate": tune.grid_search([job.workload.arguments["rate"] for job in spec.jobs])},
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            max_concurrent_trials=max_concurrent_trials(spec.stages[0].header.resources, joined.nodes),
        ),
        run_config=tune.RunConfig(storage_path=str(scratch), name="plain", verbose=0),
    )
    started = time.perf_counter()
    results = tuner.fit()
    elapsed = time.perf_counter() - started
    assert results.num_errors == 0
    return elapsed / len(spec.jobs)


def main(num_trials: int) -> None:
    """Prints seconds per trial, and their ratio."""
    with tempfile.TemporaryDirectory() as folder, session() as joined:
        scratch, spec = Path(folder), trivial_spec(num_trials)
        run_ours(trivial_spec(4), joined, RunFolder(scratch / "warm"))
        ours = run_ours(spec, joined, RunFolder(scratch / "ours"))
        plain = run_plain(spec, joined, scratch)
    seconds = {"ours": round(ours, 4), "tune_with_reuse": round(plain, 4)}
    print(json.dumps({"trials": num_trials, "seconds_per_trial": seconds, "tune/ours": round(plain / ours, 2)}, indent=1))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
