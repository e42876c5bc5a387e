"""Fields that hold a list of plug-ins, each chosen by name."""

from dataclasses import dataclass
from typing import Annotated, Any

import jsonschema

from pruneyard.orchestrator.spec.codec import decode, encode
from pruneyard.orchestrator.spec.json_schema import table_schema
from pruneyard.orchestrator.spec.problem_log import ProblemLog
from pruneyard.testing.cases import each_case
from pruneyard.workloads.interfaces import RateSchedule
from pruneyard.workloads.plugins import Plugin
from pruneyard.workloads.schedules.constant import Constant
from pruneyard.workloads.schedules.cosine import Cosine
from pruneyard.workloads.schedules.step import Step


@dataclass(frozen=True, kw_only=True)
class Chain:
    schedules: tuple[Annotated[RateSchedule, Plugin("schedules")], ...] = (Cosine(), Constant())


@dataclass(frozen=True, kw_only=True)
class Needed:
    schedules: tuple[Annotated[RateSchedule, Plugin("schedules")], ...]


def decoded(value: Any) -> Any:
    log = ProblemLog()
    chain = decode(Chain, {"schedules": value}, "", log)
    assert not log.problems
    return chain.schedules


def problems(cls: type[Any], table: Any) -> list[tuple[str, str]]:
    log = ProblemLog()
    assert decode(cls, table, "", log) is None
    return [(problem.key, problem.message) for problem in log.problems]


def test_items_are_names_or_tables_and_keep_their_order() -> None:
    assert decoded([]) == ()
    assert decoded(["constant", {"name": "step", "gamma": 0.5}, {"name": "constant"}]) == (
        Constant(),
        Step(gamma=0.5),
        Constant(),
    )


def test_what_is_encoded_decodes_to_the_same_with_every_default_and_name() -> None:
    chain = Chain(schedules=(Step(gamma=0.5), Constant()))
    table = encode(chain)
    assert [item["name"] for item in table["schedules"]] == ["step", "constant"]
    assert table["schedules"][0]["milestones"] == [0.5, 0.75]
    assert decoded(table["schedules"]) == chain.schedules
    assert encode(chain, identity_only=True)["schedules"][0]["gamma"] == 0.5


@each_case(
    ("value", "key", "expected"),
    [
        (
            ["constant", "cosin"],
            "schedules[1].name",
            "is unknown: 'cosin' is none of constant, cosine, step; did you mean cosine?",
        ),
        ([{"gamma": 0.5}], "schedules[0].name", "is missing; it must be one of constant, cosine"),
        ([3], "schedules[0]", "is 3; it must be a table with a name, one of constant"),
        ([{"name": "step", "gamma": 0}], "schedules[0].gamma", "is 0"),
        (["constant", {"name": "step", "gmama": 1}], "schedules[1].gmama", "did you mean gamma?"),
        (
            "constant",
            "schedules",
            'is "constant"; it must be a list, each item a table with a name, one of constant',
        ),
        ({"name": "step"}, "schedules", "it must be a list"),
        (None, "schedules", "is null; it must be a list"),
    ],
)
def test_a_wrong_item_is_named_by_its_place(value: Any, key: str, expected: str) -> None:
    ((at, message),) = problems(Chain, {"schedules": value})
    assert at == key
    assert expected in message


def test_every_wrong_item_is_reported_and_a_missing_list_described() -> None:
    assert [key for key, _ in problems(Chain, {"schedules": ["a", "constant", "b"]})] == [
        "schedules[0].name",
        "schedules[2].name",
    ]
    ((key, message),) = problems(Needed, {})
    assert key == "schedules"
    assert message.startswith("is missing; it must be a list, each item a table with a name, one of constant")


def test_the_json_schema_offers_every_plugin_as_an_item() -> None:
    schema = table_schema(Chain)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert [item["name"] for item in schema["properties"]["schedules"]["default"]] == ["cosine", "constant"]
    valid = jsonschema.Draft202012Validator(schema).is_valid
    assert valid({"schedules": []})
    assert valid({"schedules": ["constant", {"name": "step", "gamma": 0.5}]})
    assert not valid({"schedules": "constant"})
    assert not valid({"schedules": ["cosin"]})
    assert not valid({"schedules": [{"name": "step", "gmama": 0.5}]})
