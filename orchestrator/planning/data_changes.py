"""Finds the data sets that have changed since runs were computed on them, and says on which data a new run rests."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pruneyard.orchestrator.artifacts.data_record import recorded_fingerprint
from pruneyard.orchestrator.artifacts.parents import has_upstream_runs, upstream_runs
from pruneyard.orchestrator.artifacts.reader import open_run
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.planning.plan import Plan
from pruneyard.orchestrator.planning.preflight import sources_of
from pruneyard.orchestrator.spec.job import Job
from pruneyard.reports.data_record import INPUT, LOADED
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location, located
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store
from pruneyard.workloads.data.dataset import DataNotFoundError, Source
from pruneyard.workloads.data.fingerprints import Fingerprints, place_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DataChange:
    """A data set that is not the one that runs were computed on.

    key: of the spec that names it. place: the file or folder that it is read from. recorded, now: its fingerprints then and now.
    folder: of the runs.
    """

    key: str
    place: str
    recorded: str
    now: str
    run_keys: Sequence[str]
    folder: Location

    def __str__(self) -> str:
        num = len(self.run_keys)
        runs = f"run {self.run_keys[0]} in {self.folder} was" if num == 1 else f"{num} runs in {self.folder} were"
        return f"{self.key}: {self.place} has changed: {runs} computed on data {self.recorded}, and it now holds {self.now}"


def check_data_unchanged(plan: Plan, fingerprints: Fingerprints) -> None:
    """Raises `UsageError` where runs that the plan keeps, resumes or builds on were computed on other data than there is now.

    Data that is not on this machine is not compared, which a warning says.
    """
    found = [*changes(plan, fingerprints), *_changes_upstream([planned.job for planned in plan.attempts()], fingerprints)]
    if found:
        restore = "restore the data, or the version of the library that decodes it if no file has changed"
        remedy = f"{restore}; or give another --out for the new data, and the runs stay as they are"
        raise UsageError("\n".join([*map(str, found), remedy]))


def changes(plan: Plan, fingerprints: Fingerprints) -> list[DataChange]:
    """Returns the data sets that finished or interrupted runs of the plan were computed on, and that have changed."""
    rested: dict[tuple[Source, str, str], list[str]] = {}
    # A job that failed starts on the data that there is now; if it has a checkpoint, resuming compares it.
    for job in (job for job in plan.spec.jobs if plan.is_finished(job) or plan.status(job) is Status.INTERRUPTED):
        recorded = plan.data_records.get(job.key)
        for key, source in sources_of(job).items() if recorded else ():
            then = recorded_fingerprint(recorded or {}, source, key)
            if then is not None:
                rested.setdefault((source.rests_on(), key, then), []).append(job.key)
    return list(_changed(rested, plan.folder.path, fingerprints))


def changes_since(
    job: Job, recorded: Mapping[str, str], plan: Plan, fingerprints: Fingerprints, *, folder: Location
) -> list[str]:
    """Returns what differs between the data that a run of `job` in `folder` was computed on and the data that there is now.

    The runs that the job takes its input from must be finished in the plan.
    """
    rested: dict[tuple[Source, str, str], list[str]] = {}
    for key, source in sources_of(job).items():
        then = recorded_fingerprint(recorded, source, key)
        if then is not None:
            rested[source.rests_on(), key, then] = [job.key]
    found = [str(change) for change in _changed(rested, folder, fingerprints)]
    now = DataRecords().of_input(job, plan)
    if INPUT in recorded and recorded[INPUT] != now:
        found.append(f"input: run {job.key} in {folder} rests on data {recorded[INPUT]}, and its input now on {now}")
    return found


def _changes_upstream(jobs: Sequence[Job], fingerprints: Fingerprints) -> list[DataChange]:
    """Returns the data sets of runs in other folders that jobs are to read beside these runs, and that have changed."""
    reading = [job for job in jobs if job.parents and getattr(job.workload, "reads_data_of_input", True)]
    named = dict.fromkeys(pair for job in reading for pair in upstream_runs(job.workload) if pair[0])
    rested: dict[str, dict[tuple[Source, str, str], list[str]]] = {}
    for folder, key in named:
        run = open_run(str(_folder(folder).artifact(key)))
        if "data" not in run.spec:
            continue
        then = run.data_fingerprint()
        if then is not None:
            rested.setdefault(folder, {}).setdefault((run.source().rests_on(), "data", then), []).append(key)
    return [change for folder, found in rested.items() for change in _changed(found, _folder(folder).path, fingerprints)]


def _changed(
    rested: Mapping[tuple[Source, str, str], Sequence[str]], folder: Location, fingerprints: Fingerprints
) -> Iterator[DataChange]:
    for (source, key, then), run_keys in rested.items():
        try:
            if source.inputs() == ():
                continue  # the same wherever it is made
            now = fingerprints.of(source)
        except DataNotFoundError as error:
            logger.warning("the data of %d runs in %s cannot be compared: %s", len(run_keys), folder, error)
            continue
        except ValueError as error:
            raise UsageError(f"{key}: {error}") from error
        if now != then:
            yield DataChange(
                key=key, place=place_of(source), recorded=then, now=now, run_keys=run_keys, folder=folder
            )


class DataRecords:
    """The data that runs were computed on, in the folder of a plan and in others, which are read once.

    started: what the attempts of this call will record, by run key; a plan may be older than their records.
    """

    def __init__(self) -> None:
        self.started: dict[str, Mapping[str, str]] = {}
        self._elsewhere: dict[str, Mapping[str, Mapping[str, str]]] = {}

    def of_job(self, job: Job, plan: Plan, fingerprints: Fingerprints) -> dict[str, str]:
        """Returns the fingerprints of the data that a job rests on, by key of the spec; that of its input runs under `input`."""
        found = {key: fingerprints.of(source) for key, source in sources_of(job).items()}
        own = getattr(job.workload, "data", None)
        # Selected rows can be others on another machine, though the data that they are selected from is the same.
        if own is not None and own.rests_on() is not own and not has_upstream_runs(own):
            found[LOADED] = fingerprints.as_loaded(own)
        upstream = self.of_input(job, plan)
        return found | ({INPUT: upstream} if upstream else {})

    def of_input(self, job: Job, plan: Plan) -> str:
        """Returns the fingerprints of the data that the input runs of a job rest on, joined by commas; empty if not known."""
        runs = upstream_runs(job.workload) if job.parents else ()
        upstream = {self._of_run(plan, folder, key) for folder, key in runs} - {None}
        return ",".join(sorted(map(str, upstream)))

    def _of_run(self, plan: Plan, folder: str, key: str) -> str | None:
        """Returns the fingerprint of the data of an upstream run, or of its own input."""
        if folder and folder not in self._elsewhere:
            self._elsewhere[folder] = Store(_folder(folder)).data_records()
        recorded = self._elsewhere[folder].get(key, {}) if folder else self.started.get(key) or plan.data_records.get(key, {})
        return next((recorded[name] for name in ("data", LOADED, INPUT) if name in recorded), None)


def _folder(folder: str) -> RunFolder:
    return RunFolder(located(folder).expanduser())
