"""The memory of the first trials of a shape decides how many of the next ones a node runs at once."""

from pathlib import Path

import pytest
from driving import Patience, driving
from several_nodes import several_nodes
from watching import at_once
from yaml_spec import spec_of, write

from pruneyard.orchestrator.ray_backend.memory_requests import REQUEST_UNIT, SAFETY_FACTOR
from pruneyard.orchestrator.results import Results

pytestmark = [pytest.mark.ray, pytest.mark.nodes]


def test_trials_that_take_more_than_their_share_get_the_node_to_themselves(env: dict[str, str], tmp_path: Path) -> None:
    patience = Patience(tmp_path, 0.05)
    spec = write(tmp_path / "spec.yaml", {**spec_of([{"name": "dense"}], name="heavy"), "seeds": 4})
    out = tmp_path / "out"
    with several_nodes(env | patience.env, memory=3 * REQUEST_UNIT, head=2) as nodes:
        words = ("run", spec, "--out", out, "--address", nodes.address)
        with driving(*words, folder=tmp_path, env=nodes.env) as driver:
            assert driver.wait(within_s=300) == 0, driver.said()
    runs = Results(out).runs().sort_values("started_at")
    assert len(runs) == 4
    assert runs["peak_memory_bytes"].min() * SAFETY_FACTOR > 1.5 * REQUEST_UNIT, "torch alone fills half a node"
    assert at_once(runs) == 2, "before anything was known, there was a trial for every core"
    assert at_once(runs[2:]) == 1
