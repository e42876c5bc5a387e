"""What counts as a repetition: nested seeds, runs without a finite value, and runs that a later attempt did not finish."""

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up_study import metric, record

from pruneyard.orchestrator.reading.comparison import Gate
from pruneyard.reports.comparison_section import comparisons
from pruneyard.reports.evidence.claim import Published
from pruneyard.reports.evidence.verdict import Effect, Verdict, judge
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.lineage import lineages
from pruneyard.reports.paired import paired_differences
from pruneyard.reports.records import MetricRow, Status
from pruneyard.reports.speedup import speedups
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def of(value: float, name: str = "accuracy", split: str = "test") -> MetricRow:
    return dataclasses.replace(metric(value), name=name, split=split)


def write(folder: Path, key: str, metrics: list[MetricRow], **fields: Any) -> None:
    spec = fields.pop("spec", {"kind": "sparse", "method": {"name": fields.get("method", "rigl")}})
    fields = {"density": None, "spec_json": json.dumps(spec)} | fields
    Store(RunFolder(folder)).write(record(key, **fields), metrics, [])


def distil_and_train(folder: Path, trained: Callable[[str, int, int], float]) -> pd.Series:
    """Writes three sets of each of two methods and three trainings on each; returns the comparison of the trainings."""
    for method in ("dm", "random"):
        of_method = {"kind": "distill", "method": {"name": method}}
        spec = {"kind": "sparse", "method": {"name": "rigl"}, "data": {"name": "synthetic", "runs": of_method}}
        for outer in range(3):
            key = f"{method}{outer}"
            write(folder, key, [of(0.5)], kind="distill", stage="distil", method=method, seed=outer, spec=of_method)
            for seed in range(3):
                value = trained(method, outer, seed)
                more = {"parent_key": key, "spec": spec, "identity_json": json.dumps(spec)}
                write(folder, f"t{key}{seed}", [of(value)], kind="sparse", stage="train", method="rigl", seed=seed, **more)
    study = Study.read([folder])
    (column,) = [name for name in study.varying if name.endswith("method.name")]
    sides = [{"stage": "train", column: method} for method in ("dm", "random")]
    return paired_differences(study, *sides, ["test/accuracy"]).iloc[0]


def test_trainings_on_one_distilled_set_are_one_repetition(tmp_path: Path) -> None:
    """By hand: the means over the trainings of each set are 0.81, 0.84, 0.78, and 0.80; pairs are by the seed of the sets."""
    means = {"dm": (0.81, 0.84, 0.78), "random": (0.80, 0.80, 0.80)}
    row = distil_and_train(tmp_path, lambda method, outer, seed: means[method][outer] + 0.001 * (seed - 1))
    assert row["num_pairs"] == 3
    assert row["difference"] == pytest.approx(0.01)
    spread = np.std([0.01, 0.04, -0.02], ddof=1)
    assert row["difference_high"] - row["difference"] == pytest.approx(4.302653 * spread / 3**0.5, rel=1e-4)


@pytest.mark.parametrize("missing", [True, False])
def test_a_run_without_a_finite_value_leaves_no_p_value(missing: bool, tmp_path: Path) -> None:
    """One run of histogram has an infinite NLL, which is not written; the four others are better than those of none."""
    for method, nll in (("none", 0.5), ("histogram", 0.4)):
        for seed in range(5):
            lacks = missing and method == "histogram" and seed == 0
            rows = [] if lacks else [of(nll + 0.01 * seed**2 * len(method), "nll")]
            write(tmp_path, f"{method}{seed}", rows, method=method, seed=seed)
    study = Study.read([tmp_path])
    row = paired_differences(study, {"method": "histogram"}, {"method": "none"}, ["test/nll"], margin=0.001).iloc[0]
    assert (row["num_pairs"], row["num_missing"]) == ((4, 1) if missing else (5, 0))
    assert bool(np.isnan(row["p_value"])) is missing
    if missing:
        assert row["verdict"] == "1 of 5 pairs have no finite value"
        assert row["better"] is None
    table = paired_differences(study, {"method": "histogram"}, {"method": "none"}, ["test/nll"])
    failures = [Gate.parse(f"{end} <= baseline + 9").failures(table) for end in ("test/nll", "upper(test/nll)")]
    told = f"{row['a']} and the baseline: 1 of 5 pairs have no finite value"
    assert failures == ([[told]] * 2 if missing else [[], []])


