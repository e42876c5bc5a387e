"""The tables of the page as formatted text: the summary, the runs, the failures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from pruneyard.reports import formats
from pruneyard.reports.glossary import FURTHER_MEASURES, LARGER_IS_BETTER, cost_names, measure_title
from pruneyard.reports.records import Status
from pruneyard.reports.row_intervals import in_words as interval_words
from pruneyard.reports.statistics.intervals import clearly_best
from pruneyard.reports.study import CALIBRATE, FOLDER, Study, in_words

MAX_ROWS = 1000
"""Rows of one table on the page; a browser needs seconds for more, and `pruneyard export` writes all."""
MAX_FIRST = 80
"""Rows of a long table that are part of the page from the start."""
RUNS = "runs"
"""The table of runs, whose rows the page makes from its data where scripts are on."""
MAX_RUNS = 100
"""Runs in the table of runs where scripts are off; with scripts it has all of them."""
MAX_FAILURES = 20
_MISSING_LABEL = "–"  # noqa: RUF001
_EMPTY = ("", "n/a", _MISSING_LABEL)
_MAX_TRACEBACK = 20_000
_CHARACTER = 0.54  # rem; width of a digit in the font of the table
_BOLD_CHARACTER = 0.66  # rem
_PADDING = 1.4  # rem; left and right padding of a table cell together
_WIDER = 0.5  # by this share of a character m and w are wider
_MAX_CHARACTERS = 28
_MIN_REMARK = 22  # characters in a line of a remark below a label; row headers have none
_MAX_FROZEN = 30.0  # rem
_COSTS: dict[str, Callable[[float | None], str]] = {
    "num_active": formats.amount,
    "train_flops": formats.amount,
    "train_s": formats.duration,
}


@dataclass(frozen=True, kw_only=True)
class Value:
    """One table entry: a text, the half width of its interval, a remark below, and whether it is clearly the best.

    `tone` colours the text: good, bad or quiet.
    """

    text: str
    half: str = ""
    remark: str = ""
    is_best: bool = False
    tone: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Headers and rows. The first `num_labels` columns identify the row; `texts` are the other columns that hold words.

    `cells` are the cells of `Study.cells` that each row is about, the first of which a click opens; `name` is an identifier.
    """

    headers: Sequence[str]
    num_labels: int
    rows: Sequence[Sequence[Value]]
    texts: Collection[int] = ()
    cells: Sequence[Sequence[int]] = ()
    name: str = ""

    def without_empty_columns(self) -> Table:
        """Returns the table without the columns that have no value in any row; of the labels at least the last one stays."""
        if not self.rows:
            return self
        filled = [any(row[place].text not in _EMPTY for row in self.rows) for place in range(len(self.headers))]
        labels = [place for place in range(self.num_labels) if filled[place]] or [self.num_labels - 1]
        kept = [*labels, *(place for place in range(self.num_labels, len(self.headers)) if filled[place])]
        return replace(
            self,
            headers=[self.headers[place] for place in kept],
            num_labels=len(labels),
            rows=[[row[place] for place in kept] for row in self.rows],
            texts={new for new, place in enumerate(kept) if place in self.texts},
        )

    @property
    def shown(self) -> Sequence[Sequence[Value]]:
        """The rows that the page shows."""
        return self.rows[:MAX_ROWS]

    @property
    def num_first(self) -> int:
        """The number of rows that a browser lays out at once. It reads the others when they are asked for, or scripts are off."""
        if self.name == RUNS:
            return 0
        return len(self.shown) if len(self.shown) <= MAX_FIRST + MAX_FIRST // 4 else MAX_FIRST

    @property
    def frozen(self) -> list[tuple[float, float]]:
        """Returns left edge and width, in rem, of the leading label columns that stay visible while the table scrolls.

        Their total width is at most `_MAX_FROZEN`, which leaves room for the numbers; longer texts wrap.
        """
        found: list[tuple[float, float]] = []
        left = 0.0
        for place in range(self.num_labels):
            values = [row[place] for row in self.shown]
            remarks = _MIN_REMARK if place and any(each.remark for each in values) else 0
            longest = max((len(each.text) for each in values), default=0)
            word = max((len(word) + _WIDER * sum(map(word.count, "mwMW")) for word in self.headers[place].split()), default=0)
            inner = max(_CHARACTER * min(max(longest, remarks), _MAX_CHARACTERS), _BOLD_CHARACTER * min(word, _MAX_CHARACTERS))
            width = round(_PADDING + inner, 2)
            # Only leading columns can stay, so a later, narrower one is not tried.
            if found and left + width > _MAX_FROZEN:
                break
            found.append((round(left, 2), width))
            left += width
        return found


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Runs whose tracebacks end with the same line, and the traceback of one of them."""

    message: str
    traceback: str
    runs: Sequence[str]


def summary_table(study: Study, *, elsewhere: Collection[int] = ()) -> Table:
    """Returns one row per cell: its distinguishing settings, seeds, measures and costs.

    Of more than `MAX_ROWS` cells these have the best ranks of `Study.ranks`. Settings that recorded none of the measures, such as
    probes among trainings, have no row: sections of their own show them. Stages that settings were chosen from come last.

    elsewhere: calibrate cells with a row in another table of the page, which have none here if there are other settings.
    """
    measures = _measures(study)
    ranked = study.cells[study.ranks.rank(method="first") <= MAX_ROWS]
    table = _with_values(ranked if study.calibrates_only else ranked[~ranked["cell"].isin(elsewhere)], measures)
    serves_a_choice = table["stage"].isin(study.chosen_from)
    table = pd.concat([table[~serves_a_choice], table[serves_a_choice]])
    costs = [name for name in _COSTS if table[name].notna().any()]
    titles = cost_names(table["kind"])
    columns, labels = label_values(study, table), label_headers(study)
    if (folders := study.folders_of_cells) and FOLDER not in labels:
        columns.append([Value(text=folders[int(cell)]) for cell in table["cell"]])
        labels = [*labels, FOLDER]
    columns.append([_seeds(row) for _, row in table.iterrows()])
    columns += [measure_values(study, table, measure) for measure in measures]
    columns += [[Value(text=_COSTS[name](value)) for value in table[name]] for name in costs]
    headers = [
        *labels,
        "seeds",
        *(measure_title(measure) for measure in measures),
        *(titles[name] for name in costs),
    ]
    return Table(
        headers=headers,
        num_labels=len(labels),
        rows=list(zip(*columns, strict=True)),
        cells=[[int(cell)] for cell in table["cell"]],
        name="summary",
    ).without_empty_columns()


def _with_values(table: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Returns the rows with a value of a measure, or of which no seed is finished; all rows if there are none."""
    rows = table[table[list(measures)].notna().any(axis=1) | table["num_seeds"].eq(0)]
    return rows if len(rows) else table


