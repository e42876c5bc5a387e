"""The section of the page on calibrate jobs: calibration, out-of-distribution (OOD) detection and prediction sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pruneyard.reports.charts import trust as charts
from pruneyard.reports.charts.figure import Figure
from pruneyard.reports.charts.scores import score_distributions
from pruneyard.reports.study import Study
from pruneyard.reports.tables import Table
from pruneyard.reports.trust.calibrated_cells import (
    NEUTRAL,
    CalibratedCell,
    calibrated_cells,
    grouped_by_input,
)
from pruneyard.reports.trust.calibrators import comparisons, ranking_table
from pruneyard.reports.trust.detection import coverage_table, detection_table
from pruneyard.reports.trust.verdicts import Verdict, verdicts

_RANKED_NOTE = (
    "Test split, mean over seeds ± half width of the 95% t interval. The noise floor is the ECE that a perfectly calibrated "
    "network with the same confidences would show on as many samples in the same bins; below it, the ECE that such a network "
    "exceeds in 5% of cases. Second line: difference to calibrator "
    "{neutral} on the same runs, paired by seed, with its 95% interval (not corrected for multiple comparisons). Bold: the "
    "interval lies beyond those of all other calibrators on these runs. {order}"
)
_SPLITS = ("sets@", "ood", "fit/", "fit@", "test@")
_ORDER = "Rows are sorted by mean NLL on held-out samples that are not the test split ({measures}), lowest first."
_NO_ORDER = "Rows are not ranked: some have a single seed, or no split beside the test split to choose by."


@dataclass(frozen=True, kw_only=True)
class Part:
    """One subsection: a heading, verdicts, a table with a note, figures, and a collapsed table."""

    title: str
    table: Table | None
    note: str
    figures: Sequence[Figure]
    folded: Table | None = None
    folded_title: str = ""
    verdicts: Sequence[Verdict] = ()


def trust_section(study: Study) -> list[Part]:
    """Returns the subsections that the study has data for; an empty list without completed calibrate runs."""
    cells = grouped_by_input(calibrated_cells(study))
    return list(_parts(study, cells)) if cells else []


def calibration_measures(study: Study) -> list[str]:
    """Returns the measures of calibrate runs outside the summary: of prediction sets, OOD inputs and fitted calibrators."""
    return sorted(measure for measure in set(study.finals["measure"]) if measure.startswith(_SPLITS))


def _parts(study: Study, cells: Sequence[CalibratedCell]) -> Iterator[Part]:
    found = comparisons(study, cells)
    measures = sorted({each.chosen_by for each in found if each.chosen_by is not None})
    is_ranked = all(each.is_ranked for each in found)
    order = _ORDER.format(measures=" or ".join(measures)) if is_ranked else _NO_ORDER
    note = _RANKED_NOTE.format(neutral=NEUTRAL, order=order)
    yield Part(
        title="Calibrators",
        table=ranking_table(study, found),
        note=note,
        figures=[*charts.before_and_after(study, found), *charts.risk_coverage(study, found)],
        verdicts=verdicts(study, found),
    )
    if table := detection_table(study, cells, each_set=False):
        of_sets = detection_table(study, cells, each_set=True)
        # Where each mean is over one set, both tables have the same numbers, and that of the sets names them.
        same = of_sets is not None and of_sets.rows == table.rows
        yield Part(
            title="Out-of-distribution detection",
            table=of_sets if same else table,
            note="Each OOD set is compared with the test split, then averaged over the near sets and over the far sets, or over "
            "all; mean over seeds ± half width of the 95% t interval. FPR95: fraction of OOD inputs accepted at the threshold "
            "that accepts 95% of the in-distribution inputs. CCR: fraction of the in-distribution inputs that are classified "
            "correctly and accepted where 10% of the OOD inputs are. Scores that change activations or weights have the accuracy "
            "of the changed network on the test split. Calibrator 'any': the score does not depend on the calibrator; msp is the "
            "confidence of calibrator none. "
            "Bold: the interval lies beyond those of all other scores of the same runs.",
            figures=score_distributions(study, cells),
            folded=None if same else of_sets,
            folded_title="Results for each OOD set",
        )
    if table := coverage_table(study, cells):
        yield Part(
            title="Conformal prediction sets",
            table=table,
            note="A prediction set contains the label of a test sample with the target probability. Thresholds are fitted on "
            "one half of the held-out samples, the calibrator on the other. The guarantee holds on average over draws of "
            "held-out and test samples, not for every split. Red: the whole interval lies below the target.",
            figures=charts.set_sizes(study, cells),
        )
