"""How much sooner a method reaches the accuracy of the baseline: worked by hand, with seeds that never reach it."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from made_up_study import record

from pruneyard.reports.charts.distillation import minimised, over_time, speedup_table
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.page import write_page
from pruneyard.reports.records import MetricRow, Status
from pruneyard.reports.speedup import SHARES, Speedup, speedups
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study

ACCURACY = "test/accuracy"
IDC = [(10, 10.0, 0.5), (20, 20.0, 0.79), (30, 30.0, 0.80)]
"""Iterations, seconds, accuracy."""


def write(
    folder: Path,
    method: str,
    seed: int,
    points: Sequence[tuple[int, float, float]],
    *,
    ipc: int = 1,
    flops: bool = False,
    kind: str = "distill",
    status: Status = Status.COMPLETED,
    method_fields: dict[str, object] | None = None,
) -> None:
    spec = {"kind": kind, "seed": seed, "method": {"name": method, "ipc": ipc} | (method_fields or {})}
    key = hashlib.sha256(json.dumps(spec).encode()).hexdigest()[:12]
    named = {"kind": kind, "method": method, "density": None, "ipc": ipc, "seed": seed, "status": status}
    rows = []
    for step, wall_s, value in points:
        about = {"step": step, "epoch": float(step), "wall_s": wall_s}
        rows += [MetricRow(**about, split="test", name="accuracy", value=value)]
        rows += [MetricRow(**about, split="train", name="matching_loss", value=1 / value)]
        if flops:
            rows.append(MetricRow(**about, split="train", name="flops", value=1e6 * step))
    Store(RunFolder(folder)).write(record(key, **named, spec_json=json.dumps(spec)), rows, [])


def found(folder: Path) -> dict[float | None, Speedup]:
    """Returns the speedups of one rival, by share."""
    rows = speedups(Study.read([folder]), ACCURACY)
    assert [row.share for row in rows] == [None, *SHARES]
    return {row.share: row for row in rows}


def test_one_pair_by_hand(tmp_path: Path) -> None:
    write(tmp_path, "idc", 0, IDC, flops=True)
    write(tmp_path, "acc_dd", 0, [(4, 2.0, 0.6), (8, 5.0, 0.81), (12, 6.0, 0.7)], flops=True)
    rows = found(tmp_path)
    assert (rows[1.0].baseline, rows[1.0].rival) == ("idc", "acc_dd")
    assert rows[1.0].level == pytest.approx(0.8)
    assert (rows[1.0].baseline_s[0], rows[1.0].rival_s[0], rows[1.0].ratio[0]) == pytest.approx((30, 5, 6))
    assert rows[1.0].flops_ratio[0] == pytest.approx(30 / 8)
    assert rows[0.98].level == pytest.approx(0.784)
    assert rows[0.98].ratio[0] == pytest.approx(20 / 5)  # 0.79 is there already
    assert rows[None].ratio[0] == pytest.approx(30 / 6)
    assert rows[None].difference[0] == pytest.approx(-0.1)
    assert all(math.isnan(end) for end in rows[1.0].ratio[1:])  # one seed has no interval


def test_ratios_are_averaged_as_factors_over_pairs_of_one_seed(tmp_path: Path) -> None:
    for seed, seconds in ((0, 15.0), (1, 60.0)):
        write(tmp_path, "idc", seed, IDC)
        write(tmp_path, "acc_dd", seed, [(1, 1.0, 0.1), (2, seconds, 0.9)])
    write(tmp_path, "acc_dd", 7, [(1, 1.0, 0.1), (2, 1.0, 0.9)])  # without a twin
    rows = found(tmp_path)
    assert (rows[1.0].num_pairs, rows[1.0].num_reached) == (2, 2)
    mean, low, high = rows[1.0].ratio
    assert mean == pytest.approx(1.0)  # twice and half as fast
    assert low * high == pytest.approx(1.0)
    assert low < 0.5 < 2 < high
    assert math.isnan(rows[1.0].flops_ratio[0])


def test_levels_are_those_of_each_pair(tmp_path: Path) -> None:
    """The second seed's baseline ends lower, and so its rival is asked for less."""
    write(tmp_path, "idc", 0, IDC)
    write(tmp_path, "idc", 1, [(10, 10.0, 0.5), (20, 40.0, 0.6)])
    for seed in (0, 1):
        write(tmp_path, "acc_dd", seed, [(1, 2.0, 0.65), (2, 5.0, 0.85)])
    rows = found(tmp_path)
    assert rows[1.0].level == pytest.approx(0.7)
    assert rows[1.0].rival_s[0] == pytest.approx((5 + 2) / 2)
    assert rows[1.0].ratio[0] == pytest.approx(math.sqrt(30 / 5 * 40 / 2))


