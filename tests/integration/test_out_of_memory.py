"""A trial that takes more memory than its node has is killed by Ray's monitor: this is reported, and the others finish."""

from pathlib import Path

import psutil
import pytest
import yaml_spec
from comparing import assert_same_numbers
from driving import driving
from several_nodes import several_nodes

from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.nodes]

FREE_BYTES, HOG_BYTES = 3 * 2**30, 5 * 2**30  # what the node may use beyond its present use, and what the trial takes


def test_a_trial_out_of_memory_fails_with_that_word_and_the_others_finish(
    env: dict[str, str], tmp_path: Path
) -> None:
    memory = psutil.virtual_memory()
    if memory.available < HOG_BYTES + 2 * 2**30:
        pytest.skip(f"wants {(HOG_BYTES + 2 * 2**30) >> 30} GiB of free memory")
    variables = {
        "RAY_memory_usage_threshold": str(1 - (memory.available - FREE_BYTES) / memory.total),
        "HOG_BYTES": str(HOG_BYTES),
    }
    tables = yaml_spec.spec_of([{"name": "static", "density": 0.2}], name="memory")
    tables["grid"]["schedule"] = [{"name": "memory_hog"}, {"name": "cosine"}]
    del tables["schedule"]
    spec = yaml_spec.write(tmp_path / "spec.yaml", tables)
    with (
        several_nodes(env, variables, head=1) as nodes,
        driving(
            "run", spec, "--out", "out", "--address", nodes.address, folder=tmp_path, env=nodes.env
        ) as driver,
    ):
        assert driver.wait(within_s=300) == 1, driver.output()
    attempts = Store(RunFolder(tmp_path / "out")).runs(latest=False).to_pandas().sort_values("attempt")
    is_hog = attempts["spec_json"].str.contains('"memory_hog"')
    failed = attempts["status"] == "FAILED"
    assert list(attempts[is_hog]["status"]) == ["FAILED"] * 3
    # Other programs of the machine count too, so Ray may also have ended the other trial, which then resumed.
    assert attempts[~is_hog]["status"].iloc[-1] == "COMPLETED"
    for error in attempts[failed]["error"]:
        assert (
            error.splitlines()[-1]
            == "out of memory: the node ran low, and Ray ended the process of this trial"
        )
    assert "was ended by Ray: out of memory on its node" in driver.stderr
    (failure,) = [line for line in driver.stdout.splitlines() if line.startswith("FAILED")]
    assert "out of memory" in failure
    assert set(Results(tmp_path / "out").runs()["status"]) == {"COMPLETED", "FAILED"}
    tables["grid"]["schedule"] = [{"name": "cosine"}]
    run(tables, tmp_path / "reference", local=True)
    assert_same_numbers(tmp_path / "out", tmp_path / "reference")