def label_headers(study: Study) -> list[str]:
    """Returns the headers of the columns that tell the cells apart."""
    return [study.names.get(key, key) for key in study.columns] or ["method"]


def label_values(study: Study, table: pd.DataFrame) -> list[list[Value]]:
    """Returns the columns that tell the cells apart."""
    return [
        [Value(text=_value_text(key, value, name)) for value in table[key]]
        for key, name in zip(study.columns or ["method"], label_headers(study), strict=True)
    ]


def _measures(study: Study) -> list[str]:
    """Returns the measures of the summary: without the further ones, and without those of calibrate runs alone.

    Both have tables of their own. A study of calibrate runs has all.
    """
    measures = [measure for measure in study.measures if measure.partition("/")[2] not in FURTHER_MEASURES]
    others = study.cells[study.cells["kind"] != CALIBRATE]
    kept = [measure for measure in measures if others[measure].notna().any()]
    return kept or measures


def _value_text(key: str, value: object, name: str) -> str:
    """Returns a label without its key, which is the column header."""
    return in_words(key, value, name).removeprefix(f"{name} ") or _MISSING_LABEL


def _seeds(row: pd.Series[int]) -> Value:
    """Returns the number of completed seeds, and below it the numbers of other outcomes."""
    others = (("censored", "pruned"), ("failed", "failed"), ("interrupted", "interrupted"))
    remark = ", ".join(f"{row[name]} {word}" for name, word in others if row[name])
    return Value(text=str(row["num_seeds"]), remark=remark)


