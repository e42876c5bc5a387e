"""Writes plan.json, from which pages and summaries know the runs of a study."""

from pruneyard.cluster.bundle import is_bundle
from pruneyard.orchestrator.planning.plan import Plan
from pruneyard.orchestrator.search.proposals import is_search_finished
from pruneyard.orchestrator.spec.best_runs import Best
from pruneyard.orchestrator.spec.chosen_settings import KEY
from pruneyard.reports.planned import Population, write_plan
from pruneyard.workloads.user_code.files import base_folder


def write_study_plan(plan: Plan) -> None:
    """Writes plan.json: all run keys, the stages that settings are chosen from, and each population with its metric and runs."""
    populations, spec = {}, plan.spec
    for stage in spec.stages:
        if stage.learning is not None and stage.learning.search.is_population:
            ((measure, best_is),) = stage.learning.search.directions.items()
            populations[stage.name or ""] = Population(measure, best_is, frozenset(job.key for job in stage.jobs))
    keys = [job.key for job in spec.jobs]
    tables = {stage.name or "": stage.tables[KEY] for stage in spec.stages if KEY in stage.tables}
    chosen_per = {name: Best.keys_of(table["best"]) for name, table in tables.items() if "best" in table}
    sources = {table["from"] for table in tables.values()}
    chosen_from = sources & {stage.name for stage in spec.stages}  # others are folders
    complete = is_search_finished(spec, plan.folder)
    here = base_folder()
    write_plan(
        plan.folder,
        keys,
        populations,
        chosen_from=chosen_from,
        chosen_per=chosen_per,
        is_complete=complete,
        started_in=None if is_bundle(here) else str(here),
    )
