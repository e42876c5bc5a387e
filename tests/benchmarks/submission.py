"""Measures the time from `pruneyard submit` to the first step, against a bare job of Ray's and against `pruneyard run`.

All use one head that already runs. The first step is when the first trial began, by its record; a bare job has begun when its
one line of Python runs, in the same environment and with the same working directory shipped.
Run: python tests/benchmarks/submission.py [REPETITIONS], 3 by default; a quarter of a minute each.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ray.job_submission import JobSubmissionClient

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from ray_head import Head, ray_head

from pruneyard.orchestrator.results import Results

SPEC = """
name: first-step
kind: sparse
data: {name: digits, max_train: 100, max_test: 50}
model: {name: mlp, width: 8, depth: 1}
method: {name: static, density: 0.5}
budget: {steps: 1, evaluate_every: 0}
"""
BEGUN = "import time; print('begun', time.time())"


def pruneyard(*words: str, env: dict[str, str]) -> None:
    """Raises `CalledProcessError` unless it finished everything."""
    command = [sys.executable, "-c", "from pruneyard.orchestrator.cli import main; main()", *words]
    subprocess.run(command, env=env, check=True, capture_output=True)


def first_step(out: Path) -> float:
    """Seconds since 1970 at which the first trial began."""
    return float(Results(out).runs()["started_at"].min().timestamp())


def submitted(spec: Path, out: Path, head: Head) -> float:
    """Seconds from the command to the first step."""
    env = {**os.environ, "RAY_AUTH_TOKEN": head.token, "RAY_AUTH_MODE": "token", "XDG_STATE_HOME": str(out.parent / "state")}
    began = time.time()
    words = ("submit", str(spec), "--address", head.url, "--out", str(out), "--python", sys.executable, "--follow")
    pruneyard(*words, env=env)
    return first_step(out) - began


def started_here(spec: Path, out: Path) -> float:
    """Measures the same of `pruneyard run`, which starts a cluster of its own."""
    began = time.time()
    pruneyard("run", str(spec), "--out", str(out), env=dict(os.environ))
    return first_step(out) - began


def bare(folder: Path, head: Head) -> float:
    """Measures the same of a job of one line, by Ray's own client."""
    began = time.time()
    client = JobSubmissionClient(head.url, headers={"Authorization": f"Bearer {head.token}"})
    job = client.submit_job(entrypoint=f'{sys.executable} -c "{BEGUN}"', runtime_env={"working_dir": str(folder)})
    while not client.get_job_status(job).is_terminal():
        time.sleep(0.1)
    (line,) = [text for text in client.get_job_logs(job).splitlines() if text.startswith("begun")]
    return float(line.split()[1]) - began


def main(repetitions: int) -> None:
    """Prints medians in seconds and the ratios."""
    found: dict[str, list[float]] = {"submit": [], "bare_job": [], "run": []}
    with tempfile.TemporaryDirectory() as scratch, ray_head(dict(os.environ)) as head:
        folder = Path(scratch)
        (folder / "code").mkdir()
        spec = folder / "code" / "first-step.yaml"
        spec.write_text(SPEC)
        for number in range(repetitions):
            found["bare_job"].append(bare(folder / "code", head))
            found["submit"].append(submitted(spec, folder / f"submitted-{number}", head))
            found["run"].append(started_here(spec, folder / f"run-{number}"))
    seconds = {name: round(statistics.median(values), 2) for name, values in found.items()}
    ratios = {f"submit/{name}": round(seconds["submit"] / seconds[name], 2) for name in ("bare_job", "run")}
    print(json.dumps({"repetitions": repetitions, "seconds_to_first_step": seconds, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
