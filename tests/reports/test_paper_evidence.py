"""Claims of papers on made-up runs: which settings are compared, whether the mechanism acts, and every verdict."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from made_up_evidence import write_rigged
from made_up_study import metric, record
from recomputed import agrees, estimate
from scipy import stats
from test_page import read

from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.packaged import packaged_specs
from pruneyard.reports.claims.reading import ClaimError
from pruneyard.reports.evidence.claim import Condition, Published
from pruneyard.reports.evidence.measured import Measured, findings, mechanism_acts
from pruneyard.reports.evidence.reading import packaged_evidence, read_evidence
from pruneyard.reports.evidence.section import comparison_text, evidence_section, setting_text
from pruneyard.reports.evidence.verdict import Effect, Judgement, Kept, Verdict, judge
from pruneyard.reports.glossary import is_known, measure_title
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.page import write_page, write_with_answers
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study
from pruneyard.testing.cases import each_case

GAIN = Published(text="up to 0.08", tag="A", protocol="another", gain=0.08)
WORDS = Published(text="better", tag="A", protocol="another")


def effect(difference: float, half: float, p: float, *, pairs: int = 5) -> Effect:
    return Effect(
        num_pairs=pairs,
        base=0.8,
        method=0.8 + difference,
        difference=difference,
        low=difference - half,
        high=difference + half,
        p_corrected=p,
    )


def judged(found: Effect, acts: bool | None, **changes: Any) -> Judgement:
    return judge(found, acts, **({"published": GAIN, "rises": True, "as_published": False} | changes))


@each_case(
    ("found", "acts", "changes", "verdict"),
    [
        (effect(0.06, 0.02, 0.01), True, {}, Verdict.APPEARS),
        (effect(-0.06, 0.02, 0.01), True, {"rises": False}, Verdict.APPEARS),
        (effect(0.03, 0.02, 0.01), True, {}, Verdict.WEAKLY),  # less than half of the published gain
        (effect(0.06, 0.02, 0.01), True, {"kept": [Kept(measure="test/nll", worse_by=0.1, allowed=0.0)]}, Verdict.WEAKLY),
        (effect(0.06, 0.02, 0.01), True, {"kept": [Kept(measure="test/nll", worse_by=0.1, allowed=0.2)]}, Verdict.APPEARS),
        (effect(0.01, 0.06, 0.2), True, {}, Verdict.ABSENT),  # the published gain lies beyond the interval
        (effect(0.06, 0.09, 0.2), True, {}, Verdict.NOT_COMPARABLE),  # it may be as large as published, or nothing
        (effect(-0.06, 0.02, 0.01), True, {}, Verdict.ABSENT),
        (effect(-0.06, 0.02, 0.01), True, {"published": WORDS}, Verdict.ABSENT),
        (effect(0.01, 0.02, 0.2), True, {"published": WORDS}, Verdict.NOT_COMPARABLE),
        (effect(0.0, 0.02, 0.9), False, {}, Verdict.NOT_COMPARABLE),
        (effect(0.0, 0.02, 0.9), False, {"as_published": True}, Verdict.INERT),
        (effect(0.06, 0.02, 0.01), False, {"as_published": True}, Verdict.INERT),  # then it is not the mechanism's
        (effect(0.0, 0.02, 0.9), None, {"as_published": True}, Verdict.NOT_COMPARABLE),
        (effect(0.06, 0.02, 0.01), None, {}, Verdict.APPEARS),
        (effect(0.06, 0.02, 0.01, pairs=2), True, {}, Verdict.NOT_COMPARABLE),
    ],
)
def test_the_verdict_follows_from_the_numbers(
    found: Effect, acts: bool | None, changes: dict[str, Any], verdict: Verdict
) -> None:
    assert judged(found, acts, **changes).verdict == verdict


def test_an_effect_without_its_mechanism_is_said() -> None:
    found = judged(effect(0.06, 0.02, 0.01), False, as_published=True)
    assert found.reasons == ("yet the measure changes as claimed",)


def test_a_relative_gain_is_compared_with_the_relative_difference() -> None:
    """0.3 of a base of 0.8 is 37.5%, more than half of 50%; 0.1 is 12.5%."""
    relative = Published(text="", tag="P", protocol="", gain=-0.5, unit="relative")
    for difference, verdict in ((-0.3, Verdict.APPEARS), (-0.1, Verdict.WEAKLY)):
        assert judged(effect(difference, 0.05, 0.01), True, published=relative, rises=False).verdict == verdict


@each_case(
    ("low", "high", "above", "below", "acts"),
    [
        (0.2, 0.4, 0.1, None, True),
        (0.0, 0.1, 0.1, None, False),
        (0.0, 0.2, 0.1, None, None),
        (0.2, 0.4, None, 0.9, True),
        (0.9, 1.0, None, 0.9, False),
        (0.8, 1.0, None, 0.9, None),
        (math.nan, math.nan, 0.1, None, None),
    ],
)
def test_a_mechanism_acts_where_its_whole_interval_lies_beyond_the_threshold(
    low: float, high: float, above: float | None, below: float | None, acts: bool | None
) -> None:
    condition = Condition(measure="train/x", above=above, below=below, why="")
    assert Measured(condition=condition, num=5, mean=(low + high) / 2, low=low, high=high).acts is acts


def test_one_condition_that_holds_is_enough_and_all_must_fail() -> None:
    assert mechanism_acts([True, False, None]) is True
    assert mechanism_acts([False, False]) is False
    assert mechanism_acts([False, None]) is None
    assert mechanism_acts([]) is None


@pytest.fixture(scope="module")
def rigged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rigged(tmp_path_factory.mktemp("evidence") / "out")


def test_runs_give_effects_mechanisms_and_verdicts(rigged: Path) -> None:
    """Runs of the search do not count, though they have the settings of the base method."""
    found = {
        (each.claim.measure, each.compared.label): each
        for each in findings(Study.read([rigged]), packaged_evidence())
    }
    both, released = (found["test/ece", f"both with a mask of {mask}"] for mask in (0.1, 0.01))
    assert both.effect.num_pairs == 4
    assert both.effect.base == pytest.approx(0.1)
    assert both.effect.difference == pytest.approx(-0.04875)
    assert (both.acts, both.judgement.verdict) == (True, Verdict.APPEARS)
    assert (released.acts, released.judgement.verdict) == (False, Verdict.INERT)
    assert found["test/accuracy", "both with a mask of 0.1"].judgement.verdict == Verdict.ABSENT


def test_the_page_shows_them(rigged: Path) -> None:
    text = read(write_page([rigged], rigged / "report.html"))[1].text
    assert "Evidence on papers' claims" in text
    assert "mechanism inert under published settings" in text
    assert "the rate of the random mask is never passed on" in text


def test_every_number_of_the_table_is_that_of_the_rows_in_parquet(rigged: Path) -> None:
    """Computed another way: from the Parquet tables by pandas and scipy."""
    runs = Results(rigged).runs().query("stage == 'fresh'")
    drop = runs["spec_json"].map(lambda text: json.loads(text)["method"].get("weight_dropout", 0.0))
    rows = Results(rigged).metrics().merge(runs.assign(drop=drop)[["run_key", "drop", "seed"]], on="run_key")
    measures = rows["split"].astype(str) + "/" + rows["name"].astype(str)
    values = rows.assign(measure=measures).pivot_table(index="seed", columns=["measure", "drop"], values="value")
    section = evidence_section(Study.read([rigged]))
    assert section is not None
    printed = {(row[2].remark, row[1].text): row for row in section.evidence.rows}
    assert len(printed) == 4
    for measure in ("test/ece", "test/accuracy"):
        base = values[measure][0.0]
        p = {mask: stats.ttest_rel(values[measure][mask], base).pvalue for mask in (0.1, 0.01)}
        smaller, larger = sorted(p.values())
        holm = {smaller: 2 * smaller, larger: max(2 * smaller, larger)}  # neither is above 1 here
        for mask in p:
            row, difference = printed[measure_title(measure), f"both with a mask of {mask}"], values[measure][mask] - base
            exact = [base.mean(), values[measure][mask].mean(), *estimate(list(difference))]
            assert all(map(agrees, [row[4].text, row[5].text, row[6].text, row[6].half], exact)), (measure, mask)
            if difference.any():  # of equal values there is no p
                assert row[6].remark == f"4 seeds, p {holm[p[mask]]:.2g}"
            for name in ("train/average_spread", "val/mask_disagreement"):
                mean = re.search(rf"{measure_title(name)} ([\d.]+)", row[7].remark)
                assert mean is not None
                assert agrees(mean[1], values[name][mask].mean()), (name, mask)


def test_the_head_of_the_page_has_a_line_for_each_claim(rigged: Path) -> None:
    section = evidence_section(Study.read([rigged]))
    assert section is not None
    assert write_with_answers([rigged], rigged / "report.html")[:2] == section.answers
    assert section.answers == [
        "CigL, test ECE: appears (both with a mask of 0.1 -0.0488 ± 0.0040), 1 of 2 comparisons: mechanism inert under published "
        "settings.",
        "CigL, test accuracy: does not appear though the mechanism acts (both with a mask of 0.1 0.0000 ± 0), 1 of 2 "
        "comparisons: mechanism inert under published settings.",
    ]


def test_epochs_to_the_base_methods_level(tmp_path: Path) -> None:
    """The level is the lowest of the base method's best values: 0.90. AGENT reaches it an epoch earlier with every seed."""
    store = Store(RunFolder(tmp_path))
    curves = {"plain": [[0.7, 0.85, 0.90], [0.7, 0.86, 0.91], [0.7, 0.85, 0.92]], "agent": [[0.8, 0.91, 0.92]] * 3}
    for rule, of_seeds in curves.items():
        for seed, values in enumerate(of_seeds):
            gradient = {"name": rule, **({"gamma": 1.0} if rule == "agent" else {})}
            method, loss = {"name": "set", "density": 0.02}, {"name": "cross_entropy"}
            spec = {"gradient": gradient, "method": method, "objective": loss, "seed": seed}
            rows = [metric(value, step=10 * (place + 1), split="val") for place, value in enumerate(values)]
            store.write(record(f"{rule}{seed}", method="set", seed=seed, spec_json=json.dumps(spec)), rows, [])
    (found,) = (
        each for each in findings(Study.read([tmp_path]), packaged_evidence()) if each.claim.measure.startswith("epochs to")
    )
    assert (found.effect.base, found.effect.method, found.effect.difference) == (3, 2, -1)
    assert ", set, " in f", {setting_text(found)}, "  # which sparse trainer the gradients are those of
    assert comparison_text(found) == "gamma 1 on set"


def test_every_claim_names_a_packaged_spec_and_known_metrics() -> None:
    for claim in packaged_evidence().claims:
        assert claim.spec in packaged_specs(), claim.spec
        for each in (claim.measure.removeprefix("epochs to "), *(condition.measure for condition in claim.mechanism)):
            assert is_known(each), each


def test_a_wrong_entry_is_named(tmp_path: Path) -> None:
    wrong = tmp_path / "claims.yaml"
    wrong.write_text("sources: {}\nclaims: []\nconfounds: [{method: CigL, source: nobody, tag: C, fact: x}]\n")
    with pytest.raises(ClaimError, match="source is 'nobody'; it must be one of"):
        read_evidence(wrong)
    wrong.write_text("sources: {}\nclaims: []\nconfounds: [{method: CigL, source: cigl, tag: Z, fact: x}]\n")
    with pytest.raises(ClaimError, match=r"claims\.yaml: confounds\.0\.tag"):
        read_evidence(wrong)
