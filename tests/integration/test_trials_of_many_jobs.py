"""Many short jobs in one trial on Ray: a killed process repeats its job alone, and a long job keeps no other from starting."""

import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from driving import POLL_EVERY_S
from shared_head import SharedHead
from study_of_short_jobs import FATAL, NUM_JOBS, WAITING

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]

WITHIN_S = 300


def values(folder: Path) -> dict[str, float]:
    """Returns the value of every run, by run key."""
    metrics = Results(folder).metrics()
    chosen = metrics[metrics["name"] == "value"]
    return dict(zip(chosen["run_key"].astype(str), chosen["value"], strict=True))


def test_a_killed_process_repeats_one_job_and_a_long_job_keeps_no_other_from_starting(
    env: dict[str, str], head: SharedHead, tmp_path: Path
) -> None:
    script, ours, watched = tmp_path / "my_study.py", tmp_path / "out", tmp_path / "watched"
    shutil.copy(Path(__file__).parent / "study_of_short_jobs.py", script)
    watched.mkdir()
    variables = {"WATCHED_FOLDER": str(watched)}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(script), str(ours), head.address],
            cwd=tmp_path,
            env=head.env(variables),
            stdout=log,
            stderr=log,
        )
        try:
            deadline = time.monotonic() + WITHIN_S
            # Until then one job waits, which shared a trial with others.
            while len(set((watched / "starts").read_text().split()) if (watched / "starts").exists() else ()) < NUM_JOBS:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(POLL_EVERY_S)
            (watched / "released").touch()
            assert process.wait(timeout=WITHIN_S) == 0
        finally:
            process.kill()
            process.wait()
    head.wait_until_idle()
    starts = Counter(map(int, (watched / "starts").read_text().split()))
    assert starts == Counter(dict.fromkeys(range(NUM_JOBS), 1) | {FATAL: 2})
    attempts = Store(RunFolder(ours)).runs(latest=False).to_pandas()
    assert len(attempts) == NUM_JOBS + 1
    assert attempts["status"].value_counts().to_dict() == {"COMPLETED": NUM_JOBS, "FAILED": 1}
    assert attempts["trial_id"].nunique() < NUM_JOBS / 2
    waiting = [f'"place":{WAITING}' in spec for spec in attempts["spec_json"]]
    assert attempts["ended_at"].idxmax() == waiting.index(True)
    alone = [sys.executable, str(script), str(tmp_path / "local"), "local"]
    subprocess.run(alone, cwd=tmp_path, env=env | variables, check=True, capture_output=True, timeout=WITHIN_S)
    assert values(ours) == values(tmp_path / "local")
    assert len(values(ours)) == NUM_JOBS
    for key in values(ours):
        ours_left, theirs = ({file.name for file in (out / "artifacts" / key).iterdir()} for out in (ours, tmp_path / "local"))
        assert ours_left - theirs <= {"record-2.json"}
        assert theirs <= ours_left
