"""Runs a study with Ray Tune, which only schedules processes: nothing that it writes is ever read again."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle, tune
from ray.tune.experiment import Trial as TuneTrial

from pruneyard.cluster.groups import remove_orphaned_groups
from pruneyard.cluster.session import Session
from pruneyard.orchestrator.coordination.control_files import pruned_file
from pruneyard.orchestrator.coordination.stop_request import StopRequest
from pruneyard.orchestrator.execution.job_source import JobSource
from pruneyard.orchestrator.execution.report import Report, report_of
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.planning.preflight import sources_of
from pruneyard.orchestrator.progress.monitor import Monitor, TrialPlace
from pruneyard.orchestrator.ray_backend.claims import take_back
from pruneyard.orchestrator.ray_backend.placement import Placement, resources_per_trial
from pruneyard.orchestrator.ray_backend.runnable_trials import INDEX, RunnableTrials
from pruneyard.orchestrator.ray_backend.trial_actor import TrialActor
from pruneyard.orchestrator.ray_backend.trial_process import (
    PLACE,
    REPORTS,
    STORAGE_ERROR,
    WARNINGS,
    ActorInput,
)
from pruneyard.orchestrator.ray_backend.tune_patches import (
    FIFOByIndex,
    PlacementGroupSweeper,
    StandIn,
    isolate_oom_kills,
    plain_actors,
)
from pruneyard.orchestrator.ray_backend.watchdog import ClusterLost, StallDetector
from pruneyard.orchestrator.results import ClusterLostError, Results
from pruneyard.orchestrator.spec.job import Resources
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import remove_tree
from pruneyard.reports.records import Status
from pruneyard.reports.storage import StorageError, in_words
from pruneyard.reports.store import Store
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.user_code.shipping import shipment

logger = logging.getLogger(__name__)

TAKE_BACK_AFTER_S = 3.0  # without a word from a trial of several short jobs, which reports every second
AWAY_S = 1.0  # between two steps of Tune: the driver was busy, and what trials report waits in its queue
MAX_TRIALS = 10**6  # that Tune may create: how many there will be is not known before; above, Tune evaluates configs lazily


def run_study(
    attempts: Sequence[PlannedAttempt],
    *,
    study: str,
    folder: RunFolder,
    shapes: Sequence[Resources],
    data: Mapping[Source, Dataset],
    session: Session,
    monitor: Monitor,
    stop: StopRequest,
    show: Callable[[], None],
    fail_fast: bool,
    jobs: JobSource,
    shared: dict[Source, ray.ObjectRef[Dataset]],
) -> None:
    """Runs every attempt once, and those that `jobs` names later as soon as there is room. shapes: what any of them may take.

    Data sets are shared read-only through the object store: one copy per node, however many trials. `shared` holds the sets
    already in the store; new ones are added. Raises `ClusterLostError` if the cluster was lost, or if for `place_within_s` no
    trial ran and none could be placed.
    """
    placement = Placement(folder, shapes=shapes, session=session)
    placement.expect(attempts)
    shared |= {source: ray.put(dataset) for source, dataset in data.items() if source not in shared}
    trials = RunnableTrials(attempts, room=placement.room, may_stop_early=jobs.may_stop_early)

    def start_later(ready: Sequence[PlannedAttempt]) -> None:
        """Lets these attempts start before those that wait for room."""
        if ready:
            placement.expect(ready)
            shared.update({source: ray.put(dataset) for source, dataset in data.items() if source not in shared})
            for planned in reversed(ready):
                trials.add(planned, _late_input(planned, shared))

    arguments = {
        "user_code": shipment(),
        # Pickled here: an actor unpickles its arguments before it can install the code that defines their classes.
        "pickled": cloudpickle.dumps(ActorInput(attempts=attempts, sources=list(shared))),
        "study": study,
        # Absolute, because the working directory of an actor need not be that of the driver.
        "folder": folder.path.resolve(),
        "stop_file": stop.file.resolve(),
        "data": list(shared.values()),
    }
    study_callback = _StudyCallback(
        trials,
        folder,
        placement=placement,
        monitor=monitor,
        stop=stop,
        show=show,
        fail_fast=fail_fast,
        jobs=jobs,
        start_later=start_later,
    )
    scratch = folder.scratch
    control_files = pruned_file(folder, "").resolve()
    # Control files of an earlier call would stop trials that are to run to their end now.
    remove_tree(control_files)
    control_files.mkdir(parents=True)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the driver reports crashed trials itself
    try:
        with resources_per_trial(placement, trials.created) as trial_resources:
            tuner = tune.Tuner(
                tune.with_resources(StandIn, trial_resources),
                param_space=trials.param_space(),
                tune_config=tune.TuneConfig(
                    search_alg=trials,
                    num_samples=MAX_TRIALS,
                    scheduler=FIFOByIndex(),
                    # A new process for each trial would import torch again.
                    reuse_actors=True,
                    trial_dirname_creator=_trial_folder_name,
                ),
                run_config=tune.RunConfig(
                    name=study,
                    storage_path=str(scratch),
                    callbacks=[
                        study_callback,
                        StallDetector(session.head, trials.waiting_resources, monitor),
                        PlacementGroupSweeper(session.head),
                    ],
                    stop=_StopOnRequest(stop, monitor),
                    verbose=0,
                    # The trials write their own checkpoints, and the driver retries crashed ones as new attempts.
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    failure_config=tune.FailureConfig(max_failures=0),
                ),
            )
            with isolate_oom_kills(), plain_actors(TrialActor, ray.put(arguments), is_own_cluster=session.is_own):
                tuner.fit()
    except ClusterLost as lost:
        raise ClusterLostError(str(lost), Results(folder.path)) from lost
    finally:
        # A call to a head that does not answer would block.
        if not session.head.silent_s:
            remove_orphaned_groups()
        # Otherwise the driver that has taken over the folder may use these files by now.
        if not stop.handed_over:
            shutil.rmtree(scratch, ignore_errors=True)
            remove_tree(control_files)
    if study_callback.error is not None:
        raise study_callback.error


def _late_input(planned: PlannedAttempt, shared: Mapping[Source, "ray.ObjectRef[Dataset]"]) -> Any:
    """Returns a reference to the attempt and the data sets that it reads, as `TrialProcess` takes them."""
    sources = [source for source in set(sources_of(planned.job).values()) if source in shared]
    pickled = cloudpickle.dumps(ActorInput(attempts=[planned], sources=sources))
    return ray.put((pickled, [shared[source] for source in sources]))


def _trial_folder_name(trial: TuneTrial) -> str:
    return str(trial.trial_id)


class _NotPickled:
    """Keeps live objects of the driver out of the files that Tune pickles and nobody reads."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _StopOnRequest(_NotPickled, tune.Stopper):
    """Ends the study, waiting trials included, once all trials that ran when the stop was requested have ended.

    Trials that Tune starts meanwhile in freed slots end at once and write nothing.
    """

    def __init__(self, stop: StopRequest, monitor: Monitor) -> None:
        self._stop, self._monitor = stop, monitor
        self._awaited: frozenset[str] | None = None  # the run keys that ran when the stop was requested

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        # Ends no single trial: control files do that, so that the trial writes its record first.
        return False

    def stop_all(self) -> bool:
        if not self._stop.requested:
            return False
        if self._awaited is None:
            self._awaited = frozenset(self._monitor.running)
        return self._awaited.isdisjoint(self._monitor.running)


