"""Another Ray cluster alive on the machine: joined by nobody who did not ask for it, and in nobody's way."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml_spec
from driving import Patience, driving
from several_nodes import Nodes, several_nodes

from pruneyard.orchestrator.results import Results

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def stray(env: dict[str, str]) -> Iterator[Nodes]:
    """With room for trials, and a token that only its own environment has."""
    with several_nodes(env, head=1) as nodes:
        yield nodes


def test_successive_halving_on_a_cluster_of_its_own_leaves_the_other_alone(
    stray: Nodes, env: dict[str, str], tmp_path: Path
) -> None:
    spec = yaml_spec.write(tmp_path / "spec.yaml", yaml_spec.halved())
    told = env | Patience(tmp_path, 0.02).env | {"RAY_ADDRESS": stray.address}
    with driving("run", spec, "--out", "out", folder=tmp_path, env=told) as driver:
        driver.wait_until(lambda: bool(driver.actors()), within_s=120)
        assert not stray["head"].trials()
        assert driver.wait(within_s=180) == 0, driver.said()
        driver.seconds_until_gone()
    statuses = Results(tmp_path / "out").runs()["status"].value_counts()
    assert statuses["COMPLETED"] >= 1
    assert statuses["PRUNED"] >= 1
    assert statuses.sum() == 4


def test_auto_is_refused_in_seconds_by_a_cluster_whose_token_is_another_one(
    stray: Nodes, env: dict[str, str], tmp_path: Path
) -> None:
    spec = yaml_spec.write(tmp_path / "spec.yaml", yaml_spec.spec_of([{"name": "dense"}], name="small"))
    told = env | {
        "RAY_AUTH_TOKEN": "another",
        "RAY_ADDRESS": stray.address,
    }  # were it the only one, it would be found
    started = time.monotonic()
    with driving(
        "run",
        spec,
        "--out",
        "out",
        "--address",
        "auto",
        folder=tmp_path,
        env=told,
    ) as driver:
        assert driver.wait(within_s=180) == 4, driver.said()
    print(f"auto was refused after {time.monotonic() - started:.1f} s")
    assert time.monotonic() - started < 40
    assert "no token, or a wrong one, for the Ray cluster at " in driver.stderr
    assert "Traceback" not in driver.stderr
    assert not (tmp_path / "out" / "artifacts").exists()


def test_auto_joins_the_cluster_of_this_machine(stray: Nodes, tmp_path: Path) -> None:
    spec = yaml_spec.write(tmp_path / "spec.yaml", yaml_spec.spec_of([{"name": "dense"}], name="small"))
    told = stray.env | {"RAY_ADDRESS": stray.address}
    with driving("run", spec, "--out", "out", "--address", "auto", folder=tmp_path, env=told) as driver:
        assert driver.wait(within_s=180) == 0, driver.said()
    assert list(Results(tmp_path / "out").runs()["status"]) == ["COMPLETED"]
