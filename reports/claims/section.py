"""The section of the page on published results: compared with matching cells, or collapsed if the setup differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd

from pruneyard.reports import formats
from pruneyard.reports.cells import flat_spec
from pruneyard.reports.claims.claim import RECIPE_KEYS, SPREADS, TAGS, Claim, Claims, Gain, Source
from pruneyard.reports.claims.comparison import differences
from pruneyard.reports.claims.reading import packaged_claims
from pruneyard.reports.claims.verdict import WIDEST, Ours, Verdict, Word, verdict
from pruneyard.reports.glossary import title
from pruneyard.reports.renamed_keys import present_key
from pruneyard.reports.series import NUM_BINS
from pruneyard.reports.study import DENSE, Study
from pruneyard.reports.tables import Table, Value

MAX_NEAREST = 2
"""Published numbers per measure and cell in the first table; the others are collapsed."""
MAX_ELSEWHERE = 3
"""Rows of numbers from other setups per method."""
_NO_PAIRS = (
    "The packaged claims hold no published number for the data, models and methods of this study together, so nothing is "
    "compared."
)
_NO_PAIRS_AT_BUDGET = f"{_NO_PAIRS[:-1]}, or no run was evaluated on test within the equal budget."
_TONES = {Word.REACHED: "good", Word.MISSED: "bad", Word.NOT_COMPARABLE: "quiet"}


@dataclass(frozen=True, kw_only=True)
class ClaimsSection:
    """Tables of the section; None if empty. `num_left_out` is the number of rows from other setups that are not shown."""

    nearest: Table | None
    is_compared: bool  # whether any number of `nearest` is comparable with the study's
    further: Table | None
    elsewhere: Table | None
    gains: Table | None
    num_left_out: int
    note: str
    tags: str


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """A claim, the cell that it matches, and the verdict."""

    claim: Claim
    cell: pd.Series[Any]
    ours: Ours
    verdict: Verdict


def claims_section(study: Study, claims: Claims | None = None) -> ClaimsSection | None:
    """Returns the section for a study; None if no claim is about any of its methods."""
    claims = claims or packaged_claims()
    specs = _specs(study)
    pairs = list(_pairs(study, claims, specs))
    nearest, others = _split(pairs)
    matched = {pair.claim.method for pair in pairs}
    lines = _elsewhere(study, claims, matched)
    shown = [line for own in lines.values() for line in own[:MAX_ELSEWHERE]]
    gains = [pair for pair in claims.gains if pair[0].method in _names(study, specs)]
    if not (pairs or shown or gains):
        return None
    return ClaimsSection(
        nearest=_comparison_table(nearest, study) if nearest else None,
        is_compared=any(pair.verdict.word is not Word.NOT_COMPARABLE for pair in nearest),
        further=_comparison_table(others, study) if others else None,
        elsewhere=_elsewhere_table(shown, claims) if shown else None,
        gains=_gains_table(gains, claims) if gains else None,
        num_left_out=sum(len(own) for own in lines.values()) - len(shown),
        note=_note() if pairs else _NO_PAIRS_AT_BUDGET if study.spent else _NO_PAIRS,
        tags="; ".join(f"{tag}: {words}" for tag, words in TAGS.items()),
    )


def _specs(study: Study) -> dict[int, dict[str, Any]]:
    """Returns the spec of every cell by dotted keys, renamed ones under their present names."""
    first = study.labelled.drop_duplicates("cell")
    flat = {cell: flat_spec(text) for cell, text in zip(first["cell"], first["spec_json"], strict=True)}
    return {cell: {present_key(key, spec): value for key, value in spec.items()} for cell, spec in flat.items()}


def _names(study: Study, specs: Mapping[int, Mapping[str, Any]]) -> set[str]:
    """Returns the names of the study's methods and gradient rules."""
    return set(study.cells["method"]) | {str(spec.get("gradient.name")) for spec in specs.values()}


def _pairs(study: Study, claims: Claims, specs: Mapping[int, Mapping[str, Any]]) -> Iterator[_Pair]:
    """Yields every claim with each cell of the same data, model, method and density or IPC that has the measure."""
    spent = _spent(study)
    by_setting: dict[tuple[str, ...], list[Claim]] = {}
    for claim in claims.values:
        by_setting.setdefault((claim.kind, claim.data, claim.model, claim.method), []).append(claim)
    for _, cell in study.cells.iterrows():
        density = 1.0 if cell["method"] == DENSE else _applying(cell["density"])
        for claim in by_setting.get((cell["kind"], cell["data"], cell["model"], cell["method"]), []):
            measure = f"test/{claim.metric}"
            if measure not in study.measures or not claim.is_of(density=density, ipc=_applying(cell["ipc"])):
                continue
            ours = Ours(
                mean=float(cell[measure]),
                low=float(cell[f"{measure}_low"]),
                high=float(cell[f"{measure}_high"]),
                num=int(cell["num_seeds"]),
            )
            data = claims.data[claim.data]
            differing = differences(
                claim,
                specs[cell["cell"]],
                published_rows=data.train_rows,
                num_bins=NUM_BINS,
                num_classes=data.classes,
                spent=spent.get(int(cell["cell"])),
            )
            yield _Pair(claim=claim, cell=cell, ours=ours, verdict=verdict(claim, ours, differing))


