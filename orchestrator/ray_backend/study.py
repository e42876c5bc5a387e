"""One Ray Tune study: Tune schedules processes, and nothing it writes or remembers is read again."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from pruneyard.cluster.groups import remove_orphaned_groups
from pruneyard.cluster.session import Session
from pruneyard.orchestrator.coordination.control_files import pruned_file
from pruneyard.orchestrator.coordination.stop_request import StopRequest
from pruneyard.orchestrator.early_stopping.asha_median import EarlyStopper
from pruneyard.orchestrator.execution.report import Report
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.progress.monitor import Monitor, TrialPlace
from pruneyard.orchestrator.ray_backend.placement import Placement, resources_per_trial
from pruneyard.orchestrator.ray_backend.trial_actor import (
    PLACE,
    REPORTS,
    STORAGE_ERROR,
    WARNINGS,
    TrialActor,
    current_job_file,
)
from pruneyard.orchestrator.ray_backend.tune_patches import (
    FIFOByIndex,
    PlacementGroupSweeper,
    isolate_oom_kills,
    sequential_index,
)
from pruneyard.orchestrator.ray_backend.watchdog import ClusterLost, StallDetector
from pruneyard.orchestrator.results import ClusterLostError, Results
from pruneyard.orchestrator.spec.job import Resources
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import remove_tree
from pruneyard.reports.records import Status
from pruneyard.reports.storage import StorageError, in_words
from pruneyard.workloads.data.dataset import Dataset, Source

logger = logging.getLogger(__name__)



def run_study(
    orders: Sequence[PlannedAttempt],
    *,
    study: str,
    folder: RunFolder,
    resources: Resources,
    data: Mapping[Source, Dataset],
    session: Session,
    monitor: Monitor,
    stop: StopRequest,
    show: Callable[[], None],
    fail_fast: bool,
    judge: EarlyStopper,
    shared: dict[Source, ray.ObjectRef[Dataset]],
) -> dict[str, str]:
    """Runs every order once. Returns, by run key, the error of each trial whose process died without a record.

    Data is shared read-only through the object store: one copy a node, however many trials. `shared` are the sets that are
    there already; it grows. Raises `ClusterLostError` where the
    cluster was lost, or had no room for a trial for `place_within_s` while none ran.
    """
    placement = Placement(orders, folder, resources=resources, session=session)
    bundles = bundle_attempts(orders, slots=placement.slots)
    shared |= {source: ray.put(dataset) for source, dataset in data.items() if source not in shared}
    actor = tune.with_parameters(
        TrialActor,
        bundles=bundles,
        study=study,
        folder=folder.path.resolve(),
        stop_mark=stop.mark.resolve(),
        resources=resources,
        data=dict(shared),
    )
    watch = _StudyCallback(
        bundles, folder, placement=placement, monitor=monitor, stop=stop, show=show, fail_fast=fail_fast, judge=judge
    )
    scratch = folder.scratch
    marks = pruned_file(folder, "").resolve()
    remove_tree(marks)
    marks.mkdir(parents=True)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial whose process died is told of in our own words
    try:
        with resources_per_trial(placement, bundles) as ask:
            tuner = tune.Tuner(
                tune.with_resources(actor, ask),
                param_space={"index": sequential_index()},
                tune_config=tune.TuneConfig(
                    num_samples=len(bundles),
                    scheduler=FIFOByIndex(),  # type: ignore[no-untyped-call]
                    reuse_actors=True,
                    max_concurrent_trials=min(placement.slots, len(bundles)),
                    trial_dirname_creator=_short_name,
                ),
                run_config=tune.RunConfig(
                    name=study,
                    storage_path=str(scratch),
                    callbacks=[watch, StallDetector(session.pulse, resources, monitor), PlacementGroupSweeper(session.pulse)],
                    stop=_StopWhenAsked(stop, monitor),
                    verbose=0,
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    failure_config=tune.FailureConfig(max_failures=0),
                ),
            )
            with isolate_oom_kills():
                tuner.fit()
    except ClusterLost as end:
        raise ClusterLostError(str(end), Results(folder.path)) from end
    finally:
        if not session.pulse.silent_s:
            remove_orphaned_groups()
        if not stop.handed_over:
            shutil.rmtree(scratch, ignore_errors=True)
            remove_tree(marks)
    return watch.deaths


def bundle_attempts(orders: Sequence[PlannedAttempt], *, slots: int) -> list[list[PlannedAttempt]]:
    """Orders in their order, as many to a trial as their jobs allow and as leaves work for every slot.

    A job is alone unless it has `per_trial`: then starting a trial would cost more than the job. One that was run before is
    alone, too: should it take its process down, no other job pays for it.
    """
    bundles: list[list[PlannedAttempt]] = []
    for order in orders:
        most = min(getattr(order.job.workload, "per_trial", 1), -(-len(orders) // slots)) if order.attempt == 1 else 1
        kind = type(order.job.workload)
        last = bundles[-1] if bundles else []
        if 0 < len(last) < most and last[0].attempt == 1 and type(last[0].job.workload) is kind:
            last.append(order)
        else:
            bundles.append([order])
    return bundles


def _short_name(trial: TuneTrial) -> str:
    return str(trial.trial_id)


class _NotSaved:
    """Tune pickles what it was given into a file that nobody reads; live objects of the driver stay out of it."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _StopWhenAsked(_NotSaved, tune.Stopper):
    """Ends the study, waiting trials included, once those that ran when a stop was asked for have ended.

    Trials that Tune starts meanwhile in freed places end at once and leave nothing.
    """

    def __init__(self, stop: StopRequest, monitor: Monitor) -> None:
        self._stop, self._monitor = stop, monitor
        self._awaited: frozenset[str] | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if not self._stop.requested:
            return False
        if self._awaited is None:
            self._awaited = frozenset(self._monitor.running)
        return self._awaited.isdisjoint(self._monitor.running)


