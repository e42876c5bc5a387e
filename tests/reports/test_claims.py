"""The papers' numbers: the packaged file loads and is well formed, and what does not fit is refused by name."""

import copy
import dataclasses
import json
import math

import pytest

from orchestrator.spec import load_spec
from reports.claims.claim import RECIPE_KEYS, TAGS
from reports.claims.reading import ClaimError, packaged_claims, read_claims
from workloads import plugins

FILE = {
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
            "host": "RigL",
            "metric": "auroc",
            "gain": 0.08,
            "unit": "points",
            "source": "paper",
            "tag": "A",
        }
    ],
}


def written(tmp_path, changes=(), *, where=()):
    """The file of above with values changed at a path of keys; None takes a key away."""
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
    first, second = read_claims(written(tmp_path)).values
    assert (first.density, first.value, first.spread, first.spread_is) == (0.2, 0.93, 0.001, "sd")
    assert (second.density, second.value, second.spread, second.spread_is) == (0.1, 0.92, None, "")
    assert first.line == second.line
    assert first.recipe["budget.epochs"] == 500
    assert first.recipe["gradient.name"] == "plain"
    assert first.train_rows == 45_000
    assert first.source.cite == "A et al. 2020, arXiv 1234.56789"


@pytest.mark.parametrize(
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
            "spread is missing beside values.0.1; it must be sd",
        ),
        (ROW, {"spread": "sem"}, "spread is 'sem'; input should be 'sd', 'unknown' or ''"),
        (ROW, {"tag": "U"}, "tag is 'U'; input should be 'P', 'C', 'I', 'A' or 'D'"),
        (ROW, {"metric": "ece"}, "bins is None; it must be given for ece"),
        (ROW, {"metric": "auroc"}, "metric is 'auroc'; input should be 'accuracy' or 'ece'"),
        (ROW, {"length": 0}, "length is 0.0; it must be above 0"),
        (ROW, {"recipe": {"budget.epoch": 3}}, "recipe.budget.epoch is unknown; allowed are budget.epochs,"),
        (ROW, {"protocol": "unusual"}, "protocol is 'unusual'; it must be one of usual"),
        (ROW, {"data": "cifar"}, "data is 'cifar'; it must be one of cifar10"),
        (("sources", "paper"), {"arxiv": ""}, "sources.paper: arxiv is missing, and so is repository"),
        (("sources", "paper"), {"doi": "10"}, "sources.paper: doi is unknown; allowed are authors, year"),
        (("protocols", "usual"), {"epochs": 3}, "protocols.usual: epochs is unknown; allowed are train_rows"),
        (("gains", 0), {"gain": 8.4}, r"gains\[0\]: gain is 8.4; it must be a fraction in \[-1, 1\]"),
        (("gains", 0), {"unit": "percent"}, "unit is 'percent'; input should be 'points' or 'relative'"),
        ((), {"notes": []}, "notes is unknown; allowed are data, models"),
        ((), {"models": 3}, "models is 3; it must be a table"),
    ],
)
def test_what_does_not_fit_is_refused_with_file_entry_key_and_what_is_allowed(
    tmp_path, where, changes, message
):
    with pytest.raises(ClaimError, match=message) as caught:
        read_claims(written(tmp_path, changes, where=where))
    assert str(caught.value).startswith("made_up.yaml: ")


def test_a_missing_key_is_named(tmp_path):
    path = written(tmp_path, {"metric": None}, where=("tables", 0, "common"))
    with pytest.raises(ClaimError, match="row 0: metric is missing; it must be given"):
        read_claims(path)


def test_a_duplicate_key_is_refused(tmp_path):
    path = tmp_path / "made_up.yaml"
    path.write_text("data: {}\ndata: {}\n", encoding="utf-8")
    with pytest.raises(ClaimError, match=r"made_up\.yaml: is no valid YAML"):
        read_claims(path)


def test_every_packaged_number_is_a_fraction_with_a_source_and_a_tag():
    claims = packaged_claims()
    assert len(claims.values) > 250
    for claim in claims.values:
        assert 0 < claim.density <= 1
        assert 0 < claim.value < 1
        assert claim.metric != "accuracy" or claim.value > 0.3
        assert claim.spread is None or claim.spread < 0.2
        assert claim.tag in TAGS
        assert claim.source.arxiv or claim.source.repository
        assert claim.where
        assert (claim.method == "dense") == (claim.density == 1)
    assert all(math.isfinite(gain.gain) for gain, _ in claims.gains)


def test_numbers_stand_as_they_were_read():
    """Spot checks against the tables: CigL's first and last row, RigL's author, ITOP at twice the length."""
    found = {
        (claim.source.authors, claim.model, claim.data, claim.method, claim.metric, claim.density): claim
        for claim in packaged_claims().values
        if claim.length == 1 and claim.distribution == "erk"
    }
    cigl = found[("Lei et al.", "resnet50", "cifar10", "cigl", "accuracy", 0.01)]
    assert (cigl.value, cigl.spread, cigl.spread_is, cigl.runs) == (0.9242, 0.00196, "sd", 3)
    assert found[("Lei et al.", "wrn22_2", "cifar10", "cigl", "ece", 0.01)].value == 0.0101
    author = found[("Evci et al.", "wrn22_2", "cifar10", "rigl", "accuracy", 0.1)]
    assert (author.value, author.tag) == (0.929, "I")
    long = [claim for claim in packaged_claims().values if claim.method == "itop" and claim.length == 2]
    assert [(claim.density, claim.value) for claim in long] == [(0.2, 0.769), (0.1, 0.755)]


def test_no_number_stands_twice():
    told = [
        dataclasses.replace(claim, line=0, source=claim.source.cite, recipe=str(claim.recipe))
        for claim in packaged_claims().values
    ]
    assert len({str(claim) for claim in told}) == len(told)


def test_the_recipe_keys_are_keys_of_our_specs():
    spec = {
        "name": "recipe",
        "kind": "sparse",
        "data": {"name": "digits"},
        "model": {"name": "mlp"},
        "method": {"name": "dense"},
        "schedule": {"name": "step"},
        "budget": {"epochs": 1},
    }
    resolved = load_spec(spec).jobs[0].resolved
    for key in RECIPE_KEYS:
        table, _, field = key.partition(".")
        assert field in resolved[table]


def test_settings_of_our_methods_are_fields_of_theirs():
    ours = {found.name for found in plugins.describe("sparse.methods")}
    checked = 0
    for claim in packaged_claims().values:
        if claim.method in ours and claim.settings:
            fields = {
                field.name for field in dataclasses.fields(plugins.find("sparse.methods", claim.method))
            }
            assert {key.partition(".")[0] for key in claim.settings} <= fields
            checked += 1
    assert checked > 20
