"""How well scores tell unknown inputs, by score and by near and far sets; and how well sets of classes keep their promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruneyard.reports.glossary import LARGER_IS_BETTER
from pruneyard.reports.statistics import clearly_best
from pruneyard.reports.study import Study
from pruneyard.reports.tables import Table, Value
from pruneyard.reports.trust.calibrators import num_rows, shown
from pruneyard.reports.trust.judged import NEUTRAL, Interval, Judged, mean_of

PARTS = {"ood.near": "near", "ood.far": "far", "ood": "all"}
"""Splits of means over unknown sets, and what they are called."""
_OF, _CALIBRATOR = "of", "calibrator"
_DETECTION = ("auroc", "fpr95")
_SETS = ("coverage", "set_size", "singleton_rate", "empty_rate", "coverage_of_worst_class")
CONFIDENCE = "confidence"
"""The score that every run has: the largest probability after calibration."""
ANY = "any"


def split_and_score(split: str) -> tuple[str, str]:
    """`ood.far@energy` as `ood.far` and `energy`; without a score it is the calibrated confidence."""
    name, _, score = split.partition("@")
    return name, score or CONFIDENCE


@dataclass(frozen=True, kw_only=True)
class Detection:
    """What one score told on the same earlier runs. `cells` are several where it is the same under each of their calibrators."""

    score: str
    cells: Sequence[Judged]

    @property
    def calibrator(self) -> str:
        """By which the score was calibrated, `any` where it makes no difference."""
        return self.cells[0].calibrator if len(self.cells) == 1 else ANY


def detections(study: Study, cells: Sequence[Judged]) -> list[Detection]:
    """One kind of earlier run after the other; of each the confidence under every calibrator, then the other scores.

    Most scores look at what the network said before it was calibrated. Where one has the same values under several
    calibrators, it comes once.
    """
    found: dict[tuple[object, ...], list[Judged]] = {}
    for cell in cells:
        for score in scores_of(study, cell):
            found.setdefault((cell.base, score, *_said(study, cell, score)), []).append(cell)
    bases = list(dict.fromkeys(cell.base for cell in cells))
    each = [Detection(score=str(key[1]), cells=own) for key, own in found.items()]

    def place(detection: Detection) -> tuple[int, bool, str, bool]:
        first = detection.cells[0]
        by_hand = first.calibrator != NEUTRAL
        return bases.index(first.base), detection.score != CONFIDENCE, _name(detection.score), by_hand

    return sorted(each, key=place)


def _name(score: str) -> str:
    return "" if score == CONFIDENCE else score


def _said(study: Study, cell: Judged, score: str) -> tuple[object, ...]:
    """All that a score has to say of the runs of a cell; equal for equal scores."""
    measures = sorted(each for each in _measures(study, cell) if _is_of(each, score))
    runs = cell.runs.sort_values(["parent_key", "seed"], kind="stable")
    values = study.by_run.reindex(runs.index)[measures].to_numpy(dtype="float64")
    named = zip(runs["parent_key"], runs["seed"], strict=True)
    return (cell.calibrator if score == CONFIDENCE else "", tuple(measures), tuple(named), values.tobytes())


def _is_of(measure: str, score: str) -> bool:
    split = measure.partition("/")[0]
    return split.partition("@")[0].partition(".")[0] == "ood" and split_and_score(split)[1] == score


def detection_table(study: Study, cells: Sequence[Judged], *, each_set: bool) -> Table | None:
    """One row for each detection: the means over near and far sets, or every set; None where nothing was detected."""
    cells = [cell for cell in cells if scores_of(study, cell)]
    splits = _splits(study, cells, each_set=each_set)
    if not splits:
        return None
    names = _name_headers(cells)
    headers = [*names, "score", "seeds", "n known"]
    headers += [f"{_called(cells, split)} {name}" for split in splits for name in _DETECTION]
    columns = [(split, name) for split in splits for name in _DETECTION]
    best = {(cell.cell, *column): _best(study, cell, *column) for cell in cells for column in columns}
    rows = []
    for found in detections(study, cells):
        row = _labels(found.cells[0], names, part=found.score, calibrator=found.calibrator)
        for column in columns:
            interval = mean_of(study, found.cells[0], _measure(found.score, *column))
            is_best = all(best[cell.cell, *column] == found.score for cell in found.cells)
            row.append(_value(interval, is_best=is_best))
        rows.append(row)
    return Table(headers=headers, num_labels=len(names) + 1, rows=rows)


def _name_headers(cells: Sequence[Judged]) -> list[str]:
    """Of the columns that tell cells apart, as far as any are needed."""
    parents = any(cell.parent for cell in cells)
    calibrators = len({cell.calibrator for cell in cells}) > 1
    return [*([_OF] if parents else []), *([_CALIBRATOR] if calibrators else [])]


def _labels(cell: Judged, names: Sequence[str], *, part: str, calibrator: str) -> list[Value]:
    """A row's first values: the cell's names, the score or rule, and how many seeds and rows it was judged on."""
    texts = {_OF: cell.parent, _CALIBRATOR: calibrator}
    own = [part, str(cell.runs["outer"].nunique()), num_rows(cell)]
    return [Value(text=text) for text in [*(texts[name] for name in names), *own]]


def _called(cells: Sequence[Judged], split: str) -> str:
    return PARTS.get(split) or set_name(cells, split)


def set_name(cells: Sequence[Judged], split: str) -> str:
    """`near: svhn` of `ood.svhn` where it was named as a near set, likewise far; else `svhn`."""
    parts = dict.fromkeys(part for cell in cells for part in (cell.parts.get(split),) if part is not None)
    return f"{', '.join([*parts])}: {split.removeprefix('ood.')}" if parts else split.removeprefix("ood.")


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
        return sorted(found - PARTS.keys(), key=lambda split: (set_name(cells, split).startswith("far: "), split))
    means = [split for split in PARTS if split in found]
    return [split for split in means if split != "ood"] or means


def _measure(score: str, split: str, name: str) -> str:
    return f"{split}{'' if score == CONFIDENCE else f'@{score}'}/{name}"


def _best(study: Study, cell: Judged, split: str, name: str) -> str | None:
    """The score of a cell that lies clear of all its others."""
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
                *_labels(cell, names, part=rule, calibrator=cell.calibrator),
                Value(text=f"{1 - alpha:g}"),
                _coverage(mean_of(study, cell, f"sets@{rule}/coverage"), 1 - alpha),
            ]
            rows.append([*row, *(_value(mean_of(study, cell, f"sets@{rule}/{name}")) for name in _SETS[1:])])
    return Table(headers=headers, num_labels=len(names) + 1, rows=rows)


def _coverage(interval: Interval, promised: float) -> Value:
    """Red where the whole interval lies below the promise."""
    text, half = shown(interval)
    return Value(text=text, half=half, tone="bad" if interval[2] < promised else "")
