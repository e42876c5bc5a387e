"""The signal that stops a job: what it is sent to, and for how long it is waited for. The jobs are those of a made-up server."""

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.job_submission import DriverInfo, JobDetails, JobStatus, JobType

from pruneyard.cluster import jobs
from pruneyard.cluster.jobs import JobServer, RefusedError


@pytest.mark.parametrize("colon", [": ", ":"])
@pytest.mark.parametrize(("told", "is_sent"), [("sweep-0a-1", True), ("sweep-0a-12", False), ("weep-0a-1", False)])
def test_only_the_driver_of_the_very_job_is_sent_the_signal(told: str, is_sent: bool, colon: str) -> None:
    config = json.dumps({"metadata": {"job_submission_id": told, "study": "sweep-0a-1"}}, separators=(", ", colon))
    environment = {"PATH": os.environ["PATH"], "OTHER": "sweep-0a-1", jobs.RAY_JOB_CONFIG_JSON_ENV_VAR: config}
    with subprocess.Popen(["sleep", "60"], env=environment) as driver:
        sent = subprocess.run(jobs._signal_command("sweep-0a-1", pid=driver.pid), shell=True, check=False)
        assert (sent.returncode == 0) is is_sent
        if not is_sent:
            driver.kill()
    assert driver.returncode == -(signal.SIGTERM if is_sent else signal.SIGKILL)


def test_a_process_that_is_gone_is_sent_nothing() -> None:
    with subprocess.Popen(["true"]) as driver:
        pass
    sent = subprocess.run(jobs._signal_command("a-1", pid=driver.pid), shell=True, capture_output=True, check=False)
    assert sent.returncode != 0


@dataclass
class Server:
    """Answers as Ray's client does for a study that runs, and for helper jobs, which stay `PENDING` unless they are stopped.

    ends_as: the status of a helper as soon as it is submitted; None for one that never starts.
    """

    ends_as: JobStatus | None = None
    obeys: bool = True
    helpers: dict[str, JobStatus] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)

    def submit_job(self, *, submission_id: str, **_: Any) -> str:
        self.helpers[submission_id] = self.ends_as or JobStatus.PENDING
        return submission_id

    def stop_job(self, job_id: str) -> None:
        if self.obeys:
            self.helpers[job_id] = JobStatus.STOPPED

    def delete_job(self, job_id: str) -> None:
        assert self.helpers[job_id].is_terminal(), "Ray refuses that"
        self.deleted.append(job_id)

    def get_job_info(self, job_id: str) -> JobDetails:
        return JobDetails(
            type=JobType.SUBMISSION,
            submission_id=job_id,
            entrypoint="",
            status=self.helpers.get(job_id, JobStatus.RUNNING),
            driver_info=DriverInfo(id="1", node_ip_address="127.0.0.1", pid="1"),
            driver_node_id="node",
        )


@pytest.mark.parametrize("obeys", [True, False])
def test_a_signal_that_is_not_sent_in_time_is_taken_back(obeys: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "SIGNAL_S", 0.2)
    monkeypatch.setattr(jobs, "LOOK_EVERY_S", 0.05)
    server, started = Server(obeys=obeys), time.monotonic()
    with pytest.raises(RefusedError, match=r"a-1: the driver could not be told to stop within 0\.2 s: "):
        JobServer(server).stop("a-1", grace_s=0.1)  # type: ignore[arg-type]
    assert time.monotonic() - started < 5
    assert server.deleted == (list(server.helpers) if obeys else [])


def test_the_job_of_a_signal_is_deleted_and_its_time_counts_as_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    server, started = Server(ends_as=JobStatus.SUCCEEDED), time.monotonic()
    view = JobServer(server).stop("a-1", grace_s=0.2)  # type: ignore[arg-type]
    assert 0.2 <= time.monotonic() - started < 5
    assert not view.ended
    assert server.deleted == list(server.helpers)
