"""Many short jobs in one trial on Ray: what is killed, stopped, slow or failing concerns its own job only."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from driving import POLL_EVERY_S
from shared_head import SharedHead
from study_of_short_jobs import NUM_JOBS

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]

WITHIN_S = 300
INSIDE = 8  # the place of a job in the middle of the first trial that several jobs share


@dataclass(frozen=True)
class Study:
    """A copy of the script in a folder of its own, the results, and the folder in which jobs write that they have started."""

    folder: Path

    def __post_init__(self) -> None:
        self.watched.mkdir(parents=True)
        shutil.copy(Path(__file__).parent / "study_of_short_jobs.py", self.folder / "my_study.py")
        function = f"{self.folder / 'my_study.py'}:quick"
        spec = {
            "name": "many",
            "kind": "function",
            "function": function,
            "grid": {"arguments.place": list(range(NUM_JOBS))},
        }
        (self.folder / "spec.yaml").write_text(json.dumps(spec))

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def watched(self) -> Path:
        return self.folder / "watched"

    def starts(self) -> Counter[int]:
        """Returns how often each job has started, by place."""
        file = self.watched / "starts"
        return Counter(map(int, file.read_text().split())) if file.exists() else Counter()

    def statuses(self) -> dict[str, int]:
        """Returns the number of attempts by status."""
        found = Store(RunFolder(self.out)).runs(latest=False).column("status").to_pylist()
        return dict(Counter(found))

    def places(self) -> dict[str, int]:
        """Returns the place of every run, by run key, which depends on the folder of the script."""
        runs = Results(self.out).runs()
        specs = [json.loads(spec) for spec in runs["spec_json"]]
        return {key: spec["arguments"]["place"] for key, spec in zip(runs["run_key"], specs, strict=True)}

    def values(self) -> dict[int, float]:
        """Returns the value of every run that has one, by place."""
        metrics, places = Results(self.out).metrics(), self.places()
        chosen = metrics[metrics["name"] == "value"]
        return {places[key]: value for key, value in zip(chosen["run_key"], chosen["value"], strict=True)}

    def files(self) -> dict[int, set[str]]:
        """Returns the names of the files of every run, by place."""
        artifacts = self.out / "artifacts"
        return {
            place: {file.name for file in (artifacts / key).iterdir()} for key, place in self.places().items()
        }

    def command(self, *options: str, verb: str = "run") -> list[str]:
        """Returns the command that runs the spec, or resumes it."""
        given = ["run", "spec.yaml", "--out", "out"] if verb == "run" else [verb, "out"]
        return [sys.executable, str(self.folder / "my_study.py"), *given, *options, "--no-report"]

    @contextlib.contextmanager
    def running(
        self, head: SharedHead, *options: str, verb: str = "run", **variables: object
    ) -> Iterator["subprocess.Popen[bytes]"]:
        """Yields the process of the command, which joins the head; kills it after the block, and waits until no trial is left."""
        told = {name: str(value) for name, value in variables.items()}
        with (self.folder / "log").open("a") as log:
            process = subprocess.Popen(
                self.command(*options, "--address", head.address, verb=verb),
                cwd=self.folder,
                env=head.env({"WATCHED_FOLDER": str(self.watched), **told}),
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
        head.wait_until_idle()

    def wait_until(self, condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
        """Waits until the condition holds; fails if the command ends before."""
        deadline = time.monotonic() + WITHIN_S
        while not condition():
            assert process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(POLL_EVERY_S)

    def run(self, head: SharedHead, *options: str, code: int, verb: str = "run", **variables: object) -> None:
        """Runs the command to its end, which must be this exit code."""
        with self.running(head, *options, verb=verb, **variables) as process:
            assert process.wait(timeout=WITHIN_S) == code, (self.folder / "log").read_text()


@pytest.fixture
def ours(tmp_path: Path) -> Study:
    return Study(tmp_path / "ours")


@pytest.fixture(scope="module")
def local(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Runs the study without Ray."""
    study = Study(tmp_path_factory.mktemp("local") / "study")
    given = env | {"WATCHED_FOLDER": str(study.watched)}
    subprocess.run(
        study.command("--local"),
        cwd=study.folder,
        env=given,
        check=True,
        capture_output=True,
        timeout=WITHIN_S,
    )
    assert len(study.values()) == NUM_JOBS
    return study


