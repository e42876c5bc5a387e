"""The JSON Schema accepts what the reader accepts, and marks the errors that an editor can mark."""

from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from packaged import COMPLETE, packaged

from pruneyard.orchestrator.spec.json_schema import spec_schema
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.orchestrator.spec.packaged import packaged_specs
from pruneyard.orchestrator.spec.yaml_document import parse_value
from pruneyard.testing.cases import each_case
from pruneyard.workloads.plugins import kinds, names

BASE: dict[str, Any] = {
    "name": "small",
    "kind": "sparse",
    "data": "digits",
    "model": {"name": "mlp", "width": 16},
    "method": {"name": "set", "density": 0.1, "schedule": {"every": 20}},
    "budget": {"epochs": 1},
    "seeds": [1, 2],
    "resources": {"cpus": 2},
}


@cache
def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(spec_schema())


@pytest.mark.slow
def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(spec_schema())


@each_case("name", packaged_specs())
def test_packaged_specs_fit(name: str) -> None:
    text = files("pruneyard.orchestrator.specs").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    validator().validate(parse_value(text))


@pytest.mark.slow
@each_case("name", COMPLETE)
def test_resolved_jobs_fit(name: str) -> None:
    for job in packaged(name).jobs[:2]:
        table = {key: value for key, value in job.resolved.items() if key != "seed"}
        validator().validate({"name": "x", "kind": job.kind, **table})


def test_tables_that_an_axis_gives_may_be_missing() -> None:
    without = {key: value for key, value in BASE.items() if key not in ("method", "budget")}
    valid = {
        **without,
        "grid": {"method": ["dense", {"name": "set"}], "method.density": [0.1], "budget": [{"epochs": 1}]},
    }
    assert len(load_spec(valid).jobs) == 4
    validator().validate(valid)
    assert not validator().is_valid(without)


@each_case(
    "change",
    [
        {"model": "my_package.nets:Net"},
        {"model": {"name": "nets.py:Net", "width": 64}},
        {"plugins": ["mine.py", {"file": "other.py", "family": "models"}]},
    ],
)
def test_code_of_the_users_own_fits(change: dict[str, Any]) -> None:
    validator().validate(BASE | change)


@each_case(
    "change",
    [
        {"sedes": 3},
        {"kind": "sprase"},
        {"name": 3},
        {"seeds": "three"},
        {"model": "mpl"},
        {"model": {"name": "mlp", "widht": 3}},
        {"model": {"name": "mlp", "width": "wide"}},
        {"method": {"name": "set", "density": 0.1, "schedule": {"evry": 3}}},
        {"method": {"name": "set", "density": 0.1, "distribution": "erq"}},
        {"optimizer": {"name": "sgd", "beta1": 0.9}},
        {"budget": {"epoch": 3}},
        {"resources": {"cpu": 3}},
        {"grid": {"method.density": 0.1}},
        {"seed": 3},
    ],
)
def test_what_the_reader_refuses_is_marked(change: dict[str, Any]) -> None:
    validator().validate(BASE)
    assert not validator().is_valid({**BASE, **change})


def test_every_plugin_is_offered_with_its_summary_and_defaults() -> None:
    offered = {of_kind["title"]: of_kind for of_kind in spec_schema()["oneOf"]}
    assert list(offered) == [*kinds(), "chain"]
    sparse = offered["sparse"]
    by_name, *tables = sparse["properties"]["method"]["oneOf"]
    assert by_name == {"enum": names("sparse.methods")}
    (rigl,) = [table for table in tables if table["title"] == "rigl"]
    assert rigl["description"].startswith("Drop the smallest")
    assert rigl["properties"]["drop_fraction"]["default"] == 0.3


def test_a_chain_fits_and_its_references_too() -> None:
    reference = {"from": "one", "over": "seed", "where": {"method.name": "set"}}
    chain = {"name": "chain", "stages": {"one": {"kind": "sparse"}, "two": {"kind": "calibrate", "input": reference}}}
    validator().validate(chain)
    assert not validator().is_valid({**chain, "kind": "sparse"})
    assert not validator().is_valid({"name": "chain", "stages": {"one": {"kind": "sprase"}}})
    validator().validate({"name": "after", "kind": "calibrate", "input": {"from": "out/nets"}})
    assert not validator().is_valid({"name": "after", "kind": "calibrate", "input": {"from": 3}})
    validator().validate({**BASE, "data": {"from": "out/sets"}})
