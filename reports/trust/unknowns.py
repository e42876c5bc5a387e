"""How well scores tell unknown inputs, by score and by near and far sets; and how well sets of classes keep their promise."""

from __future__ import annotations

from collections.abc import Sequence

from reports.glossary import LARGER_IS_BETTER
from reports.statistics import clearly_best
from reports.study import Study
from reports.tables import Table, Value
from reports.trust.calibrators import num_rows, shown
from reports.trust.judged import Interval, Judged, mean_of

PARTS = {"ood.near": "near", "ood.far": "far", "ood": "all"}
"""Splits of means over unknown sets, and what they are called."""
_OF, _CALIBRATOR = "of", "calibrator"
_DETECTION = ("auroc", "fpr95")
_SETS = ("coverage", "set_size", "singleton_rate", "empty_rate", "coverage_of_worst_class")
CONFIDENCE = "confidence"
"""The score that every run has: the largest probability after calibration."""


def split_and_score(split: str) -> tuple[str, str]:
    """`ood.far@energy` as `ood.far` and `energy`; without a score it is the calibrated confidence."""
    name, _, score = split.partition("@")
    return name, score or CONFIDENCE


def detection_table(study: Study, cells: Sequence[Judged], *, each_set: bool) -> Table | None:
    """One row for each cell and score: the means over near and far sets, or every set; None where nothing was detected."""
    cells = [cell for cell in cells if scores_of(study, cell)]
    splits = _splits(study, cells, each_set=each_set)
    if not splits:
        return None
    names = _name_headers(cells)
    headers = [*names, "score", "seeds", "n known"]
    headers += [f"{_called(split)} {name}" for split in splits for name in _DETECTION]
    rows = []
    for cell in cells:
        scores = scores_of(study, cell)
        columns = {}
        for split in splits:
            for name in _DETECTION:
                columns[split, name] = _column(study, cell, scores, split, name)
        for place, score in enumerate(scores):
            row = _labels(cell, names, part=score)
            rows.append([*row, *(values[place] for values in columns.values())])
    return Table(headers=headers, num_labels=len(names) + 1, rows=rows)


def _name_headers(cells: Sequence[Judged]) -> list[str]:
    """Of the columns that tell cells apart, as far as any are needed."""
    parents = any(cell.parent for cell in cells)
    calibrators = len({cell.calibrator for cell in cells}) > 1
    return [*([_OF] if parents else []), *([_CALIBRATOR] if calibrators else [])]


def _labels(cell: Judged, names: Sequence[str], *, part: str) -> list[Value]:
    """A row's first values: the cell's names, the score or rule, and how many seeds and rows it was judged on."""
    texts = {_OF: cell.parent, _CALIBRATOR: cell.calibrator}
    own = [part, str(cell.runs["outer"].nunique()), num_rows(cell)]
    return [Value(text=text) for text in [*(texts[name] for name in names), *own]]


def _called(split: str) -> str:
    return PARTS.get(split, split.removeprefix("ood."))


def _measures(study: Study, cell: Judged) -> set[str]:
    table = study.by_run.reindex(cell.runs.index)
    return set(table.columns[table.notna().any()])


def scores_of(study: Study, cell: Judged) -> list[str]:
    """The scores that the cell has a detection metric of, the confidence first."""
    splits = {measure.partition("/")[0] for measure in _measures(study, cell)}
    found = {score for name, score in map(split_and_score, splits) if name.partition(".")[0] == "ood"}
    return sorted(found, key=lambda score: (score != CONFIDENCE, score))


def _splits(study: Study, cells: Sequence[Judged], *, each_set: bool) -> list[str]:
    found = {
        split_and_score(split)[0]
        for cell in cells
        for split, _, name in (measure.partition("/") for measure in _measures(study, cell))
        if split.startswith("ood") and name in _DETECTION
    }
    if each_set:
        return sorted(found - PARTS.keys())
    means = [split for split in PARTS if split in found]
    return [split for split in means if split != "ood"] or means


def _column(study: Study, cell: Judged, scores: Sequence[str], split: str, name: str) -> list[Value]:
    """One metric of all scores of a cell; bold is one that lies clear of all others."""
    intervals = [
        mean_of(study, cell, f"{split}{'' if score == CONFIDENCE else f'@{score}'}/{name}")
        for score in scores
    ]
    best = clearly_best(
        [low for _, low, _ in intervals],
        [high for *_, high in intervals],
        larger_is_better=LARGER_IS_BETTER[name],
    )
    return [_value(interval, is_best=place == best) for place, interval in enumerate(intervals)]


def _value(interval: Interval, *, is_best: bool = False) -> Value:
    text, half = shown(interval)
    return Value(text=text, half=half, is_best=is_best)


def coverage_table(study: Study, cells: Sequence[Judged]) -> Table | None:
    """One row for each cell and rule: coverage beside what was promised; None where no run made sets."""
    cells = [cell for cell in cells if cell.alphas]
    if not cells:
        return None
    names = _name_headers(cells)
    headers = [*names, "rule", "seeds", "n", "promised"]
    headers += [name.replace("_", " ") for name in _SETS]
    rows = []
    for cell in cells:
        for rule, alpha in cell.alphas.items():
            row = [
                *_labels(cell, names, part=rule),
                Value(text=f"{1 - alpha:g}"),
                _coverage(mean_of(study, cell, f"sets@{rule}/coverage"), 1 - alpha),
            ]
            rows.append([*row, *(_value(mean_of(study, cell, f"sets@{rule}/{name}")) for name in _SETS[1:])])
    return Table(headers=headers, num_labels=len(names) + 1, rows=rows)


def _coverage(interval: Interval, promised: float) -> Value:
    """Red where the whole interval lies below the promise."""
    text, half = shown(interval)
    return Value(text=text, half=half, tone="bad" if interval[2] < promised else "")
