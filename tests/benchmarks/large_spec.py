"""Time and memory to validate a spec of many jobs and to plan it: settings times 100 seeds.

Run: python tests/benchmarks/large_spec.py [JOBS ...], 1,000, 10,000 and 100,000 by default.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from pruneyard.orchestrator.planning.plan import make_plan
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.layout import RunFolder

SEEDS = 100


def main(counts: list[int]) -> None:
    """Prints one line for each number of jobs."""
    for count in counts:
        settings = count // SEEDS
        started = time.process_time()
        spec = load_spec(
            {
                "name": "large",
                "kind": "sparse",
                "data": "digits",
                "model": "mlp",
                "method": {"name": "rigl"},
                "budget": {"steps": 100},
                "grid": {"method.density": [0.1 + 0.8 * place / settings for place in range(settings)]},
                "seeds": SEEDS,
            }
        )
        validated = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            attempts = make_plan(spec, RunFolder(Path(folder))).attempts()
        told = {
            "jobs": len(attempts),
            "validate_s": round(validated - started, 2),
            "plan_s": round(time.process_time() - validated, 2),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [1_000, 10_000, 100_000])
