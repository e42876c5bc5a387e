"""Wall time per trial of some seconds: Pruneyard, plain Ray Tune, and one process after the other, started by a shell loop.

A trial waits at each of its 20 steps, so that its length is known and the speed of the cores does not matter: the rest is the
cost of starting, feeding and recording trials. Run: python tests/benchmarks/longer_trials.py [TRIALS [SECONDS]], 50 of 20 s by
default (half an hour); of the processes one after the other five are timed.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from orchestration import one_after_the_other, run_ours, run_plain, trivial_table

from pruneyard.cluster.session import session
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.layout import RunFolder

STEPS = 20
PLUGINS = Path(__file__).parents[1] / "integration" / "foreign_plugins"


def slow_spec(num_trials: int) -> dict[str, object]:
    """Returns a spec of trivial trials that wait at each of their steps."""
    changes = {"name": "slow", "schedule": {"name": "slow_cosine"}, "budget": {"steps": STEPS, "evaluate_every": 0}}
    return {**trivial_table(num_trials), **changes}


def install(site: Path, step_s: float) -> None:
    """Makes the waiting schedule known to this process and to those that it starts."""
    (site / "foreign_plugins").symlink_to(PLUGINS)
    info = site / "foreign_plugins-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign-plugins\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pruneyard.plugins]\nschedules.slow_cosine = foreign_plugins.slow_cosine\n")
    (site / "step-delay").write_text(str(step_s))
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ |= {"PYTHONPATH": path, "STEP_DELAY_FILE": str(site / "step-delay")}
    sys.path.insert(0, str(site))


def main(num_trials: int, seconds: float) -> None:
    """Prints seconds per trial, what is overhead for each of the places, and the ratios."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        install(scratch, seconds / STEPS)
        spec = load_spec(slow_spec(num_trials))
        with session() as joined:
            found = {
                "ours": run_ours(spec, joined, RunFolder(scratch / "ours")),
                "tune_with_reuse": run_plain(spec, joined, scratch / "reuse", reuse=True),
                "tune_without_reuse": run_plain(spec, joined, scratch / "fresh", reuse=False),
            }
            places = int(joined.cpus)
        found["one_after_the_other"] = one_after_the_other(slow_spec(1), scratch)
    ratios = {f"{name}/ours": round(value / found["ours"], 3) for name, value in found.items() if name != "ours"}
    rounded = {name: round(value, 3) for name, value in found.items()}
    summary = {"trials": num_trials, "places": places, "ideal": seconds / places, "seconds_per_trial": rounded, "ratios": ratios}
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50, float(sys.argv[2]) if len(sys.argv) > 2 else 20.0)
