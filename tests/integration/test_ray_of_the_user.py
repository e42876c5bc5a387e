"""A process that has called `ray.init` itself: studies run in its cluster, also inside an event loop, and leave it connected."""

import json
from pathlib import Path

import pytest
import yaml_spec
from shared_head import SharedHead
from test_importable_name import run_python

from pruneyard.orchestrator.results import Results

SCRIPT = """
import asyncio, json, ray, pruneyard

ray.init(ADDRESS, log_to_driver=False)

@ray.remote(num_cpus=0)
class Counter:
    def __init__(self): self.count = 0
    def add(self): self.count += 1; return self.count

counter = Counter.remote()
before = ray.get(counter.add.remote())

async def study():
    return pruneyard.run("spec.yaml", out="out")

results = asyncio.run(study())
more = pruneyard.run("spec.yaml", out="out", address=ADDRESS, overrides={"seeds": [3]}, add=True)
try:
    pruneyard.run("spec.yaml", out="elsewhere", address="127.0.0.1:1")
    refusal = ""
except Exception as error:
    refusal = f"{type(error).__name__}: {error}"
after = ray.get(counter.add.remote())
print(json.dumps({"exit_codes": [results.exit_code, more.exit_code], "counts": [before, after], "refusal": refusal}))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_study_runs_in_the_cluster_of_its_process_and_leaves_it_connected(head: SharedHead, tmp_path: Path) -> None:
    tables = yaml_spec.spec_of([{"name": "dense"}], name="small", schedule={"name": "cosine"})
    yaml_spec.write(tmp_path / "spec.yaml", {**tables, "budget": {"steps": 3, "batch_size": 32}})
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("ADDRESS", repr(head.address)))
    told = json.loads(run_python(script, folder=tmp_path, env=head.env({})))
    assert told["exit_codes"] == [0, 0]
    assert told["counts"] == [1, 2]
    assert told["refusal"].startswith("ClusterError: this process is in the Ray cluster at ")
    assert told["refusal"].endswith("before you join 127.0.0.1:1")
    assert list(Results(tmp_path / "out").runs()["status"]) == ["COMPLETED", "COMPLETED"]
    head.wait_until_idle()