@dataclass
class _SharedTrial:
    """A running trial of several jobs. since: when it was heard of last, by `time.monotonic`; num_ended: as it reported."""

    index: int
    since: float
    num_ended: int = 0


class _StudyCallback(_NotPickled, tune.Callback):
    """Passes Tune's events to the monitor and to the source of jobs. `error` is what stopped the study in a callback.

    The control file of a trial that is to stop is written before Tune lets the trial take its next step.
    """

    def __init__(
        self,
        trials: RunnableTrials,
        folder: RunFolder,
        *,
        placement: Placement,
        monitor: Monitor,
        stop: StopRequest,
        show: Callable[[], None],
        fail_fast: bool,
        jobs: JobSource,
        start_later: Callable[[Sequence[PlannedAttempt]], None],
    ) -> None:
        self._start_later, self._jobs = start_later, jobs
        self._trials, self._folder, self._placement = trials, folder, placement
        self._shared: dict[str, _SharedTrial] = {}  # by trial id: those whose jobs can be taken back
        self._found_ended: dict[str, frozenset[str]] = {}  # by trial id: the run keys that it has yet to report
        self._stepped_at = self._judges_from = time.monotonic()
        self._monitor, self._stop, self._show, self._fail_fast = monitor, stop, show, fail_fast
        self.error: Exception | None = None

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        now = time.monotonic()
        if now - self._stepped_at > AWAY_S:
            self._judges_from = now + AWAY_S
        self._stepped_at = now
        with self._stopping_on_errors():
            patience_s = TAKE_BACK_AFTER_S if now >= self._judges_from else 10 * TAKE_BACK_AFTER_S
            for trial_id, shared in list(self._shared.items()):
                # During a stop nothing starts elsewhere, and the stop awaits the job by which the trial is known as running.
                if now - shared.since > patience_s and not self._stop.requested:
                    self._take_back(trial_id, shared.index)
                    self._report_ended(trial_id, self._trials.created[shared.index][shared.num_ended :])
        self._show()

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        attempts = self._attempts_of(trial)
        self._monitor.start(attempts[0].job.key)
        if len(attempts) > 1:
            self._shared[trial.trial_id] = _SharedTrial(index=trial.config[INDEX], since=time.monotonic())

    def _attempts_of(self, trial: TuneTrial) -> list[PlannedAttempt]:
        return self._trials.created[trial.config[INDEX]]

    def _take_back(self, trial_id: str, index: int) -> None:
        """Lets those jobs of a trial wait again that it has not started: one of them takes long, or its process has crashed."""
        self._shared.pop(trial_id, None)
        self._trials.take_back(index, take_back(self._folder, trial_id, num_jobs=len(self._trials.created[index])))

    def _report_ended(self, trial_id: str, attempts: Sequence[PlannedAttempt]) -> None:
        """Reports those jobs for a trial that have ended, while it is busy with the last of these attempts.

        It claims a job only after the one before has ended, so it touches no file of the others but to flush it.
        """
        *ended, busy = attempts
        if not ended:
            return
        found = Store(self._folder).finish((planned.job.key, planned.attempt) for planned in ended)
        self._found_ended[trial_id] = frozenset(attempt.run.run_key for attempt in found)
        for attempt in found:
            self._on_report(report_of(attempt))
        if found:
            self._monitor.start(busy.job.key)

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        for run_key, warnings in result[WARNINGS]:
            for warning in warnings:
                logger.warning("%s (%s): %s", run_key, self._monitor.labels[run_key], warning)
        if result.get(STORAGE_ERROR):
            self._stop.stop_on_fault(result[STORAGE_ERROR])
        # Storage failed, or a stop was requested before the attempt began.
        if not result[REPORTS]:
            self._end_trial(trial)
            return
        reports = [Report(**report) for report in result[REPORTS]]
        if result[PLACE] is not None:
            self._monitor.set_place(reports[-1].run_key, TrialPlace(**result[PLACE]))
        with self._stopping_on_errors():
            known = self._found_ended.get(trial.trial_id, frozenset())
            for report in reports:
                if report.run_key not in known:
                    self._on_report(report)
        self._note_progress(trial, reports, done=result["done"])

    def _note_progress(self, trial: TuneTrial, reports: Sequence[Report], *, done: bool) -> None:
        """Learns from the reports how long jobs take, and which job of the trial runs now."""
        attempts = {planned.job.key: planned for planned in self._attempts_of(trial)}
        for report in reports:
            if report.wall_s is not None:
                self._trials.record(attempts[report.run_key].job.stage, report.wall_s)
        if done:
            self._end_trial(trial)
        elif reports[-1].status is not None:
            self._monitor.start(list(attempts)[list(attempts).index(reports[-1].run_key) + 1])
        if (shared := self._shared.get(trial.trial_id)) is not None:
            shared.since = time.monotonic()
            shared.num_ended += sum(report.status is not None for report in reports)

    def _on_report(self, report: Report) -> None:
        self._monitor.record(report)
        self._placement.record(report)
        if self._jobs.must_stop(report):
            file = pruned_file(self._folder, report.run_key)
            with in_words(file):
                file.touch()
        if self._fail_fast and report.status is Status.FAILED:
            self._stop.request()
        if report.status is not None:  # then it is written
            self._start_later(self._jobs.after(report))

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        with self._stopping_on_errors():
            self._take_back(trial.trial_id, trial.config[INDEX])
        self._end_trial(trial)
        started = self._attempts_of(trial)
        crashed = started[-1]
        error_file = Path(trial.error_file) if trial.error_file else None
        error = error_file.read_text(errors="replace") if error_file and error_file.exists() else "Ray left no error"
        with self._stopping_on_errors():
            self._placement.record_crash(crashed.job.key, error)
            self._start_later(self._jobs.after_crash(started, {crashed.job.key: error}))

    @contextmanager
    def _stopping_on_errors(self) -> Iterator[None]:
        """Stops the study if the block raises: Tune would hide the type of the error, and leave its trials running."""
        try:
            yield
        except StorageError as error:
            self._stop.stop_on_fault(str(error))
        except Exception as error:
            self.error = self.error or error
            self._stop.request()

    def _end_trial(self, trial: TuneTrial) -> None:
        """Removes every job of the trial from the running ones; it may have crashed before its start was noticed."""
        self._shared.pop(trial.trial_id, None)
        self._found_ended.pop(trial.trial_id, None)
        for planned in self._attempts_of(trial):
            self._monitor.running.pop(planned.job.key, None)