def measure_values(study: Study, table: pd.DataFrame, measure: str) -> list[Value]:
    """Returns the column of a measure: mean and interval of every cell, bold where it is clearly best."""
    best = best_cells(study.cells, measure)
    over_rows = study.row_intervals
    rows = zip(table["cell"], table[measure], table[f"{measure}_low"], table[f"{measure}_high"], strict=True)
    values = []
    for cell, mean, low, high in rows:
        text, half = formats.estimate(mean, low, high)
        remark = interval_words(over_rows.get((int(cell), measure)))
        values.append(Value(text=text, half=half, is_best=cell in best, remark=remark))
    return values


def best_cells(table: pd.DataFrame, measure: str) -> set[int]:
    """Returns the cells that are clearly best on the same data and model, or among calibrators on the same input runs."""
    larger = LARGER_IS_BETTER.get(measure.partition("/")[2])
    if larger is None:
        return set()
    best: set[int] = set()
    # A cell without a completed run has no interval, and would keep the others from being ranked.
    ends = [f"{measure}_low", f"{measure}_high"]
    for _, group in table[table["num_seeds"] > 0].groupby("rivals"):
        # Two stages may hold the same calibrator on the same runs, which does not compete with itself.
        same = group.groupby(["method", *ends], dropna=False, sort=False)["cell"].agg(list)
        lows, highs = (same.index.get_level_values(name) for name in ends)
        place = clearly_best(list(lows), list(highs), larger_is_better=larger)
        if place is not None:
            best.update(map(int, same.iloc[place]))
    return best


def best_places(study: Study) -> set[tuple[int, str]]:
    """Returns the cells of the summary that are clearly best, as pairs of the place of a row and a measure."""
    best = {measure: best_cells(study.cells, measure) for measure in study.measures}
    return {(row, measure) for row, cell in enumerate(study.cells["cell"]) for measure, own in best.items() if cell in own}


def runs_table(study: Study) -> Table:
    """Returns one row per run; at most `MAX_RUNS` rows."""
    labels = dict(zip(study.cells["cell"], study.cells["label"], strict=True))
    measures = study.measures[:4]
    finals = study.finals[study.finals["measure"].isin(measures)]
    values = {(key, name): value for key, name, value in finals.itertuples(index=False)}
    rows = []
    for run in study.labelled.head(MAX_RUNS).to_dict("records"):
        texts = [labels[run["cell"]], str(run["seed"]), run["run_key"], run["status"]]
        texts += [formats.number(values.get((run["run_key"], measure))) for measure in measures]
        texts += [formats.duration(run["wall_s"]), run["device"], f"{run['started_at']:%Y-%m-%d %H:%M}"]
        rows.append([Value(text=text) for text in texts])
    shown = [measure_title(measure) for measure in measures]
    headers = ["setting", "seed", "run key", "status", *shown, "wall time", "device", "started (UTC)"]
    return Table(headers=headers, num_labels=1, rows=rows, name=RUNS, texts=(2, 3, len(headers) - 2, len(headers) - 1))


def failures(study: Study) -> list[Failure]:
    """Returns failed runs grouped by the last line of their traceback, the most frequent first."""
    labels = dict(zip(study.cells["cell"], study.cells["label"], strict=True))
    failed = study.labelled[study.labelled["status"] == Status.FAILED]
    errors = failed["error"].fillna("(no error text was recorded)").str.strip()
    found = []
    for message, group in failed.groupby(errors.str.rsplit("\n", n=1).str[-1], sort=False):
        runs = [f"{labels[run.cell]}, seed {run.seed} ({run.run_key})" for run in group.itertuples()]
        # The end of a traceback names the error.
        traceback = errors[group.index[0]][-_MAX_TRACEBACK:]
        found.append(Failure(message=str(message), traceback=traceback, runs=runs))
    return sorted(found, key=lambda failure: -len(failure.runs))
