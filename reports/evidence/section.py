"""The evidence on papers' claims as tables: on the page, and for the command `pruneyard claims`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pruneyard.reports import formats
from pruneyard.reports.evidence.claim import TAG_TEXTS, EvidenceClaims
from pruneyard.reports.evidence.measured import EPOCHS_TO, Finding, Measured, findings
from pruneyard.reports.evidence.reading import packaged_evidence
from pruneyard.reports.evidence.verdict import LEVEL, MIN_PAIRS, WEAK, Verdict
from pruneyard.reports.glossary import measure_title
from pruneyard.reports.study import Study
from pruneyard.reports.tables import Table, Value

_TONES = {
    Verdict.APPEARS: "good",
    Verdict.WEAKLY: "good",
    Verdict.ABSENT: "bad",
    Verdict.INERT: "quiet",
    Verdict.NOT_COMPARABLE: "quiet",
}
_ACTS = {True: "acts", False: "inert", None: "unclear"}
_SHOWN = {
    "method.density": "density",
    "method.ipc": "IPC",
    "model.depth": "depth",
    "budget.epochs": "epochs",
    "budget.batch_size": "batches of",
}
"""Keys of the setting that are named in words; those that were tuned come after them."""
_SIZES = {"method.iterations": "networks each"}
"""Keys in which both sides agree and whose values tell comparisons of one label apart."""
MAX_NAMED = 3
"""Comparisons that a line at the head of the page names, of each verdict."""
_CLEAR = (Verdict.APPEARS, Verdict.WEAKLY, Verdict.ABSENT)
_TUNED = ("optimizer.lr", "method.lr", "method.schedule.every")


@dataclass(frozen=True, kw_only=True)
class EvidenceSection:
    """The tables of the section, its note, the explanation of tags, and the verdicts in a line a claim.

    `confounds` has those of the methods in `evidence`.
    """

    answers: Sequence[str]
    evidence: Table
    confounds: Table | None
    note: str
    tags: str


def evidence_section(study: Study, claims: EvidenceClaims | None = None) -> EvidenceSection | None:
    """Returns the section for a study; None where no claim can be measured on its runs."""
    claims = claims or packaged_evidence()
    found = findings(study, claims)
    if not found:
        return None
    rows = [_row(each, claims) for each in found]
    headers = ["paper", "setting", "claim", "published", "base method", "method", "difference", "mechanism", "verdict"]
    return EvidenceSection(
        answers=[_answer(own) for own in _by_claim(found)],
        evidence=Table(headers=headers, num_labels=2, rows=rows, texts=(2, 3, 7, 8)),
        confounds=_confounds(claims, {each.claim.method for each in found}),
        note=_note(),
        tags=TAG_TEXTS,
    )


def evidence_table(found: Sequence[Finding], claims: EvidenceClaims) -> pd.DataFrame:
    """Returns one row per comparison with all its numbers, for programs and files."""
    return pd.DataFrame([_record(each, claims) for each in found])


def confound_table(claims: EvidenceClaims, methods: Sequence[str]) -> pd.DataFrame:
    """Returns the confounds of some methods, one row each."""
    rows = [
        {"method": each.method, "fact": each.fact, "tag": each.tag, "source": claims.sources[each.source].cite}
        for each in claims.confounds
        if each.method in methods
    ]
    return pd.DataFrame(rows, columns=["method", "fact", "tag", "source"])


def setting_text(found: Finding) -> str:
    """Returns what distinguishes the comparison, and the regime: data, model, size, and the settings that were tuned."""
    spec = found.setting
    told = [name for name in (spec.get("data.name"), spec.get("model.name"), _common_method(found)) if isinstance(name, str)]
    told += [f"{words} {_plain(spec[key])}" for key, words in _SHOWN.items() if spec.get(key) is not None]
    told += [_tuned(key, found) for key in _TUNED if key in spec and not isinstance(spec[key], dict)]
    inputs = _input_text(spec)
    return ", ".join([*inputs, *told])


def mechanism_text(each: Measured) -> str:
    """Returns one condition with its value, its threshold and whether it holds."""
    condition = each.condition
    mean, half = formats.estimate(each.mean, each.low, each.high)
    name = measure_title(condition.measure) + (" against the base method" if condition.against_base else "")
    if not each.num:
        return f"{name} not recorded"
    sign, limit = (">", condition.above) if condition.above is not None else ("<", condition.below)
    value = f"{mean} ± {half}" if half else mean
    return f"{name} {value} ({_ACTS[each.acts]}; acts if {sign} {limit:g}: {condition.why})"


def _input_text(spec: Mapping[str, Any]) -> list[str]:
    """Returns how the input runs of a calibrate job were made."""
    keys = ("input.kind", "input.runs.kind", "input.runs.method.name", "input.runs.method.ipc", "input.runs.method.mask.ratio")
    return [f"{key.removeprefix('input.runs.')} {_plain(spec[key])}" for key in keys if spec.get(key) is not None]


def _by_claim(found: Sequence[Finding]) -> list[list[Finding]]:
    claims = dict.fromkeys(each.claim.claim for each in found)
    return [[each for each in found if each.claim.claim == claim] for claim in claims]


def _answer(found: Sequence[Finding]) -> str:
    """Returns the verdicts on one claim, the strongest first: the clear ones with their differences, the others by number."""
    told = []
    for verdict in Verdict:
        own = [each for each in found if each.judgement.verdict is verdict]
        if own and verdict in _CLEAR:
            more = f"; {len(own) - MAX_NAMED} more" if len(own) > MAX_NAMED else ""
            told.append(f"{verdict.value} ({'; '.join(map(_short, own[:MAX_NAMED]))}{more})")
        elif own:
            told.append(f"{len(own)} of {len(found)} comparisons: {verdict.value}")
    return f"{found[0].claim.method}, {_measure_words(found[0].claim.measure)}: {', '.join(told)}."


def _short(found: Finding) -> str:
    mean, half = formats.estimate(found.effect.difference, found.effect.low, found.effect.high)
    return f"{comparison_text(found)} {mean} ± {half}" if half else f"{comparison_text(found)} {mean}"


def comparison_text(found: Finding) -> str:
    """Returns what is compared, with the training method or size that both sides share, such as `gamma 1 on set`."""
    # Where methods are compared, the label says which.
    method = None if "method.name" in found.compared.method else _common_method(found)
    label = found.compared.label if method is None else f"{found.compared.label} on {method}"
    named = [key for key in _SIZES if key in found.claim.match and key in found.setting]
    sizes = [f"{found.setting[key]} {_SIZES[key]}" for key in named]
    return ", ".join([label, *sizes])


def _common_method(found: Finding) -> Any:
    """Returns the training method that both arms share, such as SET where gradients differ; None where they differ in it."""
    own = found.setting.get("method.name")
    return own if own == found.of_base.get("method.name") else None


def _tuned(key: str, found: Finding) -> str:
    name = key.rpartition(".")[2].replace("lr", "rate") if key != "method.schedule.every" else "updates every"
    own, base = (_plain(spec.get(key)) for spec in (found.setting, found.of_base))
    return f"{name} {own}" if own == base else f"{name} {own} (base {base})"


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _measure_words(measure: str) -> str:
    if measure.startswith(EPOCHS_TO):
        return f"epochs to the base method's {measure_title(measure.removeprefix(EPOCHS_TO))}"
    return measure_title(measure)


def _row(found: Finding, claims: EvidenceClaims) -> list[Value]:
    claim, effect = found.claim, found.effect
    mean, half = formats.estimate(effect.difference, effect.low, effect.high)
    verdict = found.judgement.verdict
    published = claim.published
    seeds = formats.plural(effect.num_pairs, "seed")
    p = "" if math.isnan(effect.p_corrected) else f", p {effect.p_corrected:.2g}"
    return [
        Value(text=claim.method, remark=f"pruneyard run {claim.spec}"),
        Value(text=comparison_text(found), remark=setting_text(found)),
        Value(text=claim.claim, remark=_measure_words(claim.measure)),
        Value(text=f"{published.text} [{published.tag}]", remark=f"{published.protocol}; {claims.sources[claim.source].cite}"),
        Value(text=formats.number(effect.base)),
        Value(text=formats.number(effect.method)),
        Value(text=mean, half=half, remark=f"{seeds}{p}"),
        Value(text=_ACTS[found.acts], remark="; ".join(map(mechanism_text, found.mechanism))),
        Value(text=verdict, remark="; ".join(found.judgement.reasons), tone=_TONES[verdict]),
    ]


def _record(found: Finding, claims: EvidenceClaims) -> dict[str, Any]:
    claim, effect, published = found.claim, found.effect, found.claim.published
    return {
        "method": claim.method,
        "claim": claim.claim,
        "published": published.text,
        "tag": published.tag,
        "protocol": published.protocol,
        "source": claims.sources[claim.source].cite,
        "comparison": comparison_text(found),
        "setting": setting_text(found),
        "measure": claim.measure,
        "num_pairs": effect.num_pairs,
        "base": effect.base,
        "with_method": effect.method,
        "difference": effect.difference,
        "difference_low": effect.low,
        "difference_high": effect.high,
        "p_corrected": effect.p_corrected,
        "mechanism": _ACTS[found.acts],
        "mechanism_measured": "; ".join(map(mechanism_text, found.mechanism)),
        "verdict": found.judgement.verdict.value,
        "reasons": "; ".join(found.judgement.reasons),
        "command": f"pruneyard run {claim.spec}",
    }


def _confounds(claims: EvidenceClaims, methods: set[str]) -> Table | None:
    rows = [
        [Value(text=each.method), Value(text=each.fact), Value(text=f"{claims.sources[each.source].cite} [{each.tag}]")]
        for each in claims.confounds
        if each.method in methods
    ]
    return Table(headers=["method", "fact", "source"], num_labels=1, rows=rows, texts=(1, 2)) if rows else None


def _note() -> str:
    return (
        "Difference: method minus base method, mean over common seeds ± half width of its 95% t interval; p: paired t test, "
        "corrected for all rows of a claim (Holm). Runs that settings were chosen by do not count. "
        f"Verdicts follow from these numbers: with fewer than {MIN_PAIRS} seeds, not comparable; where the mechanism does not "
        "act, inert with published settings and not comparable with others. An effect appears if its direction is as claimed "
        f"and p is below {LEVEL:g}, and weakly if it is below {WEAK:g} of the published gain or costs what should be kept. "
        "Otherwise it does not appear, unless the interval contains the published gain, no gain was published, or it is unclear "
        "whether the mechanism acts; then the runs are not comparable. A negative result is a result; an inert mechanism is none."
    )
