"""Published numbers: the packaged files are valid, and invalid entries are refused by name."""

import copy
import dataclasses
import json
import math

import pytest

from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.claims.claim import KEYS_OF_KIND, TAGS
from pruneyard.reports.claims.reading import ClaimError, joined, packaged_claims, read_claims
from pruneyard.testing.cases import each_case
from pruneyard.workloads import plugins

FILE = {
    "kind": "sparse",
    "data": {"cifar10": {"title": "CIFAR-10", "train_rows": 50_000}},
    "models": {"wrn22_2": "WRN-22-2"},
    "methods": {"rigl": "RigL", "moon": "MOON"},
    "sources": {"paper": {"authors": "A et al.", "year": 2020, "title": "T", "arxiv": "1234.56789"}},
    "protocols": {"usual": {"train_rows": 45_000, "recipe": {"budget.epochs": 250}}},
    "tables": [
        {
            "where": "Table 1",
            "common": {
                "source": "paper",
                "tag": "P",
                "protocol": "usual",
                "data": "cifar10",
                "model": "wrn22_2",
                "metric": "accuracy",
                "spread": "sd",
            },
            "rows": [{"method": "rigl", "length": 2, "values": {0.2: [0.93, 0.001], 0.1: 0.92}}],
        }
    ],
    "gains": [
        {
            "method": "moon",
            "baseline": "RigL",
            "metric": "auroc",
            "gain": 0.08,
            "unit": "points",
            "source": "paper",
            "tag": "A",
        }
    ],
}


def write_claims(tmp_path, changes=(), *, where=()):
    """Writes the claims file with values changed at a path of keys, where None removes a key; returns its path."""
    document = copy.deepcopy(FILE)
    place = document
    for key in where:
        place = place[key]
    place.update(changes)
    for key in [key for key, value in place.items() if value is None]:
        del place[key]
    path = tmp_path / "made_up.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML
    return path


ROW = ("tables", 0, "rows", 0)


def test_a_row_becomes_a_claim_per_density_with_what_it_inherits(tmp_path):
    first, second = read_claims(write_claims(tmp_path)).values
    assert (first.density, first.value, first.spread, first.spread_is) == (0.2, 0.93, 0.001, "sd")
    assert (second.density, second.value, second.spread, second.spread_is) == (0.1, 0.92, None, "")
    assert first.line == second.line
    assert first.recipe["budget.epochs"] == 500
    assert first.recipe["gradient.name"] == "plain"
    assert first.train_rows == 45_000
    assert first.source.cite == "A et al. 2020, arXiv 1234.56789"


@each_case(
    ("where", "changes", "message"),
    [
        (ROW, {"method": "rigel"}, "row 0: method is 'rigel'; it must be one of rigl, moon"),
        (ROW, {"densty": 0.1}, "row 0: densty is unknown; allowed are source, tag"),
        (ROW, {"values": {0.0: 0.9}}, r"density is 0.0; it must lie in \(0, 1\]"),
        (ROW, {"values": {1.2: 0.9}}, r"density is 1.2; it must lie in \(0, 1\]"),
        (
            ROW,
            {"values": {0.1: 92.9}},
            r"values.0.1 is 92.9; it must be a fraction in \[0, 1\], never percent",
        ),
        (ROW, {"values": {0.1: [0.9, 1.5]}}, r"values.0.1 is 1.5; it must be a fraction"),
        (ROW, {"values": {}}, "values is empty"),
        (
            ROW,
            {"spread": "", "values": {0.1: [0.9, 0.01]}},
            "values.0.1 has a spread, but the key spread is missing; it must be sd",
        ),
        (ROW, {"spread": "sem"}, "spread is 'sem'; input should be 'sd', 'unknown' or ''"),
        (ROW, {"tag": "U"}, "tag is 'U'; input should be 'P', 'C', 'I', 'A', 'D' or 'F'"),
        (ROW, {"metric": "ece"}, "bins is None; metric ece needs it"),
        (ROW, {"metric": "auroc"}, "metric is 'auroc'; input should be 'accuracy' or 'ece'"),
        (ROW, {"length": 0}, "length is 0.0; it must be above 0"),
        (ROW, {"recipe": {"budget.epoch": 3}}, "recipe.budget.epoch is unknown; allowed are budget.epochs,"),
        (ROW, {"protocol": "unusual"}, "protocol is 'unusual'; it must be one of usual"),
        (ROW, {"data": "cifar"}, "data is 'cifar'; it must be one of cifar10"),
        (("sources", "paper"), {"arxiv": ""}, "sources.paper: arxiv and repository are both missing"),
        (("sources", "paper"), {"doi": "10"}, "sources.paper: doi is unknown; allowed are authors, year"),
        (("protocols", "usual"), {"epochs": 3}, "protocols.usual: epochs is unknown; allowed are train_rows"),
        (("gains", 0), {"gain": 8.4}, r"gains\[0\]: gain is 8.4; it must be a fraction in \[-1, 1\]"),
        (("gains", 0), {"unit": "percent"}, "unit is 'percent'; input should be 'points' or 'relative'"),
        ((), {"kind": "calibrate"}, "kind is 'calibrate'; it must be one of sparse, distill"),
        ((), {"notes": []}, "notes is unknown; allowed are data, models"),
        ((), {"models": 3}, "models is 3; it must be a mapping"),
    ],
)
def test_what_does_not_fit_is_refused_with_file_entry_key_and_what_is_allowed(
    tmp_path, where, changes, message
):
    with pytest.raises(ClaimError, match=message) as caught:
        read_claims(write_claims(tmp_path, changes, where=where))
    assert str(caught.value).startswith("made_up.yaml: ")