def test_nothing_is_averaged_where_a_seed_never_arrives(tmp_path: Path) -> None:
    for seed, best in ((0, 0.81), (1, 0.77)):
        write(tmp_path, "idc", seed, IDC)
        write(tmp_path, "acc_dd", seed, [(1, 1.0, 0.1), (2, 3.0, best)])
    rows = found(tmp_path)
    assert (rows[1.0].num_reached, rows[1.0].num_pairs) == (1, 2)
    assert all(math.isnan(number) for triple in (rows[1.0].ratio, rows[1.0].rival_s) for number in triple)
    assert rows[0.95].num_reached == 2
    assert rows[0.95].ratio[0] == pytest.approx(20 / 3)
    texts = [[value.text for value in row] for row in speedup_table(list(rows.values()), ACCURACY).rows]
    assert [texts[1][2], texts[1][-1]] == ["1 of 2 seeds", "not reached by all seeds"]
    assert [texts[3][2], texts[3][-1]] == ["2 of 2 seeds", "6.67"]


def test_a_baseline_that_was_there_at_once_is_counted(tmp_path: Path) -> None:
    write(tmp_path, "idc", 0, [(10, 10.0, 0.79), (20, 20.0, 0.8)])
    write(tmp_path, "acc_dd", 0, [(1, 1.0, 0.7), (2, 2.0, 0.8)])
    rows = found(tmp_path)
    assert {share: row.num_at_once for share, row in rows.items()} == {None: 0, 1.0: 0, 0.98: 1, 0.95: 1}


def test_only_completed_distillation_with_several_evaluations_is_compared_within_its_images_per_class(
    tmp_path: Path,
) -> None:
    for ipc in (1, 10):
        write(tmp_path, "idc", 0, IDC, ipc=ipc)
        write(tmp_path, "acc_dd", 0, [(1, 1.0, 0.7), (2, 2.0, 0.8)], ipc=ipc)
    write(tmp_path, "random", 0, [(0, 0.0, 0.3)])
    write(tmp_path, "dm", 0, IDC, status=Status.FAILED)
    write(tmp_path, "rigl", 0, IDC, kind="sparse")
    rows = speedups(Study.read([tmp_path]), ACCURACY)
    assert {(row.place, row.baseline, row.rival) for row in rows} == {
        (f"distill · ipc {ipc}", "idc", "acc_dd") for ipc in (1, 10)
    }
    assert len(rows) == 2 * (1 + len(SHARES))


def test_without_idc_the_setting_that_took_longest_is_the_baseline(tmp_path: Path) -> None:
    write(tmp_path, "dm", 0, [(1, 1.0, 0.7), (2, 2.0, 0.8)])
    write(tmp_path, "dc", 0, [(1, 5.0, 0.7), (2, 9.0, 0.8)])
    assert {(row.baseline, row.rival) for row in speedups(Study.read([tmp_path]), ACCURACY)} == {("dc", "dm")}


def test_the_page_draws_accuracy_over_time_and_the_matching_loss(tmp_path: Path) -> None:
    for seed in (0, 1):
        write(tmp_path, "idc", seed, IDC)
        write(tmp_path, "acc_dd", seed, [(1, 0.5, 0.7), (2, 2.0, 0.8)])
    study = Study.read([tmp_path])
    (time,) = over_time(study)
    assert [entry.label for entry in time.legend] == ["acc_dd", "idc"]
    values = json.loads(time.panels[0].spec)
    drawn = [row for name, rows in values["datasets"].items() for row in rows if "num" in row]
    assert {(row["series"], row["step"], row["x"]) for row in drawn} >= {
        ("idc", 30, 30.0),
        ("acc_dd", 1, 0.5),
    }
    (loss,) = minimised(study)
    assert loss.title == "Matching loss over iterations"
    text = write_page([tmp_path], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Speed-up at equal accuracy" in text
    assert 'id="over-time"' in text


def test_a_sparse_study_has_neither(tmp_path: Path) -> None:
    write(tmp_path, "rigl", 0, IDC, kind="sparse")
    study = Study.read([tmp_path])
    assert over_time(study) == minimised(study) == []


def test_costs_are_called_what_they_are_where_all_runs_distil(tmp_path: Path) -> None:
    write(tmp_path, "idc", 0, IDC)
    text = write_page([tmp_path], tmp_path / "page.html").read_text(encoding="utf-8")
    assert ">distillation time</th>" in text
    assert "<dt>distillation time</dt>" in text
    assert "training time" not in text
    write(tmp_path, "rigl", 0, IDC, kind="sparse")
    text = write_page([tmp_path], tmp_path / "page.html").read_text(encoding="utf-8")
    assert ">training time</th>" in text
    assert "distillation time</th>" not in text