def _spent(study: Study) -> dict[int, tuple[float, float]]:
    """Returns for every cell at an equal budget the mean epoch of its values and that of its whole runs."""
    found = [(int(cell), study.spent.get(key)) for cell, key in study.labelled[["cell", "run_key"]].itertuples(index=False)]
    epochs = pd.DataFrame([(cell, *pair) for cell, pair in found if pair is not None], columns=["cell", "within", "whole"])
    means = epochs.groupby("cell").mean()
    return {int(cell): (float(within), float(whole)) for cell, within, whole in means.itertuples()}


def _applying(number: Any) -> float | None:
    """Returns a density or IPC of a cell; None if not applicable."""
    return None if pd.isna(number) else float(number)


def _split(pairs: Sequence[_Pair]) -> tuple[list[_Pair], list[_Pair]]:
    """Splits the pairs into the claims with the fewest differences, per measure and cell, and the rest."""
    nearest, others = [], []
    # itertools.groupby joins neighbours only; `_pairs` yields cell after cell.
    for _, group in groupby(pairs, key=lambda pair: pair.cell["cell"]):
        own = sorted(group, key=lambda pair: (pair.claim.metric, len(pair.verdict.reasons)))
        for _, same in groupby(own, key=lambda pair: pair.claim.metric):
            ordered = list(same)
            nearest += ordered[:MAX_NEAREST]
            others += ordered[MAX_NEAREST:]
    return nearest, others


def _comparison_table(pairs: Sequence[_Pair], study: Study) -> Table:
    headers = ["setting", "test metric", "this study", "seeds", "published", "source", "verdict"]
    names_method = "method" in study.varying
    rows = [_comparison_row(pair, "" if names_method else pair.claim.method) for pair in pairs]
    return Table(headers=headers, num_labels=2, rows=rows, texts=(5, 6))


def _comparison_row(pair: _Pair, method: str) -> list[Value]:
    text, half = formats.estimate(pair.ours.mean, pair.ours.low, pair.ours.high)
    found = pair.verdict
    return [
        Value(text=" · ".join(dict.fromkeys(text for text in (method, str(pair.cell["label"])) if text))),
        Value(text=title(pair.claim.metric)),
        Value(text=text, half=half),
        Value(text=str(pair.ours.num)),
        _reported(pair.claim),
        _source(pair.claim.source, pair.claim.tag, pair.claim.where),
        Value(text=found.word, remark="; ".join(found.reasons), tone=_TONES[found.word]),
    ]


def _reported(claim: Claim) -> Value:
    """Returns the number with its spread, and below it the kind of spread and the number of runs."""
    runs = formats.plural(claim.runs, "run") if claim.runs else ""
    remark = ", ".join(part for part in (SPREADS[claim.spread_is], runs) if part)
    return Value(
        text=f"{claim.value:g}", half="" if claim.spread is None else f"{claim.spread:.2g}", remark=remark
    )


def _source(source: Source, tag: str, where: str) -> Value:
    return Value(text=f"{source.cite} [{tag}]", remark=where)


def _note() -> str:
    widths = ", ".join(f"± {width:g} for {metric}" for metric, width in WIDEST.items())
    return (
        "Published numbers are compared with settings of the same data, model, method and density (or number of images per "
        "class), and only if the recipe in the run's spec agrees with the published one (numbers within 1%). Missed: the 95% "
        "interval of the difference lies entirely on the worse side of 0. Reached: it does not, and it is narrow enough "
        f"({widths}) or lies entirely on the better side. The published spread is used if it is a standard deviation over runs."
    )


