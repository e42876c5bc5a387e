"""Tables of OOD detection, by score and by near and far OOD sets, and of the coverage of prediction sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from pruneyard.reports import formats, series
from pruneyard.reports.glossary import LARGER_IS_BETTER, title
from pruneyard.reports.statistics.intervals import clearly_best
from pruneyard.reports.study import Study
from pruneyard.reports.tables import Table, Value
from pruneyard.reports.trust.calibrated_cells import NEUTRAL, CalibratedCell, Interval, mean_of
from pruneyard.reports.trust.calibrators import num_rows, shown

PARTS = {"ood.near": "near", "ood.far": "far", "ood": "all"}
"""Display names of the splits that are means over OOD sets."""
_INPUT, _CALIBRATOR = "input", "calibrator"
_DETECTION = ("auroc", "fpr95")
_CCR = "ccr_10"
_SETS = ("coverage", "set_size", "singleton_rate", "empty_rate", "coverage_of_worst_class")
CONFIDENCE = "confidence"
"""The score that every run has: the largest class probability after calibration."""
MSP = "msp"
"""The largest class probability of the network itself: equal to the confidence under calibrator `none`."""
ANY = "any"


def split_and_score(split: str) -> tuple[str, str]:
    """Splits `ood.far@energy` into `ood.far` and `energy`; a name without a score stands for the calibrated confidence."""
    name, _, score = split.partition("@")
    return name, score or CONFIDENCE


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Detection results of one score on the same input runs. Calibrators under which its values are equal share one entry."""

    score: str
    cells: Sequence[CalibratedCell]

    @property
    def calibrator(self) -> str:
        """Name of the calibrator; `any` if the score is the same under several calibrators."""
        return self.cells[0].calibrator if len(self.cells) == 1 else ANY


def detections(study: Study, cells: Sequence[CalibratedCell]) -> list[Detection]:
    """Returns all detections, grouped by input; in each group the confidence under every calibrator, then the other scores.

    Most scores use the outputs of the network before calibration. A score with the same values under several calibrators
    is listed once.
    """
    found: dict[tuple[object, ...], list[CalibratedCell]] = {}
    for cell in cells:
        for score in scores_of(study, cell):
            found.setdefault((cell.base, score, *_fingerprint(study, cell, score)), []).append(cell)
    bases = list(dict.fromkeys(cell.base for cell in cells))
    # The largest probability of the network is its confidence without calibration, which has a row of its own.
    with_confidence = {cell.base for cell in cells if cell.calibrator == NEUTRAL and CONFIDENCE in scores_of(study, cell)}
    found_detections = [
        Detection(score=str(key[1]), cells=own)
        for key, own in found.items()
        if not (key[1] == MSP and key[0] in with_confidence)
    ]

    def order(detection: Detection) -> tuple[int, bool, str, bool]:
        first = detection.cells[0]
        is_calibrated = first.calibrator != NEUTRAL
        return bases.index(first.base), detection.score != CONFIDENCE, _name(detection.score), is_calibrated

    return sorted(found_detections, key=order)


def _name(score: str) -> str:
    return "" if score == CONFIDENCE else score


def _fingerprint(study: Study, cell: CalibratedCell, score: str) -> tuple[object, ...]:
    """Returns all detection values of a score on the runs of a cell; equal for equal scores."""
    measures = sorted(each for each in _measures(study, cell) if _is_of(each, score))
    runs = cell.runs.sort_values(["parent_key", "seed"], kind="stable")
    values = study.by_run.reindex(runs.index)[measures].to_numpy(dtype="float64")
    named = zip(runs["parent_key"], runs["seed"], strict=True)
    # As bytes, because NaN is unequal to itself and missing values must count as equal.
    return (cell.calibrator if score == CONFIDENCE else "", tuple(measures), tuple(named), values.tobytes())


def _is_of(measure: str, score: str) -> bool:
    split = measure.partition("/")[0]
    return split.partition("@")[0].partition(".")[0] == "ood" and split_and_score(split)[1] == score


