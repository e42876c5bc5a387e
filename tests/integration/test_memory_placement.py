"""The memory of the first trials of a shape decides how many of the next ones a node runs at once."""

from pathlib import Path

import pytest
from driving import StepDelay, driving
from several_nodes import several_nodes
from watching import max_concurrent
from yaml_spec import spec_of, write

from pruneyard.orchestrator.ray_backend.memory_requests import REQUEST_UNIT, SAFETY_FACTOR
from pruneyard.orchestrator.results import Results

pytestmark = [pytest.mark.ray, pytest.mark.nodes]


def test_trials_that_take_more_than_their_share_get_the_node_to_themselves(env: dict[str, str], tmp_path: Path) -> None:
    step_delay = StepDelay(tmp_path, 0.05)
    spec = write(tmp_path / "spec.yaml", {**spec_of([{"name": "dense"}], name="heavy"), "seeds": 4})
    out = tmp_path / "out"
    with several_nodes(env | step_delay.env, memory=3 * REQUEST_UNIT, head=2) as nodes:
        command = ("run", spec, "--out", out, "--address", nodes.address)
        with driving(*command, folder=tmp_path, env=nodes.env) as driver:
            assert driver.wait(within_s=300) == 0, driver.output()
    runs = Results(out).runs().sort_values("started_at")
    assert len(runs) == 4
    assert runs["peak_memory_bytes"].min() * SAFETY_FACTOR > 1.5 * REQUEST_UNIT, "a trial takes more than half of the node"
    assert max_concurrent(runs) == 2, "before the memory of a trial is known, every core gets one"
    assert max_concurrent(runs[2:]) == 1
