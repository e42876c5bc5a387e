"""The part of the page on calibrate jobs: how far confidences, scores of unknown inputs and sets of classes can be relied on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pruneyard.reports.charts import trust as charts
from pruneyard.reports.charts.figure import Figure
from pruneyard.reports.charts.scores import score_distributions
from pruneyard.reports.study import Study
from pruneyard.reports.tables import Table
from pruneyard.reports.trust.calibrators import contests, ranking_table
from pruneyard.reports.trust.judged import NEUTRAL, Judged, judged, side_by_side
from pruneyard.reports.trust.unknowns import coverage_table, detection_table

_RANKED_NOTE = (
    "Mean over seeds ± half the 95% t interval on the test split. The noise floor is the ece that a perfectly calibrated network "
    "with the same confidences would show on as many samples in the same bins. Small print: the difference to {neutral} on the "
    "same runs, paired by seed, with its 95% interval, which is not corrected for many comparisons. Bold: the interval lies "
    "beyond those of all other calibrators on these runs. {order}"
)
_SPLITS = ("sets@", "ood", "fit/", "fit@")
_ORDER = "Rows stand by mean nll, the lowest first."
_NO_ORDER = "Rows with a single seed are not ranked, and nothing is bold."


@dataclass(frozen=True, kw_only=True)
class Part:
    """A heading, a table with a note, figures, and a table that is folded at first; any may be missing."""

    title: str
    table: Table | None
    note: str
    figures: Sequence[Figure]
    folded: Table | None = None
    folded_title: str = ""


def trust_section(study: Study) -> list[Part]:
    """The parts that the study has rows for; none without completed calibrate runs."""
    cells = side_by_side(judged(study))
    return list(_parts(study, cells)) if cells else []


def trusted(study: Study) -> list[str]:
    """The measures beside those of the summary that such runs report: of sets, of unknown inputs, of what was fitted."""
    return sorted(measure for measure in set(study.finals["measure"]) if measure.startswith(_SPLITS))


def _parts(study: Study, cells: Sequence[Judged]) -> Iterator[Part]:
    found = contests(study, cells)
    note = _RANKED_NOTE.format(
        neutral=NEUTRAL, order=_ORDER if all(each.is_ranked for each in found) else _NO_ORDER
    )
    yield Part(
        title="Calibrators",
        table=ranking_table(study, found),
        note=note,
        figures=[*charts.before_and_after(study, found), *charts.risk_over_coverage(study, found)],
    )
    if table := detection_table(study, cells, each_set=False):
        yield Part(
            title="Unknown inputs",
            table=table,
            note="Each set of unknown inputs against the test split, then the mean over the near and over the far sets, or over "
            "all; mean over seeds ± half the 95% t interval. fpr95: unknown inputs accepted where 95% of the known ones are. "
            "Calibrator any: the score is the same whatever the calibrator. Bold: the interval lies beyond those of all other "
            "scores of the same runs.",
            figures=score_distributions(study, cells),
            folded=detection_table(study, cells, each_set=True),
            folded_title="Every set of unknown inputs",
        )
    if table := coverage_table(study, cells):
        yield Part(
            title="Sets of classes",
            table=table,
            note="Sets that hold the label of a test sample with the promised probability, made on one half of the held-out rows "
            "after the calibrator was fitted on the other. The promise holds on average over draws of held-out and test rows, "
            "not for every split. Red: the whole interval lies below it.",
            figures=charts.set_sizes(study, cells),
        )
