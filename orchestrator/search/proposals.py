"""What a search has proposed so far; the one door to pbt and optuna."""

from dataclasses import replace
from typing import TYPE_CHECKING

from pruneyard.orchestrator.search.pbt import PBTSearch
from pruneyard.orchestrator.spec.load import Spec
from pruneyard.orchestrator.spec.stage import AdaptiveSearch
from pruneyard.reports.layout import RunFolder

if TYPE_CHECKING:
    pass
from pruneyard.orchestrator.search.optuna_search import OptunaSearch


def with_proposed_jobs(spec: Spec, folder: RunFolder) -> Spec:
    """The spec with all that its searches have proposed in this folder."""
    if all(stage.learning is None for stage in spec.stages):
        return spec
    stages = [
        stage if stage.learning is None else replace(stage, jobs=tuple(load_search(stage.learning, folder).jobs()))
        for stage in spec.stages
    ]
    return replace(spec, stages=tuple(stages))


def is_search_finished(spec: Spec, folder: RunFolder) -> bool:
    """Whether no search of the spec would propose more in this folder."""
    return not any(
        load_search(stage.learning, folder).goes_on for stage in spec.stages if stage.learning is not None
    )


def num_proposals_left(spec: Spec, folder: RunFolder) -> dict[str | None, int]:
    """By the name of a stage whose search goes on in this folder: settings that it may propose yet, each for every seed."""
    searched = {stage.name: stage.learning for stage in spec.stages if stage.learning is not None}
    rounds = {name: load_search(learning, folder) for name, learning in searched.items()}
    return {name: found.left for name, found in rounds.items() if found.goes_on}


def load_search(learning: AdaptiveSearch, folder: RunFolder) -> "OptunaSearch | PBTSearch":
    """What a search has proposed, and how it goes on."""
    return PBTSearch(learning, folder) if learning.search.is_population else OptunaSearch(learning, folder)
