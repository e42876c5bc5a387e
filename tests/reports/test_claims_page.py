"""Published numbers on the page: next to matching cells, collapsed otherwise, absent without a claim."""

import dataclasses
import json

import pytest
from made_up_study import metric, record, write_study
from test_page import HOSTILE, read

from pruneyard.reports.claims.section import claims_section
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import located
from pruneyard.reports.matched import Budget, at_budget
from pruneyard.reports.page import write_page
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study

AUTHORS = {
    "augment": {"pad": 4, "pad_mode": "reflect", "flip": True, "cutout": 0},
    "budget": {"epochs": 250, "steps": None, "batch_size": 128},
    "data": {"name": "cifar10", "val_fraction": 0.0, "calib_fraction": 0.0, "max_train": None},
    "gradient": {"name": "plain"},
    "model": {"name": "wrn22_2"},
    "objective": {"name": "cross_entropy", "label_smoothing": 0.0},
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
    "schedule": {"name": "step", "milestones": [0.31, 0.61, 0.92], "gamma": 0.2},
}
MOVES = {"distribution": "erk", "drop_fraction": 0.3, "schedule": {"every": 100, "until": 0.768}}


def write_runs(path, accuracies, *, spec=AUTHORS, method="rigl", density=0.1, settings=MOVES, key=""):
    """Writes one run per accuracy on CIFAR-10 and WRN-22-2."""
    store = Store(RunFolder(path))
    for seed, accuracy in enumerate(accuracies):
        resolved = {**spec, "method": {"name": method, "density": density, **settings}, "seed": seed}
        run = record(
            f"{key}{method}{density}s{seed}".replace(".", "_"),
            data="cifar10",
            model="wrn22_2",
            method=method,
            density=density,
            seed=seed,
            spec_json=json.dumps(resolved),
        )
        store.write(run, [metric(accuracy), metric(0.02 + seed / 1000, name="ece")], [])
    return path


def section(path):
    """Returns the text of the section on papers; empty where there is none."""
    text, reader = read(write_page([path], path / "report.html"))
    if 'id="claims"' not in text:
        return "", reader
    start = text.index('<section id="claims">')
    part = path / "claims.html"
    part.write_text(text[start : text.index("</section>", start)], encoding="utf-8")
    return read(part)[1].text, reader


def test_a_repetition_of_the_paper_is_reached_or_missed(tmp_path):
    """RigL's author reports 0.929 at density 0.1 and 0.918 at 0.05."""
    write_runs(tmp_path, [0.928, 0.930, 0.931])
    write_runs(tmp_path, [0.905, 0.906, 0.904], density=0.05)
    text, _ = section(tmp_path)
    assert (
        "density 0.1 accuracy 0.9297 ± 0.0038 3 0.929 Evci et al. 2020, arXiv 1911.11134 [I] "
        "issue on the numbers of the CIFAR-10 figure reached"
    ) in text
    assert "density 0.05 accuracy 0.9050 ± 0.0025 3 0.918 Evci et al. 2020" in text
    assert text.count(" reached") == 1
    assert text.count(" missed ") == 1


def test_another_set_up_is_not_comparable_and_says_why(tmp_path):
    short = {**AUTHORS, "budget": {"epochs": 10, "steps": None, "batch_size": 128}}
    write_runs(tmp_path, [0.928, 0.930, 0.931], spec=short)
    text, _ = section(tmp_path)
    assert "not comparable epochs: 10 (this study), 250 (published)" in text
    assert "so nothing is judged." in text
    assert " published numbers of the same method, data and model beside this study" in text
    assert " reached" not in text
    assert " missed" not in text


def test_spread_and_bins_are_said(tmp_path):
    text, _ = section(write_runs(tmp_path, [0.928, 0.930, 0.931]))
    assert "0.9226 ± 0.0019 standard deviation, 3 runs Lei et al. 2023, arXiv 2302.09369 [P]" in text
    assert "bins of ECE: 15 (this study), 10 (published)" in text
    assert "more published numbers for these settings" in text