class _StudyCallback(_NotSaved, tune.Callback):
    """Hands Tune's events to the monitor and to the judge, who marks what is to stop before Tune lets it go on."""

    def __init__(
        self,
        bundles: Sequence[Sequence[PlannedAttempt]],
        folder: RunFolder,
        *,
        placement: Placement,
        monitor: Monitor,
        stop: StopRequest,
        show: Callable[[], None],
        fail_fast: bool,
        judge: EarlyStopper,
    ) -> None:
        self._bundles, self._folder, self._placement, self._judge = bundles, folder, placement, judge
        self._monitor, self._stop, self._show, self._fail_fast = monitor, stop, show, fail_fast
        self.deaths: dict[str, str] = {}

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        self._show()

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._monitor.start(self._bundles[trial.config["index"]][0].job.key)

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        if result.get(STORAGE_ERROR):
            self._stop.give_up(result[STORAGE_ERROR])
        if not result[REPORTS]:
            self._forget(trial)
            return
        reports = [Report(**report) for report in result[REPORTS]]
        if result[PLACE] is not None:
            self._monitor.place(reports[-1].run_key, TrialPlace(**result[PLACE]))
        for note in result[WARNINGS]:
            logger.warning("%s (%s): %s", reports[-1].run_key, self._monitor.labels[reports[-1].run_key], note)
        try:
            for report in reports:
                self._take(report)
        except StorageError as error:
            self._stop.give_up(str(error))

    def _take(self, report: Report) -> None:
        self._monitor.record(report)
        self._placement.record(report)
        if self._judge.hear_report(report):
            mark = pruned_file(self._folder, report.run_key)
            with in_words(mark):
                mark.touch()
        if self._fail_fast and report.status is Status.FAILED:
            self._stop.ask()

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._forget(trial)
        bundle = self._bundles[trial.config["index"]]
        mark = current_job_file(self._folder, trial.trial_id)
        named = mark.read_text() if len(bundle) > 1 and mark.exists() else ""
        died = next((order for order in bundle if order.job.key == named), bundle[0])
        words = Path(trial.error_file) if trial.error_file else None
        self.deaths[died.job.key] = words.read_text(errors="replace") if words and words.exists() else "no error was left"

    def _forget(self, trial: TuneTrial) -> None:
        """None of the bundle is running; it may have died before it was seen to start."""
        for order in self._bundles[trial.config["index"]]:
            self._monitor.running.pop(order.job.key, None)
