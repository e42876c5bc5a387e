"""Published numbers on distillation: matched by images per class, compared by the recipe of the evaluation."""

import copy
import json

from made_up_study import metric, record
from test_claims_page import section

from pruneyard.reports.cells import flat_spec
from pruneyard.reports.claims.comparison import differences
from pruneyard.reports.claims.reading import packaged_claims
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store
from pruneyard.testing.cases import each_case

DSA = {  # as in the released code
    "data": {"name": "fashion_mnist", "val_fraction": 0.0, "calib_fraction": 0.0, "max_train": None},
    "model": {"name": "convnet", "width": 128, "depth": 3},
    "method": {"name": "dsa", "ipc": 10, "iterations": 1000, "real_batch": 256, "lr": 0.1, "init": "real"},
    "evaluation": {
        "epochs": 1000,
        "batch_size": 256,
        "lr": 0.01,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "milestones": [0.5],
        "decay": 0.1,
        "augment": "color_crop_cutout_flip_scale_rotate",
        "always": "",
        "cutmix": 0.0,
        "max_steps": None,
    },
}
(PUBLISHED,) = (
    claim
    for claim in packaged_claims().values
    if (claim.method, claim.data, claim.ipc) == ("dsa", "fashion_mnist", 10)
)


def changed(table, **values):
    spec = copy.deepcopy(DSA)
    spec[table] |= values
    return spec


def differ(spec, claim=PUBLISHED, *, num_classes=10):
    rows = 60_000
    return differences(
        claim, flat_spec(json.dumps(spec)), published_rows=rows, num_bins=15, num_classes=num_classes
    )


def write_runs(path, accuracies, *, spec=DSA, key=""):
    """Writes one run per accuracy."""
    store = Store(RunFolder(path))
    method = spec["method"]
    for seed, accuracy in enumerate(accuracies):
        run = record(
            f"{key}{method['name']}{method.get('ipc')}s{seed}",
            kind="distill",
            data=spec["data"]["name"],
            model="convnet",
            method=method["name"],
            density=None,
            ipc=method.get("ipc"),
            seed=seed,
            spec_json=json.dumps({**spec, "seed": seed}),
        )
        store.write(run, [metric(accuracy)], [])
    return path


def test_the_published_settings_have_no_differences():
    assert differ(DSA) == []


@each_case(
    ("spec", "reason"),
    [
        (changed("evaluation", epochs=100), "epochs of evaluation networks: 100 (this study), 1,000 (published)"),
        (changed("evaluation", batch_size=64), "batch size: 64 (this study), 256 (published)"),
        (
            changed("evaluation", augment=""),
            "augmentation: none (this study), color_crop_cutout_flip_scale_rotate (published)",
        ),
        (changed("evaluation", cutmix=0.5), "fraction of batches with CutMix: 0.5 (this study), 0 (published)"),
        (changed("data", max_train=5_000), "training samples: 5,000 (this study), 60,000 (published)"),
        (changed("model", width=32), "network width: 32 (this study), 128 (published)"),
        (changed("method", iterations=4), "iterations: 4 (this study), 1,000 (published)"),
        (changed("method", init="noise"), "init: noise (this study), real (published)"),
    ],
)
def test_each_difference_is_said_plainly(spec, reason):
    assert differ(spec) == [reason]


@each_case(
    ("ipc", "factor", "max_steps", "reasons"),
    [
        (10, 1, 1000, []),  # 100 images are one batch
        (10, 2, 1000, ["epochs of evaluation networks: 500 (this study), 1,000 (published)"]),  # 400 are two
        (50, 1, 100, ["epochs of evaluation networks: 50 (this study), 1,000 (published)"]),
    ],
)
def test_epochs_are_those_that_the_most_steps_leave(ipc, factor, max_steps, reasons):
    spec = changed("method", ipc=ipc, factor=factor)
    spec["evaluation"]["max_steps"] = max_steps
    assert differ(spec) == reasons


def test_what_is_not_known_of_the_paper_is_a_difference():
    (herding,) = (
        claim
        for claim in packaged_claims().values
        if (claim.method, claim.data, claim.ipc) == ("herding", "cifar10", 10)
    )
    unknown = "training samples, epochs of evaluation networks, batch size, augmentation, learning rate, "
    unknown += "milestones of the learning rate schedule"
    assert differ(DSA, herding) == [f"not stated in the publication: {unknown}, iterations"]
    chosen = {**DSA, "method": {"name": "herding", "ipc": 10}}
    assert differ(chosen, herding) == [f"not stated in the publication: {unknown}"]


def test_labels_per_view_are_never_comparable():
    found = [claim for claim in packaged_claims().values if claim.method == "rded"]
    assert found
    assert all("labels: one per augmented view (published)" in differ(DSA, claim) for claim in found)


def test_a_repetition_is_reached_or_missed_at_its_images_per_class(tmp_path):
    """DSA on Fashion-MNIST: 0.846 at 10 images per class, 0.887 at 50."""
    write_runs(tmp_path, [0.845, 0.846, 0.847])
    write_runs(tmp_path, [0.850, 0.851, 0.852], spec=changed("method", ipc=50))
    write_runs(tmp_path, [0.5, 0.51, 0.52], spec=changed("method", ipc=20))
    text, _ = section(tmp_path)
    assert "ipc 10 accuracy 0.8460 ± 0.0025 3 0.846 Zhao and Bilen 2021, arXiv 2102.08259 [C]" in text
    assert "ipc 50 accuracy 0.8510 ± 0.0025 3 0.887" in text
    assert text.count(" reached") == 1
    assert text.count(" missed ") == 1
    assert "ipc 20" not in text


def test_a_smaller_network_is_not_comparable_and_says_why(tmp_path):
    text, _ = section(write_runs(tmp_path, [0.845, 0.846, 0.847], spec=changed("model", width=32)))
    assert "not comparable network width: 32 (this study), 128 (published)" in text
    assert " reached" not in text


def test_the_whole_set_is_compared_with_networks_of_the_whole_set(tmp_path):
    whole = {**DSA, "data": {**DSA["data"], "name": "cifar10"}, "method": {"name": "whole"}}
    text, _ = section(write_runs(tmp_path, [0.83, 0.84], spec=whole))
    assert "0.848 Guo et al. 2024, arXiv 2310.05773 [F]" in text
    assert "0.8224 Sun et al. 2024, arXiv 2312.03526 [C]" in text
    assert "not comparable not stated in the publication: training samples" in text


def test_gains_in_time_are_listed_separately(tmp_path):
    accelerated = {**DSA, "data": {**DSA["data"], "name": "cifar10"}, "method": {"name": "acc_dd", "ipc": 10}}
    text, _ = section(write_runs(tmp_path, [0.6, 0.61], spec=accelerated))
    assert "-80.9% in distillation time (relative) with a fifth of the networks" in text
    assert "CIFAR-10, ConvNet, IPC 10" in text


def test_methods_on_other_data_are_shown_folded_with_their_images_per_class(tmp_path):
    text, _ = section(
        write_runs(tmp_path, [0.6, 0.61], spec={**DSA, "data": {**DSA["data"], "name": "digits"}})
    )
    assert "nothing is compared" in text
    assert (
        "CIFAR-10, ConvNet 0.288 at 1; 0.521 at 10; 0.606 at 50; 0.736 at 500; 0.787 at 1000 test accuracy"
        in text
    )