def test_methods_without_a_comparison_are_shown_folded_as_another_set_up(tmp_path):
    folder = write_study(
        tmp_path / "out", methods=("set", "static"), densities=(0.1,), seeds=2, troubles=False
    )
    text, _ = section(folder)
    assert "nothing is compared" in text
    assert "in other experimental setups (not comparable with this study)" in text
    assert "0.98" not in text.partition("Published results of")[0]
    assert "MNIST, multilayer perceptron 0.9814 at 0.05; 0.9774 at 0.02; 0.958 at 0.01" in text


def test_gains_are_listed_separately_from_numbers(tmp_path):
    corrected = {**AUTHORS, "gradient": {"name": "agent"}}
    text, _ = section(write_runs(tmp_path, [0.93, 0.94], spec=corrected))
    assert "Published improvements over a base method" in text
    assert "up to -52.1% in epochs to equal accuracy (relative)" in text
    assert "gradient rule: agent (this study), plain (published)" in text


def test_without_a_claim_on_any_method_there_is_no_section(tmp_path):
    text, _ = section(write_runs(tmp_path, [0.93, 0.94], method="ours_alone"))
    assert text == ""


def test_a_cell_without_completed_runs_is_not_compared(tmp_path):
    write_runs(tmp_path, [0.928, 0.930, 0.931])
    Store(RunFolder(tmp_path)).write(
        record(
            "failed",
            data="cifar10",
            model="wrn22_2",
            method="static",
            density=0.1,
            status="FAILED",
            error="RuntimeError: no",
            spec_json=json.dumps({**AUTHORS, "method": {"name": "static", "density": 0.1}}),
        ),
        [],
        [],
    )
    text, _ = section(tmp_path)
    assert "no completed run" in text


def test_one_density_too_far_is_not_the_same_cell(tmp_path):
    text, _ = section(write_runs(tmp_path, [0.928, 0.930, 0.931], density=0.11))
    assert "nothing is compared" in text


@pytest.mark.parametrize("where", ["optimizer", "schedule", "gradient"])
def test_hostile_settings_stay_texts_in_reasons(tmp_path, where):
    write_runs(tmp_path, [0.9, 0.91], spec={**AUTHORS, where: {"name": HOSTILE}})
    text, reader = section(tmp_path)
    assert HOSTILE in text
    assert "img" not in reader.tags
    assert reader.tags.count("script") == len(reader.specs) + 3


@pytest.mark.parametrize(
    ("budget", "number", "verdict"),
    [
        ("epochs=250", "0.9297", "reached"),
        ("epochs=10", "0.5297", "epoch 10 of a run that was planned for 250; epochs: 10 (this study), 250 (published)"),
        ("steps=3900", "0.5297", "not comparable"),
    ],
)
def test_published_numbers_are_compared_with_values_at_the_chosen_budget(tmp_path, budget, number, verdict):
    """A value from epoch 10 is no failed repetition of 250 epochs, though it is far below the published number."""
    store = Store(RunFolder(tmp_path))
    for seed, accuracy in enumerate([0.928, 0.930, 0.931]):
        spec = {**AUTHORS, "method": {"name": "rigl", "density": 0.1, **MOVES}, "seed": seed}
        run = record(f"rigl{seed}", data="cifar10", model="wrn22_2", method="rigl", seed=seed, spec_json=json.dumps(spec))
        rows = [metric(accuracy - 0.4, step=3900), metric(accuracy, step=97_500)]
        store.write(run, [dataclasses.replace(row, epoch=row.step / 390) for row in rows], [])
    found = claims_section(at_budget(Study.read([located(tmp_path)]), Budget.parse(budget)))
    own = next(row for row in found.nearest.rows if row[4].text == "0.929")
    assert own[2].text == number
    assert verdict in f"{own[6].text} {own[6].remark}"
    assert all(row[6].text != "missed" for row in found.nearest.rows)


def test_a_budget_without_test_values_says_why_nothing_is_compared(tmp_path):
    run = record(data="cifar10", model="wrn22_2", spec_json=json.dumps({**AUTHORS, "method": {"name": "rigl", "density": 0.1}}))
    Store(RunFolder(tmp_path)).write(run, [metric(0.5, step=1, split="val"), metric(0.9, step=10)], [])
    found = claims_section(at_budget(Study.read([located(tmp_path)]), Budget(kind="steps", amount=5)))
    assert found.nearest is None
    assert "or no run was evaluated on test within the equal budget" in found.note