def test_a_killed_process_repeats_one_job_and_a_long_job_keeps_no_other_from_starting_or_its_rows(
    head: SharedHead, ours: Study, local: Study
) -> None:
    killed, waiting = 30, 45
    with ours.running(head, KILLED=killed, WAITING=waiting) as process:
        # All but the one that waits, some of which shared its trial.
        ours.wait_until(lambda: ours.statuses() == {"COMPLETED": NUM_JOBS - 1, "FAILED": 1}, process)
        assert len(ours.starts()) == NUM_JOBS
        (ours.watched / "released").touch()
        assert process.wait(timeout=WITHIN_S) == 0, (ours.folder / "log").read_text()
    assert ours.starts() == Counter(dict.fromkeys(range(NUM_JOBS), 1) | {killed: 2})
    assert ours.statuses() == {"COMPLETED": NUM_JOBS, "FAILED": 1}
    attempts = Store(RunFolder(ours.out)).runs(latest=False).to_pandas()
    assert attempts["trial_id"].nunique() < NUM_JOBS / 2
    assert f'"place":{waiting}' in attempts.loc[attempts["ended_at"].idxmax(), "spec_json"]
    assert ours.values() == local.values()
    assert ours.files() == {**local.files(), killed: local.files()[killed] | {"record-2.json"}}


def test_ctrl_c_in_the_middle_of_a_shared_trial_keeps_what_has_ended_and_starts_no_more(
    head: SharedHead, ours: Study, local: Study
) -> None:
    with ours.running(head, WAITING=INSIDE, TAKE_BACK_AFTER_S=1e6) as process:
        ours.wait_until(lambda: INSIDE in ours.starts(), process)
        process.send_signal(signal.SIGINT)
        ours.wait_until(lambda: bool(list(ours.out.glob(".stop-*"))), process)
        (ours.watched / "released").touch()
        assert process.wait(timeout=WITHIN_S) == 130, (ours.folder / "log").read_text()
    started = ours.starts()
    assert INSIDE in started
    assert INSIDE + 1 not in started, "the next job of the trial has started after the stop"
    assert ours.statuses() == {"COMPLETED": len(started)}
    ours.run(head, code=0, verb="resume")
    assert ours.starts() == Counter(range(NUM_JOBS)), "a job that had ended ran again"
    assert ours.values() == local.values()


def test_a_failing_job_of_a_shared_trial_fails_alone(head: SharedHead, ours: Study, local: Study) -> None:
    ours.run(head, code=1, FAILING=INSIDE)
    assert ours.starts() == Counter(range(NUM_JOBS))
    assert ours.statuses() == {"COMPLETED": NUM_JOBS - 1, "FAILED": 1}
    assert ours.values().items() < local.values().items()
    attempts = Store(RunFolder(ours.out)).runs().to_pandas().set_index("status")
    shared = attempts[attempts["trial_id"] == attempts.loc["FAILED", "trial_id"]]
    assert len(shared) > 1
    assert f'"place":{INSIDE}' in attempts.loc["FAILED", "spec_json"]


def test_the_first_failure_of_a_shared_trial_stops_the_rest_of_it_with_fail_fast(
    head: SharedHead, ours: Study
) -> None:
    ours.run(head, "--fail-fast", code=1, FAILING=INSIDE)
    started = ours.starts()
    assert INSIDE in started
    assert INSIDE + 1 not in started
    assert ours.statuses() == {"COMPLETED": len(started) - 1, "FAILED": 1}
