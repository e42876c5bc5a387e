"""Networks of the user's own on Ray: handed over by a script, and from files of the current folder."""

import json
from pathlib import Path

import pytest
from shared_head import SharedHead
from test_importable_name import run_python

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NETS = """
from torch import nn

from sizes import HIDDEN


class Net(nn.Module):
    def __init__(self, in_features: int, num_classes: int, width: int = HIDDEN):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(in_features, width), nn.ReLU())
        self.head = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.head(self.body(images))


def build(in_features, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_features, num_classes))
"""
SCRIPT = """
import json, os, ray
from pruneyard import run
from torch import nn

ray.init(ADDRESS, log_to_driver=False)

SPEC = {
    "name": "own",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 100, "max_test": 50},
    "method": {"name": "rigl", "density": 0.5, "schedule": {"every": 2}},
    "budget": {"steps": 6, "batch_size": 16},
}

def network(in_features, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_features, num_classes))

def told(spec, out, **overrides):
    runs = run(spec, out, overrides=overrides).runs()
    return {"statuses": list(runs["status"]), "errors": [str(error) for error in runs["error"]], "keys": list(runs["run_key"])}

print(json.dumps({
    "one": told({**SPEC, "model": network}, "one"),
    "two": told({**SPEC, "model": network}, "two", **{"resources.workers": 2}),
    "files": told({**SPEC, "grid": {"model": ["nets.py:Net", os.path.abspath("nets.py") + ":build"]}}, "files"),
}))
"""


def test_ray_workers_train_networks_of_a_script_and_of_files_of_its_folder(head: SharedHead, tmp_path: Path) -> None:
    """On one worker, and on two, which train one network together."""
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "sizes.py").write_text("HIDDEN = 8\n")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("ADDRESS", repr(head.address)))
    told = json.loads(run_python(script, folder=tmp_path, env=head.env({})))
    assert told["one"]["statuses"] == told["two"]["statuses"] == ["COMPLETED"], told
    assert told["files"]["statuses"] == ["COMPLETED", "COMPLETED"], told["files"]["errors"]
    # A network of the user's own may sample random numbers, so the number of workers is part of its key.
    assert told["one"]["keys"] != told["two"]["keys"]
    head.wait_until_idle()
