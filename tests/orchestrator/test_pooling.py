"""Settings pooled on request: a seed stays one repetition, and both sides of a difference have the same pooled values."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up_study import metric, record

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import located
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study

# accuracy by method, batch size and seed; rigl lacks seed 2 at batch size 128
VALUES = {
    ("static", 64): (0.80, 0.82, 0.81),
    ("static", 128): (0.70, 0.74, 0.72),
    ("rigl", 64): (0.85, 0.88, 0.89),
    ("rigl", 128): (0.76, 0.79),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "study"
    store = Store(RunFolder(path))
    for (method, size), values in VALUES.items():
        spec = {"method": {"name": method, "density": 0.1}, "budget": {"batch_size": size}, "optimizer": {"lr": 0.1}}
        for seed, value in enumerate(values):
            key = f"{method}{size}x{seed}"
            run = record(key, method=method, seed=seed, num_workers=size // 64, spec_json=json.dumps(spec))
            store.write(run, [metric(value)], [])
    return path


def pooled(folder: Path, *names: str) -> Study:
    return Study.read([located(folder)]).pool(names)


def test_batch_sizes_and_workers_are_apart_unless_pooled(folder: Path) -> None:
    assert len(pooled(folder).cells) == 4
    assert len(pooled(folder, "batch_size").cells) == 4  # the number of workers still differs
    cells = pooled(folder, "batch_size", "num_workers").cells
    assert list(cells["label"]) == ["rigl", "static"]


def test_the_runs_of_one_seed_are_one_repetition(folder: Path) -> None:
    cells = pooled(folder, "budget.batch_size", "num_workers").cells.set_index("method")
    assert list(cells.loc["static", ["num_seeds", "test/accuracy"]]) == [3, pytest.approx((0.75 + 0.78 + 0.765) / 3)]
    assert list(cells.loc["rigl", ["num_seeds", "test/accuracy"]]) == [3, pytest.approx((0.805 + 0.835 + 0.89) / 3)]
    # t interval of three seeds, not of six runs: 4.302653 is the 97.5% quantile of t with two degrees of freedom
    half = 4.302653 * 0.015 / 3**0.5
    assert cells.loc["static", "test/accuracy_high"] - cells.loc["static", "test/accuracy"] == pytest.approx(half, rel=1e-6)


def test_a_difference_takes_only_batch_sizes_that_both_sides_have(folder: Path) -> None:
    """Seed 2 is compared at 64 alone: 0.89 - 0.81, and not 0.89 against the mean of static over both sizes."""
    (row,) = Results(folder).against("static", metric="test/accuracy", pool=["batch_size", "num_workers"]).to_dict("records")
    differences = [0.805 - 0.75, 0.835 - 0.78, 0.89 - 0.81]
    assert row["num_pairs"] == 3
    assert row["difference"] == pytest.approx(sum(differences) / 3)


def test_sides_without_a_common_batch_size_are_compared_by_the_means_of_their_seeds(tmp_path: Path) -> None:
    store = Store(RunFolder(tmp_path))
    for method, sizes in {"static": (64, 128), "rigl": (256,)}.items():
        for size in sizes:
            spec = {"method": {"name": method}, "budget": {"batch_size": size}}
            for seed in range(2):
                value = size / 1000 + seed / 10
                run = record(f"{method}{size}{seed}", method=method, seed=seed, spec_json=json.dumps(spec))
                store.write(run, [metric(value)], [])
    (row,) = Results(tmp_path).compare("rigl", "static", metric="test/accuracy", pool=["batch_size"]).to_dict("records")
    assert (row["num_pairs"], row["difference"]) == (2, pytest.approx(0.256 - 0.096))


def test_networks_of_one_seed_stay_one_repetition_for_what_rests_on_them(tmp_path: Path) -> None:
    """Two trainings of each of two seeds, which differ in batch size, and a calibration of each: two repetitions, not four."""
    store = Store(RunFolder(tmp_path))
    for size in (64, 128):
        spec: dict[str, Any] = {"method": {"name": "rigl"}, "budget": {"batch_size": size}}
        for seed in range(2):
            store.write(record(f"train{size}{seed}", stage="train", seed=seed, spec_json=json.dumps(spec)), [metric(0.9)], [])
            told = {"kind": "calibrate", "method": {"name": "temperature"}, "input": {"runs": spec}}
            run = record(
                f"calib{size}{seed}", stage="calib", kind="calibrate", method="temperature", seed=0,
                parent_key=f"train{size}{seed}", spec_json=json.dumps(told),
            )  # fmt: skip
            store.write(run, [metric(size / 1000 + seed)], [])
    cells = pooled(tmp_path, "batch_size").cells.set_index("method")
    assert list(cells.loc["temperature", ["num_seeds", "test/accuracy"]]) == [2, pytest.approx(0.096 + 0.5)]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("batchsize", "no run has this setting; did you mean batch_size"),
        ("zzz", "no run has this setting; it must be one of num_workers, device, batch_size, density, lr"),
        ("density", "names the rows of the summary"),
        ("name", "names the rows of the summary"),
    ],
)
def test_what_cannot_be_pooled_is_refused(folder: Path, name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Results(folder).against("static", pool=[name])


def test_a_name_of_two_settings_is_refused_with_both(tmp_path: Path) -> None:
    spec = {"method": {"name": "rigl", "lr": 0.2}, "optimizer": {"lr": 0.1}}
    Store(RunFolder(tmp_path)).write(record(spec_json=json.dumps(spec)), [metric(0.5)], [])
    with pytest.raises(ValueError, match=r"may be method.lr or optimizer.lr; give one of them"):
        pooled(tmp_path, "lr")


def test_the_command_pools_in_comparisons_and_on_the_page_which_says_so(
    folder: Path, tmp_path: Path, pruneyard: Callable[..., Any]
) -> None:
    pool = ("--pool", "batch_size", "--pool", "num_workers")
    rows = json.loads(pruneyard("compare", folder, "--json", *pool).out)["rows"]
    assert [(row["a"], row["num_pairs"]) for row in rows] == [("rigl", 3)]
    assert "needs --out" in pruneyard("report", folder, *pool).err
    assert pruneyard("report", folder, *pool, "--out", tmp_path / "page.html").code == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Pooled over batch_size, num_workers (batch_size 128, num_workers 2; batch_size 64, num_workers 1)" in text