def _elsewhere(study: Study, claims: Claims, matched: set[str]) -> dict[str, list[list[Claim]]]:
    """Returns, for each method without a comparison, its rows of published numbers, the most similar setups first."""
    methods = [name for name in dict.fromkeys(study.cells["method"]) if name not in matched]
    data, models = set(study.cells["data"]), set(study.cells["model"])
    measured = {measure.partition("/")[2] for measure in study.measures}
    kinds = set(study.cells["kind"])
    lines = [
        list(line)
        for (kind, _), line in groupby(claims.values, key=lambda claim: (claim.kind, claim.line))
        if kind in kinds
    ]

    def distance(line: Sequence[Claim]) -> tuple[bool | int, ...]:
        first = line[0]
        return (
            # False sorts before True: the same metric first, then the same data, then the same model.
            first.metric != "accuracy",
            first.data not in data,
            first.model not in models,
            # Then the usual length of training, small data sets, and rows that state more of their recipe.
            first.length != 1,
            claims.data[first.data].train_rows,
            -len(first.recipe),
        )

    found = {
        name: sorted(
            (line for line in lines if line[0].method == name and line[0].metric in measured), key=distance
        )
        for name in methods
    }
    return {name: own for name, own in found.items() if own}


def _elsewhere_table(lines: Sequence[Sequence[Claim]], claims: Claims) -> Table:
    headers = ["method", "data and model", "published, by density or IPC", "setup, as far as stated", "source"]
    rows = [_elsewhere_row(line, claims) for line in lines]
    return Table(headers=headers, num_labels=1, rows=rows, texts=range(1, len(headers)))


def _elsewhere_row(line: Sequence[Claim], claims: Claims) -> list[Value]:
    first = line[0]
    numbers = "; ".join(_at_size(claim) for claim in line)
    spread = SPREADS[next((claim.spread_is for claim in line if claim.spread_is), "")]
    return [
        Value(text=claims.methods[first.method]),
        Value(text=_field(first.data, first.model, claims)),
        Value(text=numbers, remark=", ".join(part for part in (f"test {title(first.metric)}", spread) if part)),
        Value(text=_setup(first)),
        _source(first.source, first.tag, first.where),
    ]


def _at_size(claim: Claim) -> str:
    spread = "" if claim.spread is None else f" ± {claim.spread:.2g}"
    size = claim.density if claim.ipc is None else claim.ipc
    place = "" if claim.method == DENSE or not size else f" at {size:g}"
    return f"{claim.value:g}{spread}{place}"


def _field(data: str, model: str, claims: Claims) -> str:
    names = (claims.data[data].title if data else "", claims.models[model] if model else "")
    return ", ".join(name for name in names if name)


def _setup(claim: Claim) -> str:
    """Returns the recipe of a claim in a few words."""
    recipe = claim.recipe
    parts = [f"{key}: {value}" for key, value in claim.other.items()]
    if "budget.epochs" in recipe:
        parts.append(f"{recipe['budget.epochs']:g} epochs")
    elif claim.length != 1:
        parts.append(f"{claim.length:g}x training length")
    if "evaluation.epochs" in recipe:
        parts.append(f"{recipe['evaluation.epochs']:g} evaluation epochs")
    for key in ("budget.batch_size", "evaluation.batch_size"):
        if key in recipe:
            parts.append(f"batch size {recipe[key]}")
    if "evaluation.augment" in recipe:
        parts.append(recipe["evaluation.augment"].replace("_", ", ") or "no augmentation")
    if claim.train_rows:
        parts.append(f"{claim.train_rows:,} training samples")
    if claim.augment:
        parts.append(str(claim.augment))
    if claim.distribution:
        parts.append(f"density rule {claim.distribution}")
    if "objective.label_smoothing" in recipe:
        parts.append(f"{RECIPE_KEYS['objective.label_smoothing']} {recipe['objective.label_smoothing']:g}")
    parts += [f"{key} {_plain(value)}" for key, value in claim.settings.items()]
    return "; ".join([*parts, *claim.notes]) or "not stated"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _gains_table(gains: Sequence[tuple[Gain, Source]], claims: Claims) -> Table:
    rows = [_gain_row(gain, source, claims) for gain, source in gains]
    headers = ["method", "improvement", "base method", "data and model", "source"]
    return Table(headers=headers, num_labels=1, rows=rows, texts=range(1, len(headers)))


def _gain_row(gain: Gain, source: Source, claims: Claims) -> list[Value]:
    unit = f"{gain.gain:+.3g} in {title(gain.metric)}"
    if gain.unit == "relative":
        unit = f"{gain.gain:+.1%} in {title(gain.metric)} (relative)"
    sizes = [f"density {gain.density:g}"] if gain.density is not None else []
    sizes += [f"IPC {gain.ipc}"] if gain.ipc is not None else []
    field = ", ".join(part for part in (_field(gain.data, gain.model, claims), *sizes) if part)
    return [
        Value(text=claims.methods[gain.method]),
        Value(text=f"up to {unit}" if gain.up_to else unit, remark=gain.note),
        Value(text=gain.baseline),
        Value(text=field or "not stated"),
        _source(source, gain.tag, ""),
    ]
