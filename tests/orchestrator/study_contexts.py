"""The context in which this process runs attempts of a study itself."""

from pruneyard.orchestrator.execution.attempt_runner import StudyContext, make_study_context
from pruneyard.orchestrator.execution.worker_group import InProcess
from pruneyard.orchestrator.spec.job import Resources
from pruneyard.reports.layout import RunFolder


def context_in(folder: RunFolder, *, is_pruned: bool = False) -> StudyContext:
    """Returns the context of a study in a folder, whose runs are stopped early if `is_pruned`."""
    return make_study_context(
        study="s",
        folder=folder,
        resources=Resources(),
        load_data=lambda source: source.load(),
        should_stop=lambda: False,
        is_pruned=lambda key: is_pruned,
        make_worker_group=InProcess,
    )
