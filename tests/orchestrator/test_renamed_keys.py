"""Renamed spec keys: the old key is read as the new one, and run keys do not change."""

from typing import Any

import pytest

from pruneyard.orchestrator.errors import SpecError
from pruneyard.orchestrator.spec.load import load_spec

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
