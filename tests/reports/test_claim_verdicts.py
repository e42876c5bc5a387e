"""Reached, missed or not comparable: worked examples of the comparison with a paper's number."""

import dataclasses
import json
import math

from pruneyard.reports.cells import flat_spec
from pruneyard.reports.claims.claim import PLAIN, Claim, Source
from pruneyard.reports.claims.comparison import agree, differences, train_rows
from pruneyard.reports.claims.verdict import Ours, verdict
from pruneyard.testing.cases import each_case

SOURCE = Source(authors="A et al.", year=2020, title="T", arxiv="1234.56789")
CLAIM = Claim(
    kind="sparse",
    source=SOURCE,
    where="Table 1",
    tag="P",
    data="cifar10",
    model="wrn22_2",
    method="rigl",
    metric="accuracy",
    density=0.1,
    ipc=None,
    value=0.930,
    spread=None,
    spread_is="",
    runs=None,
    distribution="erk",
    length=1.0,
    train_rows=45_000,
    augment="crop after padding 4 (reflect), flip",
    recipe={
        "budget.epochs": 250,
        "budget.batch_size": 128,
        "gradient.name": "plain",
        "optimizer.lr": 0.1,
        "optimizer.nesterov": True,
        "schedule.name": "step",
        "schedule.milestones": [0.307, 0.614],
    },
    settings={"schedule.every": 100},
    bins=None,
    other={},
    notes=(),
    line=1,
)
SPEC = {
    "augment": {"pad": 4, "pad_mode": "reflect", "flip": True, "cutout": 0},
    "budget": {"epochs": 250, "steps": None, "batch_size": 128},
    "data": {"name": "cifar10", "val_fraction": 0.1, "calib_fraction": 0.0, "max_train": None},
    "gradient": {"name": "plain"},
    "method": {"name": "rigl", "density": 0.1, "distribution": "erk", "schedule": {"every": 100}},
    "optimizer": {"name": "sgd", "lr": 0.1, "nesterov": True},
    "schedule": {"name": "step", "milestones": [0.31, 0.61]},
}


def claim(**changes):
    return dataclasses.replace(CLAIM, **changes)


def differ(spec, of=CLAIM):
    return differences(of, flat_spec(json.dumps(spec)), published_rows=50_000, num_bins=15)


def changed(table, **values):
    return {**SPEC, table: {**SPEC[table], **values}}


def ours(mean, half, num=3):
    return Ours(mean=mean, low=mean - half, high=mean + half, num=num)


def calibrated_cells(of, measured, reasons=()):
    found = verdict(of, measured, reasons)
    return str(found.word), found.reasons


def test_the_same_recipe_has_no_differences():
    assert differ(SPEC) == []


@each_case(
    ("spec", "reason"),
    [
        (changed("budget", epochs=10), "epochs: 10 (this study), 250 (published)"),
        (changed("budget", batch_size=64), "batch size: 64 (this study), 128 (published)"),
        (changed("data", calib_fraction=0.1), "training samples: 40,000 (this study), 45,000 (published)"),
        (changed("data", max_train=5_000), "training samples: 4,500 (this study), 45,000 (published)"),
        (
            changed("augment", pad=0, flip=False),
            "augmentation: none (this study), crop after padding 4 (reflect), flip (published)",
        ),
        (changed("method", distribution="uniform"), "density rule: uniform (this study), erk (published)"),
        (changed("method", schedule={"every": 400}), "schedule.every: 400 (this study), 100 (published)"),
        (changed("gradient", name="agent"), "gradient rule: agent (this study), plain (published)"),
        (changed("optimizer", lr=0.05), "learning rate: 0.05 (this study), 0.1 (published)"),
        (changed("optimizer", nesterov=False), "Nesterov momentum: no (this study), yes (published)"),
        (
            changed("schedule", milestones=[0.5]),
            "milestones of the learning rate schedule: [0.5] (this study), [0.307, 0.614] (published)",
        ),
    ],
)
def test_each_difference_is_said_plainly(spec, reason):
    assert differ(spec) == [reason]


def test_slots_that_no_paper_used_are_differences_and_their_absence_is_none():
    of = claim(recipe={**PLAIN, **CLAIM.recipe})
    assert differ(SPEC, of) == []
    assert differ({**SPEC, "average": {"begin": 0.8}}, of) == ["start of weight averaging: 0.8 (this study), 1 (published)"]
    assert differ({**SPEC, "weight_dropout": {"drop": 0.1}}, of) == ["weight dropout: 0.1 (this study), 0 (published)"]


