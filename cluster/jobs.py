"""Studies as jobs of a Ray cluster: handed in, watched, stopped in order or at once. The status is the truth, the log a courtesy.

Reference: Ray Jobs SDK (2.60.0).
"""

import asyncio
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
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from pruneyard.cluster.access import Access
from pruneyard.cluster.ray_internals import JobClient

T = TypeVar("T")

REQUEST_S = 60.0
LOOK_EVERY_S = 1.0
SILENT_S = 20.0  # a log stream that says nothing for so long may be dead without a word
LOST_S = 30.0  # a server that is away for longer is gone
READY_S = 60.0
MARK = "pruneyard"  # key of our jobs' metadata
STUDY, SIGNAL = "study", "signal"  # its values
HIDDEN = (
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
)  # the client obeys these rather than the address it is given

CHATTY = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)
STOPPED, UNREACHABLE = 3, 4  # exit codes
CODES = (0, 1, 2, STOPPED, UNREACHABLE, 5, 130)


class UnknownJobError(ValueError):
    """The cluster has no such job."""


@dataclass(frozen=True, kw_only=True)
class JobView:
    """A job as it stands. Times are seconds since the epoch, 0 where there is none yet."""

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
        """Whether nothing more will come of it."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")

    @property
    def code(self) -> int:
        """The exit code to pass on, of a job that has ended."""
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED":
            return STOPPED
        if self.never_ran or self.exit_code == 127:  # no such Python there
            return UNREACHABLE
        return self.exit_code if self.exit_code in CODES and self.exit_code else 1


@contextmanager
def job_server(access: Access) -> Iterator["JobServer"]:
    """Raises `ConnectionError`, also inside the block, where the server cannot be reached or refuses us."""
    access.knock()
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    headers = {"Authorization": f"Bearer {access.token}"} if access.token else {}
    with _speaking_plainly(access), _without(HIDDEN):
        yield JobServer(JobClient(access.address, timeout_s=REQUEST_S, headers=headers))


@contextmanager
def _speaking_plainly(access: Access) -> Iterator[None]:
    try:
        yield
    except AuthenticationError as error:
        advice = "set RAY_AUTH_TOKEN to the one that the cluster was started with, or RAY_AUTH_TOKEN_PATH to a file of it"
        raise ConnectionError(
            f"no token, or a wrong one, for the job server at {access.shown}: {advice}"
        ) from error
    except (requests.RequestException, ConnectionError) as error:
        if isinstance(error, ConnectionError) and str(error).startswith("no job server"):
            raise
        reason = type(error).__name__ if isinstance(error, requests.RequestException) else str(error)
        raise ConnectionError(f"no job server answers at {access.shown}: {reason}") from error
    except RuntimeError as error:  # all that the client raises for an answer other than 200
        lines = str(error).strip().splitlines()
        raise ConnectionError(f"the job server at {access.shown} refuses: {lines[-1]}") from error


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


class JobServer:
    """The jobs of one cluster that this product handed in."""

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
        """Hands in a shell line that runs in a copy of `folder`; returns the job, new, or already under way.

        Jobs with one `prefix` are attempts at one thing: while one is under way there is no other.
        """
        attempts = [view for view in self.views() if view.job_id.rpartition("-")[0] == prefix]
        running = [view for view in attempts if not view.ended]
        if running:
            return running[-1]
        number = 1 + max((int(view.job_id.rpartition("-")[2]) for view in attempts), default=0)
        job_id = self._hand_in(
            entrypoint=entrypoint,
            submission_id=f"{prefix}-{number}",
            runtime_env={"working_dir": str(folder)},
            metadata={MARK: STUDY, **metadata},
        )
        return self.view(job_id)

    def _hand_in(self, **job: Any) -> str:
        """A head that has just started answers before it can take jobs, and a busy one may drop the answer.

        Handing in once more is safe: there is one job of a name.
        """
        deadline = time.monotonic() + READY_S
        while True:
            try:
                return self._client.submit_job(**job)
            except (RuntimeError, requests.ConnectionError) as error:
                lost = isinstance(error, requests.ConnectionError)
                if lost and self._has(job["submission_id"]):
                    return str(job["submission_id"])
                if not (lost or "No available agent" in str(error)) or time.monotonic() > deadline:
                    raise
                time.sleep(LOOK_EVERY_S)

    def _has(self, job_id: str) -> bool:
        try:
            return bool(_patiently(lambda: self.view(job_id)))
        except UnknownJobError:
            return False

    def views(self) -> list[JobView]:
        """All studies, the oldest first."""
        found = [_view(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted((v for v in found if v.metadata.get(MARK) == STUDY), key=lambda v: v.submitted_at)

    def view(self, job_id: str) -> JobView:
        """Raises `UnknownJobError`."""
        try:
            return _view(self._client.get_job_info(job_id))
        except RuntimeError as error:
            if "status code 404" not in str(error):
                raise
            known = ", ".join(view.job_id for view in self.views()) or "none"
            raise UnknownJobError(f"{job_id}: the cluster has no such job; it has {known}") from error

    def logs(self, job_id: str) -> str:
        """Everything that the job has written."""
        return str(self._client.get_job_logs(job_id))

    def wait(self, job_id: str, *, timeout_s: float | None = None) -> JobView:
        """Until the job has ended or the time is up. A server that is away for a moment is waited for."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            view = _patiently(lambda: self.view(job_id))
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
                count(_patiently(lambda: self.logs(job_id))[shown:])
                return view

    async def _stream(self, job_id: str, write: Callable[[str], None], *, skip: int) -> None:
        """One connection's worth; the server always begins at the beginning."""
        stream: AsyncIterator[str] = aiter(self._client.tail_job_logs(job_id))
        try:
            while True:
                text = await asyncio.wait_for(anext(stream), timeout=SILENT_S)
                new = text[skip:]
                skip = max(0, skip - len(text))
                if new:
                    write(new)
        except (StopAsyncIteration, TimeoutError, RuntimeError, OSError, aiohttp.ClientError):
            return  # whatever ended the stream, the status tells whether the job goes on

    def stop(self, job_id: str, *, grace_s: float) -> JobView:
        """Asks the driver to end in order, and waits for that; a job without a driver yet has nothing to save.

        Ray's own stop kills a few seconds later. So the signal is sent by a small job of its own, on the driver's node.
        """
        view = self.view(job_id)
        if view.ended:
            return view
        if view.driver_pid and view.status == "RUNNING":
            self._signal(view)
        else:
            self._client.stop_job(job_id)
        return self.wait(job_id, timeout_s=grace_s)

    def _signal(self, view: JobView) -> None:
        known = shlex.quote(view.job_id)
        pid = view.driver_pid
        helper = self._hand_in(
            entrypoint=f"grep -q {known} /proc/{pid}/environ && kill -TERM {pid}",  # a pid may have become another's
            submission_id=f"{view.job_id}-signal-{time.time_ns()}",
            metadata={MARK: SIGNAL},
            entrypoint_label_selector={"ray.io/node-id": view.driver_node},
        )
        sent = self.wait(helper)
        if sent.status != "SUCCEEDED" and not self.view(view.job_id).ended:
            raise ConnectionError(f"{view.job_id}: the driver could not be told to stop: {sent.message}")
        self._client.delete_job(helper)

    def kill(self, job_id: str) -> JobView:
        """Ends every process of the job within seconds."""
        if not self.view(job_id).ended:
            self._client.stop_job(job_id)
        return self.wait(job_id, timeout_s=LOST_S)


def _patiently(ask: Callable[[], T]) -> T:
    """Asks again while the server is away for a moment."""
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
        submitted_at=(details.start_time or 0) / 1e3,
        ended_at=(details.end_time or 0) / 1e3,
        exit_code=details.driver_exit_code,
        never_ran=bool(error) and "ENTRYPOINT_COMMAND_ERROR" not in error,
        driver_pid=int(driver.pid) if driver is not None else 0,
        driver_node=details.driver_node_id or "",
    )
