"""Renamed spec keys: the old key is read as the new one, and run keys do not change."""

from typing import Any

import pytest

from pruneyard.orchestrator.errors import SpecError
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.orchestrator.spec.yaml_document import parse_value

PLAIN: dict[str, Any] = {
    "name": "renamed",
    "kind": "sparse",
    "data": "digits",
    "model": {"name": "mlp", "width": 8},
    "method": {"name": "rigl", "density": 0.5},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "budget": {"epochs": 1, "batch_size": 32},
}
NOISE_KEY = "6d0c39ac6404c21e"  # of the job below, before `unknowns` became `ood`


def keys(spec: Any, **changes: Any) -> list[str]:
    return [job.key for job in load_spec(spec, **changes).jobs]


def test_an_old_key_means_the_new_one_wherever_a_spec_may_give_it() -> None:
    present = keys({**PLAIN, "ood": ["noise"]})
    assert present == [NOISE_KEY]
    assert keys({**PLAIN, "unknowns": ["noise"]}) == present
    assert keys(PLAIN, overrides={"unknowns": ["noise"]}) == present
    assert keys(PLAIN, axes={"unknowns": [["noise"]]}) == present
    assert keys({**PLAIN, "grid": {"unknowns": [["noise"]]}}) == present
    assert keys({**PLAIN, "variants": [{"unknowns": ["noise"]}]}) == present
    chain = {"name": "chain", "unknowns": ["noise"], "stages": {"train": {k: v for k, v in PLAIN.items() if k != "name"}}}
    assert keys(chain) == present


def test_the_spec_as_run_has_the_new_key_and_reads_back_the_same() -> None:
    spec = load_spec({**PLAIN, "unknowns": ["noise"]})
    text = spec.to_yaml()
    assert "ood:" in text
    assert "unknowns" not in text
    assert spec.jobs[0].resolved["ood"][0]["name"] == "noise"
    assert spec.jobs[0].identity["unknowns"], "identities keep the old key, so that results stay valid"


def test_both_keys_at_once_are_refused() -> None:
    with pytest.raises(SpecError, match="unknowns: is the old name of ood, which is given too; leave one of them out"):
        load_spec({**PLAIN, "unknowns": ["noise"], "ood": ["noise"]})


def test_a_problem_below_an_old_key_names_its_line(tmp_path: Any) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(
        "name: old\nkind: sparse\ndata: digits\nmodel: mlp\nmethod: {name: rigl, density: 0.5}\n"
        "optimizer: {name: sgd, lr: 0.1}\nbudget: {epochs: 1, batch_size: 32}\nunknowns:\n  - noise\n  - nois\n"
    )
    with pytest.raises(SpecError, match=r"old\.yaml:10: ood\[1\]\.name: is unknown: .*did you mean noise"):
        load_spec(path)


PART = {**PLAIN, "data": {"name": "selected", "base": "digits", "selector": "random", "fraction": 0.5}}
OLD_PART = {**PLAIN, "data": {"name": "selected", "of": "digits", "select": "random", "share": 0.5}}


def test_an_old_key_inside_a_table_means_the_new_one_wherever_a_spec_may_give_it() -> None:
    present = keys(PART, overrides={"data.fraction": 0.25, "data.base.split_seed": 1})
    assert keys(OLD_PART) == keys(PART) != present
    for spec in (PART, OLD_PART):
        assert keys(spec, overrides={"data.share": 0.25, "data.of.split_seed": 1}) == present
        assert keys(spec, axes={"data.share": [0.25], "data.of.split_seed": [1]}) == present
        assert keys({**spec, "grid": {"data.share": [0.25], "data.base.split_seed": [1]}}) == present
        replaced = {**spec, "grid": {"data.share": [0.75]}}
        assert keys(replaced, overrides={"data.fraction": 0.25, "data.of.split_seed": 1}) == present


def test_a_search_proposes_the_same_under_both_names_of_a_key() -> None:
    def proposed(spec: dict[str, Any], key: str) -> list[str]:
        space = {key: {"low": 0.1, "high": 0.9}, "optimizer.lr": {"low": 0.01, "high": 1.0}}
        return keys({**spec, "search": {"name": "sobol", "max_trials": 4, "space": space}})

    assert len(set(proposed(OLD_PART, "data.share"))) == 4
    assert proposed(OLD_PART, "data.share") == proposed(PART, "data.fraction") == proposed(PART, "data.share")
    methods = {"grid": {"method": [{"name": "one_shot", "density": 0.1}]}}
    chosen = {name: table for name, table in PLAIN.items() if name != "method"} | methods
    assert proposed(chosen, "method.at") == proposed(chosen, "method.prune_at")


def test_labels_and_the_spec_as_run_have_the_new_keys_inside_tables() -> None:
    spec = load_spec({**OLD_PART, "grid": {"data.share": [0.25, 0.5], "data.select": ["random", "herding"]}})
    assert len(spec.jobs) == 4
    assert all("fraction=" in job.label for job in spec.jobs)
    assert keys(parse_value(spec.to_yaml())) == [job.key for job in spec.jobs]


def test_both_names_of_an_axis_are_refused() -> None:
    message = "grid.data.share: is the old name of data.fraction, which is given too; leave one of them out"
    with pytest.raises(SpecError, match=message):
        load_spec({**PART, "grid": {"data.share": [0.25], "data.fraction": [0.5]}})


def test_a_reference_finds_runs_by_old_and_by_new_keys() -> None:
    train = {name: table for name, table in PART.items() if name != "name"} | {"grid": {"data.fraction": [0.25, 0.5]}}

    def chain(where: dict[str, Any]) -> list[str]:
        calibrate = {"kind": "calibrate", "input": {"from": "train", "where": where}}
        return keys({"name": "chain", "stages": {"train": train, "calibrate": calibrate}})

    assert chain({"data.share": 0.25}) == chain({"data.fraction": 0.25})
    assert len(chain({"data.of.name": "digits"})) == len(chain({"data.base.name": "digits"})) == 4