def test_a_missing_key_is_named(tmp_path):
    path = write_claims(tmp_path, {"metric": None}, where=("tables", 0, "common"))
    with pytest.raises(ClaimError, match="row 0: metric is missing"):
        read_claims(path)


def test_a_duplicate_key_is_refused(tmp_path):
    path = tmp_path / "made_up.yaml"
    path.write_text("data: {}\ndata: {}\n", encoding="utf-8")
    with pytest.raises(ClaimError, match=r"made_up\.yaml is not valid YAML"):
        read_claims(path)


def test_every_packaged_number_is_a_fraction_with_a_source_and_a_tag():
    claims = packaged_claims()
    assert len(claims.values) > 600
    for claim in claims.values:
        assert (claim.density is None) == (claim.kind == "distill")
        assert (claim.ipc is None) == (claim.kind == "sparse")
        assert 0 < claim.value < 1
        if claim.kind == "distill":
            assert (claim.method == "whole") == (claim.ipc == 0)
            assert claim.value > 1.05 / claims.data[claim.data].classes
        else:
            assert claim.metric != "accuracy" or claim.value > 0.3
            assert (claim.method == "dense") == (claim.density == 1)
        assert claim.spread is None or claim.spread < 0.2
        assert claim.tag in TAGS
        assert claim.source.arxiv or claim.source.repository
        assert claim.where
    assert all(math.isfinite(gain.gain) for gain, _ in claims.gains)


def test_published_numbers_are_those_of_their_sources():
    """Spot checks against the tables: CigL's first and last row, RigL's author, ITOP at twice the length."""
    found = {
        (claim.source.authors, claim.model, claim.data, claim.method, claim.metric, claim.density): claim
        for claim in packaged_claims().values
        if claim.kind == "sparse" and claim.length == 1 and claim.distribution == "erk"
    }
    cigl = found[("Lei et al.", "resnet50", "cifar10", "cigl", "accuracy", 0.01)]
    assert (cigl.value, cigl.spread, cigl.spread_is, cigl.runs) == (0.9242, 0.00196, "sd", 3)
    assert found[("Lei et al.", "wrn22_2", "cifar10", "cigl", "ece", 0.01)].value == 0.0101
    author = found[("Evci et al.", "wrn22_2", "cifar10", "rigl", "accuracy", 0.1)]
    assert (author.value, author.tag) == (0.929, "I")
    long = [claim for claim in packaged_claims().values if claim.method == "itop" and claim.length == 2]
    assert [(claim.density, claim.value) for claim in long] == [(0.2, 0.769), (0.1, 0.755)]


def test_no_number_is_listed_twice():
    claims = [
        dataclasses.replace(claim, line=0, source=claim.source.cite, recipe=str(claim.recipe))
        for claim in packaged_claims().values
    ]
    assert len({str(claim) for claim in claims}) == len(claims)


@pytest.mark.parametrize(
    "spec",
    [
        {
            "kind": "sparse",
            "model": {"name": "mlp"},
            "method": {"name": "dense"},
            "schedule": {"name": "step"},
            "budget": {"epochs": 1},
        },
        {"kind": "distill", "model": {"name": "convnet"}, "method": {"name": "random", "ipc": 1}},
    ],
    ids=lambda spec: spec["kind"],
)
def test_the_recipe_keys_are_keys_of_our_specs(spec):
    resolved = load_spec({"name": "recipe", "data": {"name": "digits"}, **spec}).jobs[0].resolved
    for key in KEYS_OF_KIND[spec["kind"]]:
        table, _, field = key.partition(".")
        assert field in resolved[table]