def detection_table(study: Study, cells: Sequence[CalibratedCell], *, each_set: bool) -> Table | None:
    """Returns one row per detection, with means over near and far sets or with every set; None without detection metrics."""
    cells = [cell for cell in cells if scores_of(study, cell)]
    splits = _splits(study, cells, each_set=each_set)
    if not splits:
        return None
    names = _name_headers(cells)
    headers = [*names, "score", "seeds", "in-distribution samples", "OOD samples"]
    counts = _ood_counts(study)
    # Folders of earlier versions lack the correct classification rate.
    metrics = [*_DETECTION, *([_CCR] if any(str(measure).endswith(f"/{_CCR}") for measure in study.by_run) else [])]
    headers += [f"{_split_title(cells, split)} {title(name)}" for split in splits for name in metrics]
    changes = any(_accuracy(found.score) in study.by_run for found in detections(study, cells))
    headers += ["accuracy of the changed network"] if changes else []
    columns = [(split, name) for split in splits for name in metrics]
    best = {(cell.cell, *column): _best(study, cell, *column) for cell in cells for column in columns}
    rows, of_rows = [], []
    for found in detections(study, cells):
        of_rows.append([cell.cell for cell in found.cells])
        row = _labels(found.cells[0], names, part=found.score, calibrator=found.calibrator)
        row.append(_num_ood(found.cells[0], counts, each_set=each_set))
        for column in columns:
            interval = mean_of(study, found.cells[0], _measure(found.score, *column))
            # An entry may stand for several calibrators, each with its own competing confidence.
            is_best = all(best[cell.cell, *column] == found.score for cell in found.cells)
            row.append(_value(interval, is_best=is_best))
        row += [_changed(mean_of(study, found.cells[0], _accuracy(found.score)))] if changes else []
        rows.append(row)
    return Table(headers=headers, num_labels=len(names) + 1, rows=rows, cells=of_rows).without_empty_columns()


def _ood_counts(study: Study) -> pd.DataFrame:
    """Returns the number of inputs of every OOD set by run: columns `run_key, split, count`; empty where no run recorded any."""
    points = series.last_points(study.curves, "score")
    points = points[points["key"].str.startswith("ood.") & ~points["key"].str.contains("@")]
    return points.groupby(["run_key", "key"])["count"].sum().rename_axis(["run_key", "split"]).reset_index()


def _num_ood(cell: CalibratedCell, counts: pd.DataFrame, *, each_set: bool) -> Value:
    """Returns how many inputs the OOD sets of a run have: of each set, or of the near and of the far ones together."""
    own = counts[counts["run_key"].isin(cell.runs.index)]
    if own.empty:
        return Value(text=formats.number(None))
    # Every seed is evaluated on the same sets.
    sizes = own.groupby("split")["count"].max()
    groups = [set_name([cell], str(split)) if each_set else cell.parts.get(str(split), "all") for split in sizes.index]
    totals = sizes.groupby(groups, sort=False).sum()
    if len(totals) == 1:
        return Value(text=f"{int(totals.iloc[0]):,}")
    return Value(text=", ".join(f"{name} {int(count):,}" for name, count in totals.items()))


def _accuracy(score: str) -> str:
    """Returns the measure of the in-distribution accuracy of the network as a score changes it; few scores have it."""
    return f"test@{score}/accuracy"


def _changed(interval: Interval) -> Value:
    return Value(text="–") if math.isnan(interval[0]) else _value(interval)  # noqa: RUF001


def _name_headers(cells: Sequence[CalibratedCell]) -> list[str]:
    """Returns the headers of the columns that distinguish the cells; empty if none are needed."""
    parents = any(cell.parent for cell in cells)
    calibrators = len({cell.calibrator for cell in cells}) > 1
    return [*([_INPUT] if parents else []), *([_CALIBRATOR] if calibrators else [])]


def _labels(cell: CalibratedCell, names: Sequence[str], *, part: str, calibrator: str) -> list[Value]:
    """Returns the first values of a row: the cell's names, the score or rule, and its numbers of seeds and test samples."""
    texts = {_INPUT: cell.parent, _CALIBRATOR: calibrator}
    own = [part, str(cell.runs["outer"].nunique()), num_rows(cell)]
    return [Value(text=text) for text in [*(texts[name] for name in names), *own]]


