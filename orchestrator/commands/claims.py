"""`pruneyard claims`: what runs say about the claims of papers, with a verdict for each."""

import json
from collections.abc import Sequence

import click
import pandas as pd
from rich.table import Table
from rich.text import Text

from pruneyard.orchestrator.commands.console import stdout_console
from pruneyard.orchestrator.commands.report import check_folders
from pruneyard.orchestrator.errors import ExitCode, UsageError
from pruneyard.reports import formats
from pruneyard.reports.evidence.measured import Finding, findings
from pruneyard.reports.evidence.reading import packaged_evidence
from pruneyard.reports.evidence.section import comparison_text, confound_table, evidence_table
from pruneyard.reports.export import export
from pruneyard.reports.location import Location
from pruneyard.reports.study import Study
from pruneyard.workloads.user_code.nearest import nearest

COLUMNS = ("paper", "comparison", "measure", "difference", "seeds", "p", "mechanism", "verdict")
NUMBERS = ("difference", "seeds", "p")


def execute(folders: Sequence[Location], methods: Sequence[str], form: str | None, as_json: bool) -> int:
    """Say what the runs of one or more folders show of papers' claims: effects paired by seed, mechanisms, verdicts."""
    claims = packaged_evidence()
    known = list(dict.fromkeys(claim.method for claim in claims.claims))
    for name in methods:
        if name not in known:
            rule = f"it must be one of {', '.join(known)}{nearest(name, known)}"
            raise UsageError(f"--method {name}: is no method with a claim; {rule}")
    found = findings(Study.read(check_folders(folders)), claims)
    found = [each for each in found if not methods or each.claim.method in methods]
    if not found:
        specs = ", ".join(dict.fromkeys(claim.spec for claim in claims.claims if not methods or claim.method in methods))
        listed = ", ".join(map(str, folders))
        raise UsageError(f"{listed}: has no pair of settings that speaks to a claim; runs of these specs do: {specs}")
    table = evidence_table(found, claims)
    confounds = confound_table(claims, list(dict.fromkeys(each.claim.method for each in found)))
    if as_json:
        rows, facts = (json.loads(each.to_json(orient="records")) for each in (table, confounds))
        click.echo(json.dumps({"claims": rows, "confounds": facts}, indent=1))
    elif form is not None:
        click.echo(export(table, form), nl=False)
    else:
        stdout_console().print(_terminal_table(found))
        _print_published(found)
        _print_confounds(confounds)
    return ExitCode.FINISHED


def _terminal_table(found: Sequence[Finding]) -> Table:
    shown = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in COLUMNS:
        shown.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=name in NUMBERS)
    for each in found:
        effect = each.effect
        mean, half = formats.estimate(effect.difference, effect.low, effect.high)
        texts = [
            each.claim.method,
            comparison_text(each),
            each.claim.measure,
            f"{mean} ± {half}" if half else mean,
            str(effect.num_pairs),
            "" if pd.isna(effect.p_corrected) else f"{effect.p_corrected:.2g}",
            {True: "acts", False: "inert", None: "unclear"}[each.acts],
            "; ".join([each.judgement.verdict.value, *each.judgement.reasons]),
        ]
        shown.add_row(*(Text(text) for text in texts))
    return shown


def _print_published(found: Sequence[Finding]) -> None:
    """Prints what the papers report on each claim, in which set-up, and how sure that is."""
    click.echo("\nWhat the papers report (all numbers of the runs: --format markdown):")
    told = [
        f"- {each.claim.method}, {each.claim.measure}: {each.claim.published.text} [{each.claim.published.tag}]; "
        f"{each.claim.published.protocol}"
        for each in found
    ]
    for line in dict.fromkeys(told):
        click.echo(line)


def _print_confounds(confounds: pd.DataFrame) -> None:
    """Prints what weakens the published comparisons, with its source."""
    if not confounds.empty:
        click.echo("\nWhat weakens the published comparisons:")
    for row in confounds.itertuples():
        click.echo(f"- {row.method}: {row.fact} [{row.tag}, {row.source}]")
