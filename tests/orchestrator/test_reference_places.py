"""Where tables of specs hold references to earlier runs, and where `from` and `runs` are a user's own keys."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pruneyard import sweep
from pruneyard.orchestrator.spec.codec import takes_any_table
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.orchestrator.spec.yaml_document import parse_value
from pruneyard.testing.cases import each_case
from pruneyard.workloads.user_code.registration import register

OWN: dict[str, Any] = {"runs": ["a", "b"], "x": {"from": "distil", "over": "seed"}, "rows": [{"runs": [1]}]}


def total(**arguments: Any) -> dict[str, float]:
    return {"runs": float(len(arguments["runs"])), "intact": float(arguments == OWN)}


class Configured(nn.Sequential):
    def __init__(self, num_classes: int, config: dict[str, Any], rows: list[Any]) -> None:
        super().__init__(nn.Flatten(), nn.LazyLinear(num_classes))


def test_arguments_of_a_function_are_no_references(tmp_path: Path) -> None:
    results = sweep(total, arguments=OWN, out=tmp_path, local=True)
    assert results.metrics().set_index("name")["value"].to_dict() == {"runs": 2.0, "intact": 1.0}


def test_arguments_of_a_network_are_no_references_beside_real_ones() -> None:
    spec = load_spec(
        {
            "name": "chain",
            "data": "digits",
            "stages": {
                "distil": {"kind": "distill", "method": {"name": "random", "ipc": 1}, "model": "mlp"},
                "train": {
                    "kind": "sparse",
                    "data": {"from": "distil"},
                    "model": {"name": register(Configured), "config": OWN, "rows": [OWN]},
                    "method": {"name": "static", "density": 0.5},
                    "budget": {"epochs": 1, "batch_size": 10},
                },
            },
        }
    )
    distilled, trained = spec.jobs
    assert trained.parents == (distilled.key,)
    assert (trained.resolved["model"]["config"], trained.identity["model"]["rows"]) == (OWN, [OWN])
    assert [job.key for job in load_spec(parse_value(spec.to_yaml())).jobs] == [job.key for job in spec.jobs]


@each_case(
    ("hint", "expected"),
    [
        (Mapping[str, Any], True),
        (dict, True),
        (dict[str, int] | None, True),
        (list[Any], True),
        (tuple[str, ...], False),
        (int | None, False),
        (nn.Module, False),
        (None, False),
    ],
)
def test_types_that_take_a_table_with_any_keys_are_known(hint: Any, expected: bool) -> None:
    assert takes_any_table(hint) is expected