def _split_title(cells: Sequence[CalibratedCell], split: str) -> str:
    return PARTS.get(split) or set_name(cells, split)


def set_name(cells: Sequence[CalibratedCell], split: str) -> str:
    """Returns `near: svhn` for `ood.svhn` if the spec lists it as a near set, likewise for far sets; otherwise `svhn`."""
    parts = dict.fromkeys(part for cell in cells for part in (cell.parts.get(split),) if part is not None)
    return f"{', '.join([*parts])}: {split.removeprefix('ood.')}" if parts else split.removeprefix("ood.")


def _measures(study: Study, cell: CalibratedCell) -> set[str]:
    table = study.by_run.reindex(cell.runs.index)
    return set(table.columns[table.notna().any()])


def scores_of(study: Study, cell: CalibratedCell) -> list[str]:
    """Returns the scores for which the cell has a detection metric, the confidence first."""
    splits = {measure.partition("/")[0] for measure in _measures(study, cell)}
    found = {score for name, score in map(split_and_score, splits) if name.partition(".")[0] == "ood"}
    return sorted(found, key=lambda score: (score != CONFIDENCE, score))


def _splits(study: Study, cells: Sequence[CalibratedCell], *, each_set: bool) -> list[str]:
    found = {
        split_and_score(split)[0]
        for cell in cells
        for split, _, name in (measure.partition("/") for measure in _measures(study, cell))
        if split.startswith("ood") and name in _DETECTION
    }
    if each_set:
        return sorted(found - PARTS.keys(), key=lambda split: (set_name(cells, split).startswith("far: "), split))
    means = [split for split in PARTS if split in found]
    # The mean over all sets only where none is known to be near or far.
    return [split for split in means if split != "ood"] or means


def _measure(score: str, split: str, name: str) -> str:
    return f"{split}{'' if score == CONFIDENCE else f'@{score}'}/{name}"


def _best(study: Study, cell: CalibratedCell, split: str, name: str) -> str | None:
    """Returns the score that is clearly better than all other scores of the cell, or None."""
    scores = scores_of(study, cell)
    intervals = [mean_of(study, cell, _measure(score, split, name)) for score in scores]
    place = clearly_best(
        [low for _, low, _ in intervals],
        [high for *_, high in intervals],
        larger_is_better=LARGER_IS_BETTER[name],
    )
    return None if place is None else scores[place]


def _value(interval: Interval, *, is_best: bool = False) -> Value:
    text, half = shown(interval)
    return Value(text=text, half=half, is_best=is_best)


def coverage_table(study: Study, cells: Sequence[CalibratedCell]) -> Table | None:
    """Returns one row per cell and conformal rule with coverage and target coverage; None if no run made prediction sets."""
    cells = [cell for cell in cells if cell.alphas]
    if not cells:
        return None
    names = _name_headers(cells)
    headers = [*names, "conformal rule", "seeds", "samples", "target coverage"]
    headers += [title(name) for name in _SETS]
    rows, of_rows = [], []
    for cell in cells:
        of_rows += [[cell.cell]] * len(cell.alphas)
        for rule, alpha in cell.alphas.items():
            row = [
                *_labels(cell, names, part=rule, calibrator=cell.calibrator),
                Value(text=f"{1 - alpha:g}"),
                _coverage(mean_of(study, cell, f"sets@{rule}/coverage"), 1 - alpha),
            ]
            rows.append([*row, *(_value(mean_of(study, cell, f"sets@{rule}/{name}")) for name in _SETS[1:])])
    return Table(headers=headers, num_labels=len(names) + 1, rows=rows, cells=of_rows).without_empty_columns()


def _coverage(interval: Interval, target: float) -> Value:
    """Returns the coverage, in red if its whole interval lies below the target."""
    text, half = shown(interval)
    return Value(text=text, half=half, tone="bad" if interval[2] < target else "")
