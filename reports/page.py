"""Writes the HTML report on results folders. The page loads nothing from the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from altair.utils.schemapi import debug_mode
from jinja2 import Environment, PackageLoader, StrictUndefined

from pruneyard.reports import glossary, palette, pooling, prose, tables
from pruneyard.reports.charts.catalog import figures
from pruneyard.reports.charts.figure import Figure, embeddable_json, script_bundle
from pruneyard.reports.claims.section import claims_section
from pruneyard.reports.comparison_section import comparisons
from pruneyard.reports.durable import write_durably
from pruneyard.reports.evidence.section import evidence_section
from pruneyard.reports.further_table import further_table
from pruneyard.reports.gallery import gallery
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.reports.matched import Budget, at_budget
from pruneyard.reports.merge_section import NOTE, merge_table, merge_verdict
from pruneyard.reports.probe_tables import ProbeTable, probe_measures, probe_tables
from pruneyard.reports.records import Status
from pruneyard.reports.run_data import run_data
from pruneyard.reports.study import Study
from pruneyard.reports.trust_section import calibration_measures, trust_section

_MAX_SPEC = 50_000
MAX_OPEN_SUMMARY = 24
"""Rows of a summary that stays open where the table of calibrators below has the same rows."""


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """The text of a page, and what its head answers, a line a question."""

    text: str
    answers: Sequence[str] = ()


def write_page(
    folders: Sequence[Location], out: Location, *, budget: Budget | None = None, pool: Sequence[str] = ()
) -> Location:
    """Writes one self-contained page about `folders` to `out` and returns `out`; see `write_with_answers`."""
    write_with_answers(folders, out, budget=budget, pool=pool)
    return out


def write_with_answers(
    folders: Sequence[Location], out: Location, *, budget: Budget | None = None, pool: Sequence[str] = ()
) -> Sequence[str]:
    """Writes one self-contained page about `folders` to `out` and returns what its head answers, a line a question.

    budget: show what all runs had after this budget; see `matched.at_budget`. pool: settings in which runs may differ and still
    count together; see `Study.pool`. A folder without results is allowed. Raises `ValueError` for no folders, for a path that is
    not a folder, for a budget that no run has spent, and for what cannot be pooled.
    """
    if not folders:
        raise ValueError("folders is empty; give at least one folder that a run has written")
    study = Study.read(folders).pool(pool)
    remarks = [pooling.note(study.pooled, study.labelled)] if pool else []
    if budget is not None:
        study = at_budget(study, budget)
        remarks.append(f"All values are those that runs had within an equal budget of {budget.kind} {budget.amount:g}.")
    page = rendered(study, remark=" ".join(remarks))
    write_durably(out, page.text.encode())
    return page.answers


def render(study: Study, *, live: str = "", remark: str = "") -> str:
    """Returns the page as text; see `rendered`."""
    return rendered(study, live=live, remark=remark).text


def rendered(study: Study, *, live: str = "", remark: str = "") -> Rendered:
    """Returns the page.

    live: the version of the results, for a page that is served and follows them. remark: what applies to all of its values.
    """
    if study.labelled.empty:
        folders = [folder.path for folder in study.folders]
        text = _templates().get_template("empty.html").render(folders=folders, num_planned=len(study.planned or ()), live=live)
        return Rendered(text=text)
    compared = comparisons(study)
    # Checking every part of a chart against the schema takes a fifth of a page's time; tests/reports/test_page.py does it.
    with debug_mode(False):
        drawn = figures(study)
        trust = trust_section(study)
        probes = probe_tables(study)
    further, further_note = further_table(study)
    of_calibrators = {cell for part in trust if part.table for cells in part.table.cells for cell in cells}
    of_trust = [figure for part in trust for figure in part.figures]
    has_charts = any(figure.panels for figure in [*drawn, *of_trust, *_of_probes(probes)])
    statuses = study.labelled["status"].value_counts()
    evidence, on_merges = evidence_section(study), merge_verdict(study)
    answers = prose.answers(
        study,
        compared,
        [verdict for part in trust for verdict in part.verdicts],
        merges=on_merges,
        of_papers=evidence.answers if evidence else (),
    )
    text = _templates().get_template("page.html").render(
        live=live,
        title=", ".join(dict.fromkeys(study.labelled["study"])),
        remark=remark,
        headline=prose.headline(study),
        answers=answers,
        comparisons=compared,
        facts=prose.facts(study),
        commands=prose.commands(study),
        counts={status.value.lower(): int(statuses.get(status.value, 0)) for status in Status}
        | {"not started": prose.not_started(study)},
        summary=tables.summary_table(study, elsewhere=of_calibrators),
        # The table of calibrators has the same rows, compared.
        folds_summary=bool(trust) and study.calibrates_only and len(study.cells) > MAX_OPEN_SUMMARY,
        summary_note=prose.summary_note(study, calibrators_follow=bool(trust) and not study.calibrates_only),
        further=further,
        further_note=further_note,
        runs=tables.runs_table(study),
        num_runs=len(study.labelled),
        failures=tables.failures(study)[: tables.MAX_FAILURES],
        claims=claims_section(study),
        evidence=evidence,
        trust=trust,
        probes=probes,
        merges=merge_table(study),
        merges_verdict=on_merges,
        merges_note=NOTE,
        figures=drawn,
        gallery=gallery(study),
        symbols=palette.SYMBOLS,
        specs=[(str(folder.spec), text) for folder in study.folders if (text := _spec(folder))],
        terms=glossary.terms(
            [*study.measures, *(calibration_measures(study) if trust else []), *probe_measures(study)], set(study.cells["kind"])
        ),
        run_data=embeddable_json(run_data(study)),
        bundle=script_bundle() if has_charts else "",
    )
    return Rendered(text=text, answers=answers)


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("pruneyard.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _of_probes(probes: Sequence[ProbeTable]) -> list[Figure]:
    return [figure for each in probes for figure in each.figures]


def _spec(folder: RunFolder) -> str:
    if not folder.spec.is_file():
        return ""
    text = folder.spec.read_text(encoding="utf-8", errors="replace")
    return text if len(text) <= _MAX_SPEC else text[:_MAX_SPEC] + "\n# (cut here)"
