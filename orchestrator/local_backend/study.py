"""Runs a study without Ray, one job after the other, so that a debugger works; the numbers equal those on Ray."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import joblib
import torch

from pruneyard.orchestrator.coordination.stop_request import StopRequest
from pruneyard.orchestrator.errors import RankDiedError
from pruneyard.orchestrator.execution.attempt_runner import AttemptRunner, StudyContext, make_study_context
from pruneyard.orchestrator.execution.capacity import max_concurrent_trials
from pruneyard.orchestrator.execution.job_source import JobSource
from pruneyard.orchestrator.execution.process_state import NumericsSnapshot, ProcessSnapshot
from pruneyard.orchestrator.local_backend.worker_processes import LocalWorkers
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.progress.monitor import Monitor, TrialPlace
from pruneyard.orchestrator.spec.job import Resources
from pruneyard.reports.layout import RunFolder
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.workload import StillRunningError


def _loader(data: Mapping[Source, Dataset]) -> Callable[[Source], Dataset]:
    """Returns a function that loads a data set, each that is not in `data` only once."""
    loaded = dict(data)

    def load_data(source: Source) -> Dataset:
        if source not in loaded:
            loaded[source] = source.load()
        return loaded[source]

    return load_data


def run_local(
    attempts: Sequence[PlannedAttempt],
    *,
    study: str,
    folder: RunFolder,
    shapes: Sequence[Resources],
    data: Mapping[Source, Dataset],
    monitor: Monitor,
    stop: StopRequest,
    show: Callable[[], None],
    fail_fast: bool,
    jobs: JobSource,
) -> None:
    """Runs all attempts, or as many as end before a stop is requested; those that `jobs` names later next.

    shapes: the resources of all trials that may run. Raises `UsageError` if one needs more than this machine has. The caller's
    threads, default dtype and global generators are restored at the end.
    """
    for resources in shapes:
        # Called for its error only: jobs run one after the other here.
        max_concurrent_trials(resources, [(joblib.cpu_count(), torch.cuda.device_count())])
    absolute = RunFolder(folder.path.resolve())  # a trial may change the working directory
    load_data = _loader(data)

    def context_of(resources: Resources) -> StudyContext:
        return make_study_context(
            study=study,
            folder=absolute,
            resources=resources,
            load_data=load_data,
            should_stop=lambda: stop.requested,
            is_pruned=jobs.is_stopped,
            # The ranks are other processes, which do not see `stop.requested`; they look for the control file.
            make_worker_group=lambda: LocalWorkers(
                resources=resources, data=data, should_stop=stop.file.resolve().exists, shared_file=absolute.spec
            ),
        )

    contexts: dict[Resources, StudyContext] = {}
    process, numerics = ProcessSnapshot.capture(), NumericsSnapshot.capture()
    try:
        queue = deque(attempts)
        while queue and not stop.requested:
            planned = queue.popleft()
            key, threads = planned.job.key, planned.resources.cpus
            if planned.resources not in contexts:
                contexts[planned.resources] = context_of(planned.resources)
            study_context = contexts[planned.resources]
            process.restore(threads=threads)
            monitor.start(key)
            show()
            runner = AttemptRunner(planned, study_context)
            later: list[PlannedAttempt] = []
            try:
                while runner.report.status is None:
                    report = runner.advance()
                    peak_bytes = study_context.worker_group.gpu_bytes(study_context.device)
                    monitor.set_place(key, TrialPlace(nodes=(), gpu_bytes=peak_bytes))
                    monitor.record(report)
                    jobs.must_stop(report)
                    show()
                if fail_fast and monitor.failures:
                    stop.request()
                if jobs.awaits(runner.report):
                    # Their inputs may still be in a buffer, and what prepares them expects this process as it was.
                    for context in contexts.values():
                        context.write_buffer.write()
                    process.restore(threads=threads)
                later = jobs.after(runner.report)
            except RankDiedError as error:
                monitor.running.pop(key, None)
                later = jobs.after_crash([planned], {key: str(error)})
            except StillRunningError as error:
                # Its thread would share the random generators of this process with the next job.
                monitor.record(runner.report)
                stop.stop_on_fault(str(error))
            queue.extendleft(reversed(later))
            if fail_fast and monitor.failures:
                stop.request()
    finally:
        for context in contexts.values():
            # Also after an interrupt: finished short jobs may still be in the buffer.
            context.write_buffer.write()
            context.worker_group.close()
        process.restore(threads=torch.get_num_threads())
        # Last, because restoring the process resets the numeric settings to defaults.
        numerics.restore()
