"""Submits, follows, stops and kills studies as Ray jobs. Decisions rely on the job's status only, never on its log.

Reference: Ray Jobs SDK (2.60.0).
"""

import asyncio
import json
import logging
import math
import os
import shlex
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import requests
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.dashboard.modules.job.common import JOB_ID_METADATA_KEY
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from pruneyard.cluster.access import Access
from pruneyard.cluster.ray_internals import PrivateName

T = TypeVar("T")

PRIVATE_NAMES = (
    PrivateName("ray._private.runtime_env.constants", "RAY_JOB_CONFIG_JSON_ENV_VAR"),
    PrivateName("ray.dashboard.modules.job.common", "JOB_ID_METADATA_KEY"),
    PrivateName(
        "ray.job_submission", "JobSubmissionClient._do_request", ("self", "method", "endpoint", "data", "json_data", "kwargs")
    ),
)

REQUEST_S = 60.0
LOOK_EVERY_S = 1.0
SILENT_S = 20.0  # a log stream without output for so long may be broken without an error
LOST_S = 30.0  # a server that is unreachable for longer is considered lost
READY_S = 60.0
CHECK_S = 120.0  # for a command that takes a second, on a cluster that may have to unpack the code first
SIGNAL_S = 10.0  # for a job that sends a signal, which takes two seconds or three
MARK = "pruneyard"  # the metadata key of our jobs
STUDY, SIGNAL, CHECK = "study", "signal", "check"  # its values
HIDDEN = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # Ray's client prefers these variables to the address it is given

CHATTY = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)
STOPPED, UNREACHABLE = 3, 4  # exit codes
CODES = (0, 1, 2, STOPPED, UNREACHABLE, 5, 130)


class JobClient(JobSubmissionClient):
    """A client of Ray Jobs with a timeout for each request; Ray's own waits forever.

    It also verifies certificates with the default context instead of the deprecated way of Ray.
    """

    _ssl_context: Any

    def __init__(self, address: str, *, timeout_s: float, **options: Any) -> None:
        self._timeout_s = timeout_s  # first, since Ray's constructor already asks the server
        super().__init__(address, **options)
        self._ssl_context = True

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": self._timeout_s, **options})


class UnknownJobError(ValueError):
    """The cluster has no such job."""


class RefusedError(ConnectionError):
    """The cluster answers and cannot do what it is asked; the message says why."""


@dataclass(frozen=True, kw_only=True)
class JobView:
    """The state of a job. Times are seconds since the epoch, 0 if not known yet."""

    job_id: str
    status: str  # PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED
    message: str
    metadata: Mapping[str, str]
    submitted_at: float
    ended_at: float
    exit_code: int | None  # of the command, as the cluster saw it
    never_ran: bool  # the cluster could not start it
    driver_pid: int
    driver_node: str

    @property
    def ended(self) -> bool:
        """Returns whether the job has ended."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")

    @property
    def code(self) -> int:
        """Returns the exit code to pass on; only for a job that has ended."""
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED":
            return STOPPED
        if self.never_ran or self.exit_code == 127:  # no such Python there
            return UNREACHABLE
        # A failed job never passes on 0, nor a code that means nothing here, such as that of a signal.
        return self.exit_code if self.exit_code in CODES and self.exit_code else 1


@contextmanager
def job_server(access: Access) -> Iterator["JobServer"]:
    """Yields the job server. Raises `ConnectionError`, also inside the block, if it cannot be reached or refuses us."""
    access.check_reachable()
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    headers = {"Authorization": f"Bearer {access.token}"} if access.token else {}
    with _clear_errors(access), _without(HIDDEN):
        yield JobServer(JobClient(access.address, timeout_s=REQUEST_S, headers=headers))


@contextmanager
def _clear_errors(access: Access) -> Iterator[None]:
    """Turns the errors of Ray's client into a `ConnectionError` that says what to do."""
    try:
        yield
    except RefusedError:
        raise
    except AuthenticationError as error:
        advice = "set RAY_AUTH_TOKEN to the one that the cluster was started with, or RAY_AUTH_TOKEN_PATH to a file of it"
        raise ConnectionError(
            f"no token, or a wrong one, for the job server at {access.shown}: {advice}"
        ) from error
    except (requests.RequestException, ConnectionError) as error:
        # From check_reachable, in our own words already.
        if isinstance(error, ConnectionError) and str(error).startswith("no job server"):
            raise
        # The text of requests' errors is a chain of urllib3 objects; the name of the class says what happened.
        reason = type(error).__name__ if isinstance(error, requests.RequestException) else str(error)
        raise ConnectionError(f"no job server answers at {access.shown}: {reason}") from error
    except RuntimeError as error:  # the client raises it for every answer other than 200
        lines = str(error).strip().splitlines()
        raise ConnectionError(f"the job server at {access.shown} refuses: {lines[-1]}") from error


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def asks_for_token(access: Access) -> bool:
    """Returns whether the cluster refuses requests without a token. Raises `ConnectionError` if it does not answer."""
    try:
        answer = requests.get(f"{access.address}/api/version", timeout=REQUEST_S)
    except requests.RequestException as error:
        raise ConnectionError(f"no job server answers at {access.shown}: {type(error).__name__}") from error
    return answer.status_code in (401, 403)