@pytest.mark.parametrize(("kind", "at_least"), [("sparse", 20), ("distill", 100)])
def test_settings_of_our_methods_are_fields_of_theirs(kind, at_least):
    ours = {found.name for found in plugins.describe(f"{kind}.methods")}
    checked = 0
    for claim in packaged_claims().values:
        if claim.kind == kind and claim.method in ours and claim.settings:
            method = plugins.find(f"{kind}.methods", claim.method)
            for key, value in claim.settings.items():
                name, _, inner = key.partition(".")
                field = {field.name: field for field in dataclasses.fields(method)}[name]
                if inner and kind == "distill":
                    assert inner.partition(".")[0] in {f.name for f in dataclasses.fields(field.default)}
                elif kind == "distill":
                    method(**{"ipc": 1, name: value})
            checked += 1
    assert checked > at_least


DISTILLED = (
    ("kind", "distill"),
    ("protocols", {}),
    ("gains", []),
)


def distilled(tmp_path, values):
    """Returns a claims file on distillation with one line of numbers."""
    row = {"method": "rigl", "values": values, "protocol": "", "recipe": {"evaluation.epochs": 300}}
    table = {**FILE["tables"][0], "rows": [row]}
    return write_claims(tmp_path, {**dict(DISTILLED), "tables": [table]})


def test_numbers_on_distillation_are_for_images_per_class_or_the_whole_set(tmp_path):
    found = read_claims(distilled(tmp_path, {"10": 0.4, "all": 0.9})).values
    assert [(claim.kind, claim.density, claim.ipc, claim.value) for claim in found] == [
        ("distill", None, 10, 0.4),
        ("distill", None, 0, 0.9),
    ]
    assert dict(found[0].recipe) == {"evaluation.epochs": 300}
    assert found[0].is_of(density=None, ipc=10.0)
    assert not found[0].is_of(density=None, ipc=11.0)
    assert not found[0].is_of(density=0.1, ipc=None)
    assert found[1].is_of(density=None, ipc=None)
    assert not found[1].is_of(density=None, ipc=10.0)


@pytest.mark.parametrize("place", ["0", "1.5", "-3", "some"])
def test_what_is_no_number_of_images_is_refused(tmp_path, place):
    with pytest.raises(ClaimError, match=r"ipc is .*; it must be a positive integer or all|values"):
        read_claims(distilled(tmp_path, {place: 0.4}))


def test_a_recipe_of_another_kind_is_refused(tmp_path):
    path = write_claims(tmp_path, {"recipe": {"evaluation.epochs": 3}}, where=ROW)
    with pytest.raises(ClaimError, match=r"a key of the recipe is 'evaluation\.epochs'; it must be one of budget\.epochs"):
        read_claims(path)


def test_files_that_mean_different_things_by_one_name_are_refused(tmp_path):
    one = read_claims(write_claims(tmp_path))
    other = read_claims(write_claims(tmp_path, {"rigl": "RIGL"}, where=("methods",)))
    assert len(joined([one, one]).values) == 4
    with pytest.raises(ClaimError, match="rigl is RIGL in one file and RigL in another; they must agree"):
        joined([one, other])


def test_published_numbers_on_distillation_are_those_of_their_sources():
    """Spot checks against the tables, and that nothing unverified has come in."""
    found = {}
    for claim in packaged_claims().values:
        if claim.kind == "distill":
            key = (claim.source.repository.partition("/")[0], claim.method, claim.data, claim.model, claim.ipc)
            found.setdefault(key, []).append((claim.value, claim.tag))
    assert found["VICO-UoE", "dsa", "svhn", "convnet", 10] == [(0.792, "C")]
    assert found["NUS-HPC-AI-Lab", "dc", "cifar10", "convnet", 10] == [(0.449, "F")]
    assert found["snu-mllab", "idc", "cifar10", "convnet", 10] == [(0.583, "C"), (0.675, "C")]
    assert found["snu-mllab", "idc", "imagenet100", "resnet_ap_10", 20] == [(0.345, "C"), (0.537, "C")]
    accelerated = [(0.671, "F"), (0.665, "F"), (0.651, "F")]
    assert found["ncsu-dk-lab", "acc_dd", "cifar10", "convnet", 10] == accelerated
    assert found["LINs-lab", "rded", "cifar10", "convnet", 10] == [(0.502, "I")]
    assert found["NUS-HPC-AI-Lab", "whole", "cifar100", "convnet", 0] == [(0.562, "F")]
    digits = {claim.method for claim in packaged_claims().values if claim.data in ("svhn", "fashion_mnist")}
    assert digits == {"dc", "dsa", "idc"}
