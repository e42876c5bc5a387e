"""The jobs of several stages while they run together: each starts as soon as its own inputs are finished.

A search proposes its next round when the one before has ended, a choice among the runs of a stage is made when these have ended,
and a crashed trial is retried at once. All of that lets other jobs run meanwhile.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pruneyard.orchestrator.driver.context import StudyRun
from pruneyard.orchestrator.driver.retries import attempts_to_retry
from pruneyard.orchestrator.driver.stage_groups import RunAttempts, fail_dependants, prepared, record_failures
from pruneyard.orchestrator.driver.study_plan import write_study_plan
from pruneyard.orchestrator.early_stopping.asha_median import EarlyStopper, load_early_stopper
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.execution.later_jobs import LaterJobs
from pruneyard.orchestrator.execution.report import Report
from pruneyard.orchestrator.planning.attempt import PlannedAttempt, order_by_parents
from pruneyard.orchestrator.search.proposals import Search, load_search
from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.stage import Stage
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store

logger = logging.getLogger(__name__)


class Retries:
    """A source of attempts that knows no later ones, but retries those whose process crashed."""

    def __init__(self, study_run: StudyRun, stoppers: Sequence[EarlyStopper] = ()) -> None:
        self.study_run, self._stoppers = study_run, list(stoppers)
        self._num_crashes: dict[str, int] = {}
        self._open: dict[str, PlannedAttempt] = {}  # by run key: attempts that run, or wait for that

    def must_stop(self, report: Report) -> bool:
        """Passes the report to the early stopper of its stage and returns whether its trial must stop."""
        stopper = next((stopper for stopper in self._stoppers if stopper.knows(report.run_key)), None)
        return stopper is not None and stopper.on_report(report)

    def may_stop_early(self, key: str) -> bool:
        """Returns whether the early stopper of its stage decides about this run."""
        return any(stopper.knows(key) for stopper in self._stoppers)

    def is_stopped(self, key: str) -> bool:
        """Returns whether the configuration of a job was stopped."""
        return any(stopper.is_stopped(key) for stopper in self._stoppers)

    def awaits(self, report: Report) -> bool:
        """Returns False."""
        return False

    def after(self, report: Report) -> list[PlannedAttempt]:
        """Returns no attempt."""
        return []

    def after_crash(self, attempts: Sequence[PlannedAttempt], errors: Mapping[str, str]) -> list[PlannedAttempt]:
        """Records the crash, and returns the attempts that run again."""
        retries = attempts_to_retry(attempts, errors, self._num_crashes, self.study_run)
        self.study_run.monitor.expect(retries)
        self._open |= {planned.job.key: planned for planned in retries}
        return retries

    def run(self, ready: Sequence[PlannedAttempt], run_attempts: RunAttempts) -> None:
        """Runs attempts, and those that follow from them, until each has ended or paused."""
        self._open |= {planned.job.key: planned for planned in ready}
        while ready and not self.study_run.stop.requested:
            run_attempts(ready, jobs=self, **self.study_run.backend_arguments())
            # What ended without a record and without a crash, which nothing explains, runs again.
            ready = self.after_crash(self._started(), {})

    def _started(self) -> list[PlannedAttempt]:
        return list(self._open.values())


@dataclass
class _RunningSearch:
    """A stage with an adaptive search that has not finished, and the jobs that it has proposed so far."""

    stage: Stage
    rounds: Search
    jobs: list[Job]

    def open_keys(self, open_runs: Collection[str]) -> set[str]:
        """Returns the run keys of its jobs that have not ended."""
        return {job.key for job in self.jobs if job.key in open_runs}


class JobPool(Retries):
    """The jobs of the stages that run together. `error` is why a search had to end early; others run on."""

    def __init__(self, stages: Sequence[Stage], study_run: StudyRun, *, only: frozenset[Status | None] | None) -> None:
        super().__init__(study_run)
        self._only = only
        self._later = LaterJobs()
        self._ended: dict[str, Status] = {}  # in this call
        # Stages whose jobs depend on a choice, with the runs that they may choose from.
        self._undecided = [(stage, _chosen_from(stage, stages)) for stage in stages if stage.waits_for]
        self._searches: list[_RunningSearch] = []
        self._admitted: set[str] = set()
        self._stages = stages
        self._by_stage: dict[str | None, EarlyStopper] = {}
        self.error: UsageError | None = None

    def run_all(self, run_attempts: RunAttempts) -> None:
        """Runs everything. Raises `UsageError` for jobs that cannot run, and at the end for a search that had to end early."""
        ready: list[PlannedAttempt] = []
        for stage in self._stages:
            if stage.learning is None:
                ready += self._admit(stage, stage.jobs)
            else:
                rounds = load_search(stage.learning, self.study_run.folder)
                jobs = rounds.jobs()  # an earlier call may have left proposals that have not run
                running = _RunningSearch(stage, rounds, jobs)
                self._searches.append(running)
                ready += [*self._admit(stage, jobs), *self._proposals(running)]
        ready = prepared([*ready, *self._choices()], self.study_run)
        self.run(ready, run_attempts)
        self._close()

    def awaits(self, report: Report) -> bool:
        """Returns whether jobs, a search or a choice wait for the end of this run."""
        key = report.run_key
        if report.status is None or key not in self._open:
            return False
        return (
            self._later.depend_on(key)
            or any(key in runs for _, runs in self._undecided)
            or any(key in running.open_keys(self._open) for running in self._searches)
        )

    def after(self, report: Report) -> list[PlannedAttempt]:
        """Returns the attempts that can start after this report."""
        if report.status is None or report.run_key not in self._open:
            return []
        return self._after_end(report.run_key, report.status, report.error or "unknown")

    def after_crash(self, attempts: Sequence[PlannedAttempt], errors: Mapping[str, str]) -> list[PlannedAttempt]:
        """Records the crash, and returns the attempts that run again, or that can start since a job failed for good."""
        retries = super().after_crash(attempts, errors)
        again = {planned.job.key for planned in retries}
        ended = [key for planned in attempts if (key := planned.job.key) in self._open and key not in again]
        # A run may have been recorded before the process crashed, so that it could not be reported.
        recorded = Store(self.study_run.folder).statuses() if ended else {}
        ready = list(retries)
        numbers = {planned.job.key: planned.attempt for planned in attempts}
        for key in ended:
            status, newest = recorded.get(key, (Status.INTERRUPTED, 0))
            if newest >= numbers[key] and key not in self.study_run.monitor.ended:
                if status is Status.FAILED:
                    self.study_run.mark_failed(key, self._recorded_error(key))
                else:
                    self.study_run.monitor.end(key, status)
        failed = {failure.run_key: failure.error for failure in self.study_run.monitor.failures}
        for key in ended:
            status, newest = recorded.get(key, (Status.INTERRUPTED, 0))
            # An attempt that a stop came before has no row; that of the attempt before says nothing of it.
            own = status if newest >= numbers[key] else Status.INTERRUPTED
            ready += self._after_end(key, own, failed.get(key, "unknown"))
        return ready

    def _recorded_error(self, key: str) -> str:
        runs = Store(self.study_run.folder).runs()
        errors = dict(zip(runs.column("run_key").to_pylist(), runs.column("error").to_pylist(), strict=True))
        return (errors[key] or "unknown").strip().splitlines()[-1]

    def _started(self) -> list[PlannedAttempt]:
        waiting = {planned.job.key for planned in self._later.waiting}
        return [planned for key, planned in self._open.items() if key not in waiting]

    def _after_end(self, key: str, status: Status, error: str) -> list[PlannedAttempt]:
        self._open.pop(key, None)
        self._ended[key] = status
        ready: list[PlannedAttempt] = []
        if status is Status.COMPLETED:
            ready = self._later.completed(key)
        elif status is Status.FAILED:
            self._fail_dependants(key, error)
        if self.study_run.stop.requested:
            return []
        return self._prepared_later([*order_by_parents(ready), *self._decisions()])

    def _fail_dependants(self, key: str, error: str) -> None:
        """Records every attempt as failed that waits for a failed run, directly or through others."""
        own = {job.key: job for job in self.study_run.plan.spec.jobs}
        causes, doomed = [(key, error)], list[tuple[PlannedAttempt, str]]()
        # The list grows while it is walked, so failures reach the jobs that wait for jobs found here.
        for run, why in causes:
            for planned in self._later.failed(run):
                words = f"its input {run} of stage {own[run].stage} failed: {why}"
                causes.append((planned.job.key, words))
                doomed.append((planned, words))
        for planned, _ in doomed:
            self._open.pop(planned.job.key, None)
            self._ended[planned.job.key] = Status.FAILED
        if doomed:
            record_failures(doomed, self.study_run)

    def _prepared_later(self, attempts: Sequence[PlannedAttempt]) -> list[PlannedAttempt]:
        """Returns as `prepared` does; a job that cannot run fails alone, since others are running."""
        ready: list[PlannedAttempt] = []
        for planned in attempts:
            try:
                ready += prepared([planned], self.study_run)
            except UsageError as error:
                record_failures([(planned, str(error))], self.study_run)
                ready += self._after_end(planned.job.key, Status.FAILED, str(error))
        return ready

    def _admit(self, stage: Stage, jobs: Sequence[Job]) -> list[PlannedAttempt]:
        """Takes in those jobs of a stage that are to run, and returns the attempts that can start now."""
        new = [job for job in jobs if job.key not in self._admitted]
        self._admitted.update(job.key for job in new)
        plan = self.study_run.plan
        attempts = fail_dependants(plan.attempts(new, only=self._only), self.study_run, failed=self._failed())
        self.study_run.expect(attempts)
        self._set_stopper(stage, jobs, attempts)
        ready = []
        self._open |= {planned.job.key: planned for planned in attempts}
        for planned in attempts:
            missing = {run for run in plan.unfinished_parents(planned.job) if self._ended.get(run) is not Status.COMPLETED}
            if missing:
                self._later.add(planned, frozenset(missing))
            else:
                ready.append(planned)
        return ready

    def _failed(self) -> set[str]:
        """Returns the run keys of failed runs of this study that do not run again."""
        plan = self.study_run.plan
        failed = {job.key for job in plan.spec.jobs if plan.status(job) is Status.FAILED and job.key not in self._ended}
        failed |= {key for key, status in self._ended.items() if status is Status.FAILED}
        return failed - self._open.keys()

    def _set_stopper(self, stage: Stage, jobs: Sequence[Job], attempts: Sequence[PlannedAttempt]) -> None:
        """Lets the early stopper of a stage know all of its jobs; a search adds some in each round."""
        resumes_pruned = self._only is not None and Status.PRUNED in self._only  # then nothing may be stopped early again
        if stage.header.scheduler.name == "fifo" or resumes_pruned:
            return
        stopper = load_early_stopper(stage.header.scheduler, jobs, self.study_run.folder)
        # Jobs that failed before run again now, so they count again.
        stopper.include(planned.job.key for planned in attempts)
        self._by_stage[stage.name] = stopper
        self._stoppers = list(self._by_stage.values())

    def _decisions(self) -> list[PlannedAttempt]:
        """Returns the attempts that can start because of choices and proposals that can be made by now."""
        proposed = [planned for running in list(self._searches) for planned in self._proposals(running)]
        return [*self._choices(), *proposed]

    def _choices(self) -> list[PlannedAttempt]:
        ready: list[PlannedAttempt] = []
        # Again after each round: all jobs of a stage decided now may have finished before, and others choose from these.
        while due := [stage.name for stage, runs in self._undecided if self._can_choose(stage, runs)]:
            plan = self.study_run.plan = self.study_run.plan.reread()
            known = {stage.name: stage for stage in plan.spec.stages}
            decided = [known[stage.name] for stage, _ in self._undecided if not known[stage.name].waits_for]
            for name in due:
                if reason := known[name].waits_for:
                    logger.warning("stage %s has no jobs yet: %s", name, reason)
            # Those that cannot be decided although their runs have ended are not asked again.
            self._undecided = [
                (stage, runs) for stage, runs in self._undecided if stage.name not in due and known[stage.name].waits_for
            ]
            if decided:
                self._show_jobs()
            for stage in decided:
                ready += self._admit(stage, stage.jobs)
        return ready

    def _can_choose(self, stage: Stage, runs: frozenset[str]) -> bool:
        """Returns whether all runs that a stage may choose from have ended; not while their own stage waits for a choice."""
        others = [other for other, _ in self._undecided if other.name != stage.name]
        return runs.isdisjoint(self._open) and not any(job.key in runs for other in others for job in other.candidates)

    def _proposals(self, running: _RunningSearch) -> list[PlannedAttempt]:
        """Returns the attempts of further rounds that can start, if all runs of the rounds so far have ended."""
        ready: list[PlannedAttempt] = []
        # A round whose jobs all finished in an earlier call is followed by the next one at once.
        while self._only is None and running in self._searches and not running.open_keys(self._open):
            try:
                is_proposed = running.rounds.propose()
            except UsageError as error:
                self.error, is_proposed = error, False
            self.study_run.plan = self.study_run.plan.with_proposals()
            if is_proposed:
                running.jobs = running.rounds.jobs()
            else:
                self._searches.remove(running)
            self._show_jobs()  # also at the end: the plan says that no more runs will be proposed
            if is_proposed:
                ready += self._admit(running.stage, running.jobs)
        return ready

    def _show_jobs(self) -> None:
        """Writes the jobs that are known by now, and updates what is displayed."""
        plan, monitor = self.study_run.plan, self.study_run.monitor
        write_study_plan(plan)
        monitor.total = len(plan.spec.jobs)
        monitor.time_left.num_unproposed = sum(
            running.rounds.num_left * len(running.stage.header.seed_list) for running in self._searches
        )

    def _close(self) -> None:
        """Brings the plan up to date, and says what could not run."""
        self.study_run.plan = self.study_run.plan.reread()
        if self.study_run.stop.requested:
            return
        for stage, _ in self._undecided:
            logger.warning("stage %s has no jobs yet: %s", stage.name, stage.waits_for)
        if waiting := len(self._later.waiting):
            logger.warning("%d jobs wait for runs that did not finish", waiting)
        if self.error is not None:
            raise self.error


def _chosen_from(stage: Stage, stages: Sequence[Stage]) -> frozenset[str]:
    """Returns the run keys of the runs that the choice of a stage depends on: those it may consume or take settings from."""
    source = stage.header.settings.get("from")
    of_settings = [job.key for other in stages if other.name == source for job in (*other.jobs, *other.candidates)]
    return frozenset([*of_settings, *(run for job in stage.candidates for run in job.parents)])


def run_with_retries(
    ready: Sequence[PlannedAttempt], study_run: StudyRun, run_attempts: RunAttempts, *, early_stopper: EarlyStopper
) -> None:
    """Runs attempts of one stage, and retries those whose process crashed, until each has ended or paused."""
    study_run.monitor.expect(list(ready))
    Retries(study_run, [early_stopper]).run(ready, run_attempts)
    study_run.plan = study_run.plan.reread()

