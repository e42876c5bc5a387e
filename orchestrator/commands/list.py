"""`pruneyard list`: lists plug-ins, metrics, specs and claims; imports neither ray nor torch."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile

import click
from rich.table import Table
from rich.text import Text

from pruneyard.orchestrator.commands.console import stdout_console
from pruneyard.orchestrator.spec.packaged import packaged_specs, packaged_text
from pruneyard.workloads.plugins import describe, is_family, kinds


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a listing."""

    name: str
    kind: str
    summary: str
    reference: str


def _methods() -> Iterator[Entry]:
    for kind in kinds():
        for found in describe(f"{kind}.methods") if is_family(f"{kind}.methods") else ():
            yield Entry(name=found.name, kind=kind, summary=found.summary, reference=found.reference)
    yield from _family("gradients", "gradient")  # gradient rules combine with any method, so they are listed as well


def _family(family: str, kind: str) -> Iterator[Entry]:
    for found in describe(family):
        yield Entry(name=found.name, kind=kind, summary=found.summary, reference=found.reference)


def _families(kind_of: Mapping[str, str]) -> Iterator[Entry]:
    for family, kind in kind_of.items():
        yield from _family(family, kind)


def _metrics() -> Iterator[Entry]:
    # Imported here, because the declaration of this verb needs the names of the topics only.
    from pruneyard.workloads.calibrate.members import UNCERTAINTY_METRICS
    from pruneyard.workloads.calibrate.set_metrics import SET_METRICS
    from pruneyard.workloads.distill.separation import SEPARATION_METRICS
    from pruneyard.workloads.metrics.binary import BINARY_METRICS
    from pruneyard.workloads.metrics.classification import (
        CALIBRATION_METRICS,
        MANY_CLASSES_METRICS,
        ROBUST_METRICS,
        STANDARD_METRICS,
        TRUTH_METRICS,
    )
    from pruneyard.workloads.metrics.detection import CORRECT_RATE_METRICS, DETECTION_METRICS
    from pruneyard.workloads.nodes.rare_metrics import RARE_METRICS
    from pruneyard.workloads.probe.metric_names import PROBE_METRICS

    for name, summary in (STANDARD_METRICS | MANY_CLASSES_METRICS).items():
        yield Entry(name=name, kind="metric", summary=summary, reference="val, calib and test")
    for name, summary in CALIBRATION_METRICS.items():
        yield Entry(name=name, kind="metric", summary=summary, reference="calibrate jobs")
    for name, summary in TRUTH_METRICS.items():
        yield Entry(name=name, kind="metric", summary=summary, reference="calibrate jobs on oracle data")
    for name, summary in BINARY_METRICS.items():
        yield Entry(name=name, kind="metric", summary=summary, reference="calibrate jobs with a positive class")
    for name, summary in SET_METRICS.items():
        yield Entry(name=name, kind="metric", summary=summary, reference="calibrate jobs with sets")
    for name, summary in ROBUST_METRICS.items():
        yield Entry(name=name, kind="metric", summary=summary, reference="test, of the finished network")
    for name, summary in SEPARATION_METRICS.items():
        yield Entry(name=name, kind="metric", summary=summary, reference="test, with evaluation.dd_ranking")
    for name, summary in UNCERTAINTY_METRICS.items():
        yield Entry(name=name, kind="metric", summary=summary, reference="test, of several members")
    for name, summary in RARE_METRICS.items():
        yield Entry(name=name, kind="metric", summary=summary, reference="jobs on nodes of two classes")
    for name, summary in DETECTION_METRICS.items():
        yield Entry(name=name, kind="metric", summary=summary, reference="ood: test against unknowns")
    for name, summary in CORRECT_RATE_METRICS.items():
        yield Entry(name=name, kind="metric", summary=summary, reference="ood, of calibrate jobs")
    for name, summary in PROBE_METRICS.items():
        yield Entry(name=name, kind="metric", summary=summary, reference="probe jobs")


def _specs() -> Iterator[Entry]:
    for name in packaged_specs():
        yield Entry(name=name, kind="spec", summary=_first_sentence(packaged_text(name)), reference=f"pruneyard run {name}")


def _first_sentence(spec: str) -> str:
    """Returns the comment at the top of a spec up to its first full stop, on one line."""
    comment = takewhile(lambda line: line.startswith("#"), spec.splitlines())
    text = " ".join(line.removeprefix("#").strip() for line in comment)
    return re.split(r"(?<=\.)\s", text, maxsplit=1)[0]  # the point of 0.02 is no full stop


def _claims() -> Iterator[Entry]:
    from pruneyard.reports.claims.reading import packaged_claims

    claims = packaged_claims()
    for name, source in claims.sources.items():
        numbers = [claim for claim in claims.values if claim.source == source]
        data = ", ".join(dict.fromkeys(claims.data[claim.data].title for claim in numbers))
        found = f"{len(numbers)} numbers on {data}" if numbers else "only gains over a base method"
        yield Entry(name=name, kind="claims", summary=f"{source.title}: {found}", reference=source.cite)


TOPICS = {
    "methods": _methods,
    "patterns": lambda: _family("sparse.patterns", "pattern"),
    "data": lambda: _families({"data.sources": "data", "nodes.sources": "graph"}),
    "selectors": lambda: _family("data.selectors", "selector"),
    "models": lambda: _families({"models": "model", "nodes.models": "model of nodes"}),
    "formats": lambda: _family("deploy.formats", "format"),
    "objectives": lambda: _families({"objectives": "objective", "nodes.objectives": "objective of nodes"}),
    "optimizers": lambda: _family("optimizers", "optimizer"),
    "schedules": lambda: _family("schedules", "schedule"),
    "scores": lambda: _family("calibrate.scores", "score"),
    "splits": lambda: _family("nodes.splits", "split of nodes"),
    "conformal": lambda: _family("calibrate.conformal", "conformal rule"),
    "metrics": _metrics,
    "specs": _specs,
    "claims": _claims,
}


def execute(topic: str | None, as_json: bool) -> int:
    """Prints one topic with summaries and references, or the names of all topics."""
    topics = [topic] if topic else list(TOPICS)
    if as_json:
        click.echo(json.dumps([asdict(entry) for name in topics for entry in TOPICS[name]()], indent=1))
        return 0
    console = stdout_console()
    if topic is not None:
        console.print(_details(topic, list(TOPICS[topic]())))
        return 0
    console.print(_overview())
    console.print("\nsummaries and references: pruneyard list TOPIC", highlight=False)
    return 0


def _details(topic: str, entries: Sequence[Entry]) -> Table:
    """Returns one row per entry; the kind has a column where entries differ in it."""
    has_kinds = len({entry.kind for entry in entries}) > 1
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in (topic, *["kind"] * has_kinds, "summary", "reference"):
        table.add_column(column)
    for entry in entries:
        cells = (entry.name, *[entry.kind] * has_kinds, entry.summary)
        table.add_row(*map(Text, cells), Text(entry.reference, style="dim"))
    return table


def _overview() -> Table:
    """Returns the names of every topic, with a row for each of its kinds."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("topic", "kind", "names"):
        table.add_column(column)
    for topic, entries_of in TOPICS.items():
        by_kind: dict[str, list[str]] = {}
        for entry in entries_of():
            by_kind.setdefault(entry.kind, []).append(entry.name)
        for place, (kind, names) in enumerate(by_kind.items()):
            table.add_row(topic if place == 0 else "", kind if len(by_kind) > 1 else "", Text(", ".join(names)))
    return table