def test_what_is_not_known_of_the_paper_is_a_difference():
    unknown = claim(train_rows=None, augment="", distribution="", recipe={"gradient.name": "plain"})
    assert differ(SPEC, unknown) == [
        "not stated in the publication: training samples, epochs, batch size, augmentation, density rule, "
        "learning rate, learning rate schedule"
    ]
    assert "density rule" not in str(differ(SPEC, claim(method="dense", distribution="")))


def test_what_our_specs_cannot_express_is_a_difference():
    other = claim(other={"model size": "hidden layers of 300 and 100 units"})
    assert differ(SPEC, other) == ["model size: hidden layers of 300 and 100 units (published)"]
    assert differ(SPEC, claim(augment="RandomResizedCrop")) == [
        "augmentation: crop after padding 4 (reflect), flip (this study), RandomResizedCrop (published)"
    ]


def test_ece_in_other_bins_is_another_measure():
    assert differ(SPEC, claim(metric="ece", bins=10)) == ["bins of ECE: 15 (this study), 10 (published)"]
    assert differ(SPEC, claim(metric="ece", bins=15)) == []


def test_steps_count_as_the_epochs_that_they_amount_to():
    assert differ(changed("budget", epochs=None, steps=250 * 351)) == []
    assert differ(changed("budget", epochs=None, steps=351)) == ["epochs: 1 (this study), 250 (published)"]


def test_training_rows_are_those_left_after_val_and_calib():
    assert train_rows({"data.val_fraction": 0.1, "data.calib_fraction": 0.1}, 60_000) == 48_000
    assert train_rows({"data.val_fraction": 0.1, "data.max_train": 1_000}, 60_000) == 900
    assert train_rows({"data.max_train": 100_000}, 60_000) == 60_000


def test_numbers_agree_to_a_hundredth_and_flags_only_with_flags():
    assert agree(250, 251)
    assert not agree(250, 255)
    assert not agree(1, True)
    assert not agree(None, 0)
    assert agree([0.31, 0.61], [0.307, 0.614])
    assert not agree([0.31], [0.307, 0.614])
    assert not agree("step", ["step"])


def test_missed_is_an_interval_wholly_on_the_worse_side():
    assert calibrated_cells(CLAIM, ours(0.920, 0.005)) == ("missed", ())
    assert calibrated_cells(claim(metric="ece", value=0.02, bins=15), ours(0.03, 0.004)) == ("missed", ())


def test_reached_means_better_than_the_number_or_not_distinguishable_from_it():
    assert calibrated_cells(CLAIM, ours(0.935, 0.004)) == ("reached", ())
    assert calibrated_cells(CLAIM, ours(0.927, 0.004)) == ("reached", ())
    assert calibrated_cells(CLAIM, ours(0.980, 0.03)) == ("reached", ())
    assert calibrated_cells(claim(metric="ece", value=0.02, bins=15), ours(0.01, 0.004)) == ("reached", ())


def test_a_wide_interval_around_the_number_is_not_comparable():
    assert calibrated_cells(CLAIM, ours(0.930, 0.05)) == (
        "not comparable",
        ("the difference is only known to ± 0.05",),
    )


def test_a_reported_standard_deviation_over_runs_widens_the_interval():
    """0.002 over 3 runs is ± 4.303 * 0.002 / sqrt(3) = 0.005; with our 0.005 the difference is known to 0.0071."""
    number = claim(spread=0.002, spread_is="sd", runs=3)
    assert calibrated_cells(number, ours(0.9235, 0.005)) == ("reached", ())
    assert calibrated_cells(number, ours(0.9225, 0.005)) == ("missed", ())
    assert calibrated_cells(claim(spread=0.002, spread_is="unknown", runs=3), ours(0.9235, 0.005)) == ("missed", ())


def test_one_seed_or_none_is_never_compared():
    nan = math.nan
    assert calibrated_cells(CLAIM, Ours(mean=0.95, low=nan, high=nan, num=1)) == ("not comparable", ("only one seed",))
    assert calibrated_cells(CLAIM, Ours(mean=nan, low=nan, high=nan, num=0)) == (
        "not comparable",
        ("no completed run",),
    )


def test_a_different_setup_is_not_comparable_for_any_numbers():
    assert calibrated_cells(CLAIM, ours(0.5, 0.001), ["epochs: 1 (this study), 250 (published)"]) == (
        "not comparable",
        ("epochs: 1 (this study), 250 (published)",),
    )