def test_no_claim_is_judged_by_the_pairs_that_are_left() -> None:
    effect = Effect(num_pairs=4, base=0.5, method=0.4, difference=-0.1, low=-0.11, high=-0.09, num_missing=1)
    found = judge(effect, True, published=Published(text="", tag="P", protocol="", gain=-0.02), rises=False, as_published=True)
    assert found.verdict is Verdict.NOT_COMPARABLE
    assert found.reasons == ("1 of 5 pairs have no finite value",)


def test_settings_that_differ_in_a_measure_without_a_direction_are_not_called_inseparable(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for method, bleu in (("static", 1.0), ("rigl", 2.0)):
        for seed in range(5):
            write(tmp_path, f"{method}{seed}", [of(bleu + 0.001 * generator.normal(), "bleu")], method=method, seed=seed)
    study = Study.read([tmp_path])
    row = paired_differences(study, {"method": "rigl"}, {"method": "static"}, ["test/bleu"]).iloc[0]
    assert row["p_corrected"] < 1e-9
    assert row["verdict"] == "different; which is better is not known"
    (comparison,) = comparisons(study)
    assert "rigl is different" in comparison.sentence
    assert "not separable" not in comparison.sentence


def test_a_finished_run_is_not_hidden_by_a_later_one_that_failed_or_was_interrupted(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write(one, "old", [of(0.9)], ended_at=NOW)
    write(one, "new", [], status=Status.FAILED, error="boom", ended_at=NOW + timedelta(hours=1))
    write(two, "old", [], status=Status.INTERRUPTED, ended_at=NOW + timedelta(hours=2))
    for folders in ([one], [one, two], [two, one]):
        study = Study.read(folders)
        assert study.cells["num_seeds"].tolist() == [1]
        assert study.cells["test/accuracy"].tolist() == [0.9]


def test_pooled_runs_of_one_seed_are_pairs_of_their_own_in_speedups(tmp_path: Path) -> None:
    """By hand: IDC takes 300 s and 3,000 s, DM half of each."""
    for method, seconds in (("idc", 100.0), ("dm", 50.0)):
        for size, factor in ((32, 1), (64, 10)):
            for seed in (0, 1):
                evaluations = [
                    dataclasses.replace(metric(0.5 + 0.01 * place, step=10 * place), wall_s=seconds * factor * place)
                    for place in (1, 2, 3)
                ]
                spec = {"kind": "distill", "method": {"name": method}, "budget": {"batch_size": size}}
                write(tmp_path, f"{method}{size}{seed}", evaluations, kind="distill", method=method, seed=seed, ipc=1, spec=spec)
    whole = speedups(Study.read([tmp_path]).pool(["batch_size"]), "test/accuracy")[0]
    assert (whole.baseline, whole.num_pairs) == ("idc", 4)
    assert whole.baseline_s[0] == pytest.approx(1650)
    assert whole.ratio[0] == pytest.approx(2)


def test_a_lineage_that_lost_a_seed_is_not_the_best(tmp_path: Path) -> None:
    finals: dict[tuple[str, int], float | None] = {("A", 0): 0.95, ("A", 1): None, ("B", 0): 0.90, ("B", 1): 0.92}
    for (member, seed), value in finals.items():
        for part, until in ((1, 0.5), (2, 1.0)):
            parent = f"{member}{seed}1" if part == 2 else None
            common = {"kind": "sparse", "optimizer": {"lr": {"A": 0.1, "B": 0.2}[member]}}
            identity = {**common, "segment": {"until": until, **({"after": member} if parent else {})}}
            spec = {**common, "segment": {"until": until, "runs": [parent] if parent else []}}
            failed = part == 2 and value is None
            fields = {"status": Status.FAILED, "error": "x"} if failed else {}
            rows = [] if failed else [of(value if part == 2 and value is not None else 0.5, split="val")]
            more = {"parent_key": parent, "spec": spec, "identity_json": json.dumps(identity), **fields}
            write(tmp_path, f"{member}{seed}{part}", rows, seed=seed, **more)
    (found,) = lineages(Study.read([tmp_path]))
    assert [line[-1].settings for line in found.lines] == [{"optimizer.lr": 0.2}, {"optimizer.lr": 0.1}]