class JobServer:
    """The jobs of one cluster that pruneyard submitted."""

    def __init__(self, client: JobSubmissionClient) -> None:
        self._client = client

    def submit(
        self,
        entrypoint: str,
        *,
        prefix: str,
        folder: Path,
        metadata: Mapping[str, str],
    ) -> JobView:
        """Submits a shell command that runs in a copy of `folder`; returns the new job, or the one that already runs.

        Jobs with the same `prefix` are attempts at the same study, of which only one runs at a time.
        """
        # Ids are PREFIX-NUMBER, and a prefix may contain `-` itself.
        attempts = [view for view in self.views() if view.job_id.rpartition("-")[0] == prefix]
        running = [view for view in attempts if not view.ended]
        if running:
            return running[-1]
        number = 1 + max((int(view.job_id.rpartition("-")[2]) for view in attempts), default=0)
        job_id = self._submit(
            entrypoint=entrypoint,
            submission_id=f"{prefix}-{number}",
            runtime_env={"working_dir": str(folder)},
            metadata={MARK: STUDY, **metadata},
        )
        return self.view(job_id)

    def running(self, prefix: str) -> JobView | None:
        """Returns the attempt with this prefix that has not ended; None if there is none."""
        found = [view for view in self.views() if view.job_id.rpartition("-")[0] == prefix and not view.ended]
        return found[-1] if found else None

    def check(self, command: str, *, folder: Path) -> tuple[JobView, str]:
        """Runs a short shell command in a copy of `folder` to its end; returns its state and its log. The job is deleted."""
        # A new id for every check: Ray takes an id only once.
        job_id = self._submit(
            entrypoint=command,
            submission_id=f"pruneyard-check-{time.time_ns()}",
            runtime_env={"working_dir": str(folder)},
            metadata={MARK: CHECK},
        )
        view = self.wait(job_id, timeout_s=CHECK_S)
        if not view.ended:
            self._client.stop_job(job_id)
            raise RefusedError(f"the cluster has not run a command within {CHECK_S:.0f} s: {view.message or view.status}")
        log = self.logs(job_id)
        self._client.delete_job(job_id)
        return view, log

    def _submit(self, **job: Any) -> str:
        """Submits a job, and retries while the head is not ready; returns the job id.

        A head that has just started answers before it can take jobs, and a busy one may drop the answer. Submitting again is
        safe, since there is only one job per submission id.
        """
        deadline = time.monotonic() + READY_S
        while True:
            try:
                return self._client.submit_job(**job)
            except (RuntimeError, requests.ConnectionError) as error:
                lost = isinstance(error, requests.ConnectionError)
                # The request may have arrived although its answer was lost.
                if lost and self._has(job["submission_id"]):
                    return str(job["submission_id"])
                # "No available agent" is the answer of a head that has just started; all other refusals are final.
                if not (lost or "No available agent" in str(error)) or time.monotonic() > deadline:
                    raise
                time.sleep(LOOK_EVERY_S)

    def _has(self, job_id: str) -> bool:
        try:
            return bool(_retry(lambda: self.view(job_id)))
        except UnknownJobError:
            return False

    def views(self) -> list[JobView]:
        """Returns the jobs of all studies, the oldest first."""
        # Ray also lists drivers that nobody submitted; they have no submission id.
        found = [_view(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted((v for v in found if v.metadata.get(MARK) == STUDY), key=lambda v: v.submitted_at)

    def view(self, job_id: str) -> JobView:
        """Returns the state of a job. Raises `UnknownJobError`."""
        try:
            return _view(self._client.get_job_info(job_id))
        except RuntimeError as error:
            # The client has no class for an unknown job; it raises RuntimeError for every answer other than 200.
            if "status code 404" not in str(error):
                raise
            known = ", ".join(view.job_id for view in self.views()) or "none"
            raise UnknownJobError(f"{job_id}: the cluster has no such job; it has {known}") from error

    def logs(self, job_id: str) -> str:
        """Returns the whole log of a job."""
        return str(self._client.get_job_logs(job_id))

    def wait(self, job_id: str, *, timeout_s: float | None = None) -> JobView:
        """Waits until the job has ended or the time is up; returns its state. Short outages of the server are retried."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            view = _retry(lambda: self.view(job_id))
            left = math.inf if deadline is None else deadline - time.monotonic()
            if view.ended or left <= 0:
                return view
            time.sleep(min(LOOK_EVERY_S, left))

    def follow(self, job_id: str, write: Callable[[str], None]) -> JobView:
        """Hands the log to `write` as it grows, from its beginning to the end of the job.

        The stream may break off, and may end although the job runs on: it is taken up where it was left.
        """
        shown = 0

        def count(text: str) -> None:
            nonlocal shown
            shown += len(text)
            write(text)

        while True:
            asyncio.run(self._stream(job_id, count, skip=shown))
            view = self.wait(job_id, timeout_s=LOOK_EVERY_S)
            if view.ended:
                # The stream may have broken off before the last lines.
                count(_retry(lambda: self.logs(job_id))[shown:])
                return view

    async def _stream(self, job_id: str, write: Callable[[str], None], *, skip: int) -> None:
        """Writes the log of one connection from character `skip` on; the server always starts at the beginning."""
        stream: AsyncIterator[str] = aiter(self._client.tail_job_logs(job_id))
        try:
            while True:
                text = await asyncio.wait_for(anext(stream), timeout=SILENT_S)
                new = text[skip:]
                # The skipped characters may span several messages.
                skip = max(0, skip - len(text))
                if new:
                    write(new)
        except (StopAsyncIteration, TimeoutError, RuntimeError, OSError, aiohttp.ClientError):
            return  # whatever ended the stream, the job's status tells whether it still runs

    def stop(self, job_id: str, *, grace_s: float) -> JobView:
        """Stops a job gracefully: signals its driver, and waits up to `grace_s`. A job without a driver is stopped at once.

        Ray's own stop kills the driver after a few seconds, so a small job on the driver's node sends the signal instead. It has
        that time as well, but `SIGNAL_S` at least: a shorter one would end it before it has sent anything.
        """
        deadline = time.monotonic() + grace_s
        view = self.view(job_id)
        if view.ended:
            return view
        if view.driver_pid and view.status == "RUNNING":
            self._signal(view, timeout_s=max(grace_s, SIGNAL_S))
        else:
            self._client.stop_job(job_id)
        return self.wait(job_id, timeout_s=deadline - time.monotonic())

    def _signal(self, view: JobView, *, timeout_s: float) -> None:
        helper = self._submit(
            entrypoint=_signal_command(view.job_id, pid=view.driver_pid),
            # A new id for every signal: Ray takes an id only once, and a study may be told to stop twice.
            submission_id=f"{view.job_id}-signal-{time.time_ns()}",
            metadata={MARK: SIGNAL},
            # A pid means something on the driver's node only.
            entrypoint_label_selector={"ray.io/node-id": view.driver_node},
        )
        sent = self.wait(helper, timeout_s=timeout_s)
        limit = "" if sent.ended else f" within {timeout_s:g} s"
        if not sent.ended:
            self._client.stop_job(helper)
            sent = self.wait(helper, timeout_s=LOOK_EVERY_S)
        if sent.ended:  # Ray deletes no other jobs
            self._client.delete_job(helper)
        # The signal also fails if the driver ended in the meantime, which is what was asked for.
        if sent.status != "SUCCEEDED" and not self.view(view.job_id).ended:
            raise RefusedError(f"{view.job_id}: the driver could not be told to stop{limit}: {sent.message or sent.status}")

    def kill(self, job_id: str) -> JobView:
        """Ends every process of the job within seconds."""
        if not self.view(job_id).ended:
            self._client.stop_job(job_id)
        return self.wait(job_id, timeout_s=LOST_S)


def _signal_command(job_id: str, *, pid: int) -> str:
    """Returns the shell command that sends SIGTERM to a process if it is the driver of this job, and fails otherwise.

    The pid may belong to another process by now. Ray describes the job of a driver by JSON in a variable of its environment.
    """
    pairs = [json.dumps({JOB_ID_METADATA_KEY: job_id}, separators=(",", colon)).strip("{}") for colon in (": ", ":")]
    patterns = " ".join(f"-e {shlex.quote(pair)}" for pair in pairs)
    variable = f"tr '\\0' '\\n' < /proc/{pid}/environ | grep '^{RAY_JOB_CONFIG_JSON_ENV_VAR}='"
    return f"{variable} | grep -qF {patterns} && kill -TERM {pid}"


def _retry(ask: Callable[[], T]) -> T:
    """Calls `ask`, and retries for up to `LOST_S` while the server cannot be reached."""
    deadline = time.monotonic() + LOST_S
    while True:
        try:
            return ask()
        except requests.RequestException:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOK_EVERY_S)


def _view(details: JobDetails) -> JobView:
    driver = details.driver_info
    error = details.error_type or ""
    return JobView(
        job_id=details.submission_id or "",
        status=JobStatus(details.status).value,
        message=(details.message or "").strip(),
        metadata=details.metadata or {},
        # Ray counts milliseconds.
        submitted_at=(details.start_time or 0) / 1e3,
        ended_at=(details.end_time or 0) / 1e3,
        exit_code=details.driver_exit_code,
        # Every error but the command's own failure is the cluster's.
        never_ran=bool(error) and "ENTRYPOINT_COMMAND_ERROR" not in error,
        driver_pid=int(driver.pid) if driver is not None else 0,
        driver_node=details.driver_node_id or "",
    )
