"""Data on Ray: one copy per node that all its trials read in place, and jobs whose data are not plain arrays."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml_spec
from driving import driving
from shared_head import SharedHead

from pruneyard.orchestrator.results import Results

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NODES_SPEC: dict[str, Any] = {
    "name": "graph",
    "kind": "nodes",
    "data": {"name": "block_model", "num_nodes": 300, "minority_fraction": 0.2},
    "minority": "rare",
    "split": {"name": "drawn", "per_class": 8, "num_val": 50, "num_calib": 20, "num_test": 50},
    "budget": {"steps": 20},
    "grid": {"method": ["recalibrated", {"name": "calirare", "steps": 5}]},
    "resources": {"cpus": 1},
}
ADDRESSES = """
import json, os, time, ray
from pruneyard.orchestrator.ray_backend.shared_data import shared_data_loader
from pruneyard.workloads.data.sources.digits import Digits

@ray.remote(num_cpus=1)
def address_of_images(data, together):
    images = shared_data_loader(data)(Digits()).train.images
    deadline = time.monotonic() + 60
    os.close(os.open(os.path.join(together, str(os.getpid())), os.O_CREAT))
    while len(os.listdir(together)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    address, writable = images.__array_interface__["data"][0], images.flags.writeable
    for line in open("/proc/self/maps"):
        span, rights, offset, device, inode, *_ = line.split()
        start, end = (int(part, 16) for part in span.split("-"))
        if start <= address < end:
            place = [device, inode, int(offset, 16) + address - start]
            return {"pid": os.getpid(), "place": place, "shared": rights[3], "writable": writable}

ray.init(ADDRESS, log_to_driver=False)
data = {Digits(): ray.put(Digits().load())}
print(json.dumps(ray.get([address_of_images.remote(data, TOGETHER) for _ in range(2)])))
ray.shutdown()
"""
COUNTED_PUTS = """
import json, ray
from pruneyard.orchestrator.driver.run import run
from pruneyard.workloads.data.dataset import Dataset

put, found = ray.put, []
def counted(value, *args, **kwargs):
    found.append(isinstance(value, Dataset))
    return put(value, *args, **kwargs)
ray.put = counted
results = run(json.loads(SPEC), "out", address=ADDRESS)
print(json.dumps([results.exit_code, len(results.runs()), sum(found)]))
"""
SEARCH_SPEC: dict[str, Any] = {
    "name": "rounds",
    "kind": "sparse",
    "data": "digits",
    "model": {"name": "mlp", "width": 8},
    "method": "dense",
    "budget": {"steps": 2},
    "search": {
        "name": "tpe",
        "max_trials": 3,
        "batch": 1,
        "metric": "val/accuracy",
        "space": {"optimizer.lr": {"low": 0.01, "high": 1.0}},
    },
    "resources": {"cpus": 1},
}


def run_program(program: str, head: SharedHead, folder: Path, **names: str) -> Any:
    """Runs a program with these names replaced by string literals; returns the JSON of its last line."""
    for name, text in {"ADDRESS": head.address, **names}.items():
        program = program.replace(name, repr(text))
    command = [sys.executable, "-c", program]
    completed = subprocess.run(
        command, env=head.env({}), cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout.splitlines()[-1])


def test_a_study_of_many_rounds_shares_its_data_once(head: SharedHead, tmp_path: Path) -> None:
    """Every round of a search, generation and rung is a study of Tune's own, which would keep a copy until the end."""
    assert run_program(COUNTED_PUTS, head, tmp_path, SPEC=json.dumps(SEARCH_SPEC)) == [0, 3, 1]


def test_trials_of_one_node_read_the_same_memory(head: SharedHead, tmp_path: Path) -> None:
    """Both run at once, each in its process, and see the same bytes of the same mapped file, which neither may write."""
    together = tmp_path / "together"
    together.mkdir()
    one, other = run_program(ADDRESSES, head, tmp_path, TOGETHER=str(together))
    assert one["pid"] != other["pid"]
    assert one["place"] == other["place"]
    assert {found["shared"] for found in (one, other)} == {"s"}
    assert not one["writable"]
    assert not other["writable"]


def test_jobs_on_a_graph_give_the_numbers_they_give_without_ray(
    env: dict[str, str], head: SharedHead, tmp_path: Path
) -> None:
    spec = yaml_spec.write(tmp_path / "spec.yaml", NODES_SPEC)
    head.run("run", spec, "--out", "ray", folder=tmp_path)
    with driving("run", spec, "--out", "local", "--local", folder=tmp_path, env=env) as driver:
        assert driver.wait(within_s=300) == 0, driver.output()
    found = []
    for out in ("ray", "local"):
        rows = Results(tmp_path / out).metrics()
        names = ["run_key", "split", "name"]
        found.append(rows.astype(dict.fromkeys(names, str)).set_index([*names, "step"])["value"].sort_index())
    assert len(found[0]) > 50
    pd.testing.assert_series_equal(found[0], found[1], check_exact=True)
