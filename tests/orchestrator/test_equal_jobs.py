"""Searches that skip what computes the same: what is taken for equal is equal bit for bit, and what differs late is not."""

import json
from pathlib import Path
from typing import Any

import pytest

from pruneyard import run
from pruneyard.orchestrator.errors import SpecError
from pruneyard.orchestrator.search.equal_jobs import equal_jobs
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.layout import RunFolder

NETWORK = """
from torch import nn


class Net(nn.Module):
    def __init__(self, image_shape, num_classes, width=8, share=1.0, drop=0.0, note="", kept=0):
        super().__init__()
        self.kept = kept
        size = image_shape[0] * image_shape[1] * image_shape[2]
        hidden = round(width * share)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(size, hidden), nn.Dropout(drop), nn.Linear(hidden, num_classes))

    def forward(self, images):
        return self.layers(images)
"""
STEP = {"name": "step", "milestones": [0.5], "gamma": 0.1}


def table(**changes: Any) -> dict[str, Any]:
    base = {
        "name": "equal",
        "kind": "sparse",
        "data": {"name": "digits", "max_train": 100, "max_test": 50},
        "model": {"name": "mlp", "width": 8},
        "method": {"name": "set", "density": 0.5, "schedule": {"every": 2}},
        "budget": {"steps": 7, "batch_size": 16, "evaluate_every": 0},
    }
    return base | changes


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(NETWORK)
    return f"{tmp_path}/nets.py:Net"


def twins(one: dict[str, Any], other: dict[str, Any]) -> bool:
    jobs = [load_spec(each).jobs[0] for each in (one, other)]
    assert jobs[0].key != jobs[1].key
    return equal_jobs(jobs) == {jobs[1].key: jobs[0].key}


def weights(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(RunFolder(folder).artifacts.glob("*/model.safetensors"))]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({**STEP, "milestones": [0.5]}, {**STEP, "milestones": [0.51]}),  # the first step from there on is the fourth
        ({"name": "cosine"}, {"name": "cosine", "warmup": 0.01}),  # of seven steps none
        ({"name": "constant"}, {**STEP, "milestones": [0.99]}),
    ],
)
def test_schedules_that_agree_at_every_step_are_equal_and_so_are_their_networks(
    one: dict[str, Any], other: dict[str, Any], tmp_path: Path
) -> None:
    assert twins(table(schedule=one), table(schedule=other))
    for number, schedule in enumerate((one, other)):
        assert run(table(schedule=schedule), out=tmp_path / str(number), local=True).exit_code == 0
    assert weights(tmp_path / "0") == weights(tmp_path / "1") != []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"schedule": {"name": "constant"}}, {"schedule": {**STEP, "milestones": [0.8]}}),  # equal for six of seven steps
        ({"schedule": STEP}, {"schedule": {**STEP, "gamma": 0.2}}),
        ({}, {"seeds": [1]}),
        ({}, {"optimizer": {"name": "sgd", "lr": 0.05}}),
        ({}, {"method": {"name": "set", "density": 0.5, "schedule": {"every": 3}}}),
        ({}, {"model": {"name": "mlp", "width": 9}}),
    ],
)
def test_what_differs_anywhere_in_the_training_is_not_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert not twins(table(**one), table(**other))


def test_networks_are_equal_if_all_of_their_attributes_are(net: str) -> None:
    def model(**fields: Any) -> dict[str, Any]:
        return table(model={"name": net, **fields})

    assert twins(model(note="a"), model(note="b"))
    assert twins(model(width=8), model(width=16, share=0.5))
    assert not twins(model(drop=0.0), model(drop=0.5)), "dropout is no part of the function at the start"
    assert not twins(model(kept=0), model(kept=1)), "a forward may read it later"


def test_a_search_takes_the_earlier_run_and_says_so_in_its_journal(net: str, tmp_path: Path) -> None:
    search = {"name": "lissnas", "max_trials": 6, "batch": 3, "metric": "val/nll", "mode": "min", "skip_equal": True}
    space = {"model.note": {"choices": ["a", "b", "c", "d"]}, "schedule.warmup": {"low": 0.001, "high": 0.01}}
    spec = table(model={"name": net}, schedule={"name": "cosine"}, search={**search, "space": space}, seeds=2)
    for _ in range(2):  # the second call finds everything finished
        results = run(spec, out=tmp_path / "out", local=True)
        assert results.exit_code == 0
        assert len(results.runs()) == 2, "one setting, twice: all proposals compute the same"
    (journal,) = (tmp_path / "out/searches").glob("*.jsonl")
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    keys = set(results.runs()["run_key"])
    equal = {key: earlier for entry in entries for key, earlier in entry.get("equal", {}).items()}
    assert len(equal) == 2 * 6 - 2
    assert set(equal.values()) == keys
    assert keys.isdisjoint(equal)

    everything = run({**spec, "search": {**search, "skip_equal": False, "space": space}}, out=tmp_path / "all", local=True).runs()
    assert len(everything) == 12
    assert len(set(weights(tmp_path / "all"))) == 2, "one network for each seed: nothing that was skipped differs"


@pytest.mark.parametrize(("name", "more"), [("random", {}), ("pbt", {"metric": "val/accuracy"})])
def test_only_searches_in_rounds_skip(name: str, more: dict[str, Any]) -> None:
    space = {"optimizer.lr": {"low": 0.01, "high": 0.1}}
    with pytest.raises(SpecError, match="skip_equal: is true"):
        load_spec(table(search={"name": name, "max_trials": 4, "skip_equal": True, "space": space, **more}))
