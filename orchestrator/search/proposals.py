"""Loads the searches of a spec from a folder, and the jobs that they have proposed. The only module that knows all kinds."""

from dataclasses import replace

from pruneyard.orchestrator.search.diverse_search import DiverseSearch
from pruneyard.orchestrator.search.optuna_search import OptunaSearch
from pruneyard.orchestrator.search.pbt import PBTSearch
from pruneyard.orchestrator.search.round_search import RoundSearch
from pruneyard.orchestrator.spec.load import Spec
from pruneyard.orchestrator.spec.search import DIVERSE
from pruneyard.orchestrator.spec.stage import AdaptiveSearch
from pruneyard.reports.layout import RunFolder

Search = RoundSearch | PBTSearch


def with_proposed_jobs(spec: Spec, folder: RunFolder) -> Spec:
    """Returns the spec with all jobs that its searches have proposed in this folder, and that follow from its results."""
    spec = spec.with_results(folder)
    if all(stage.learning is None for stage in spec.stages):
        return spec
    stages = [
        stage if stage.learning is None else replace(stage, jobs=tuple(load_search(stage.learning, folder).jobs()))
        for stage in spec.stages
    ]
    return replace(spec, stages=tuple(stages))


def is_search_finished(spec: Spec, folder: RunFolder) -> bool:
    """Returns whether neither a search nor a choice among runs would add jobs to the spec in this folder."""
    if any(stage.waits_for for stage in spec.with_results(folder).stages):
        return False
    return not any(
        load_search(stage.learning, folder).can_propose for stage in spec.stages if stage.learning is not None
    )


def num_proposals_left(spec: Spec, folder: RunFolder) -> dict[str | None, int]:
    """Returns how many configurations each unfinished search may still propose, by the name of its stage."""
    searched = {stage.name: stage.learning for stage in spec.stages if stage.learning is not None}
    searches = {name: load_search(learning, folder) for name, learning in searched.items()}
    return {name: found.num_left for name, found in searches.items() if found.can_propose}


def load_search(learning: AdaptiveSearch, folder: RunFolder) -> Search:
    """Returns the state of a search in this folder, which can propose more."""
    if learning.search.is_population:
        return PBTSearch(learning, folder)
    return DiverseSearch(learning, folder) if learning.search.name in DIVERSE else OptunaSearch(learning, folder)
