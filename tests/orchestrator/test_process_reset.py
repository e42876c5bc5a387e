"""A reused process trains as a new one does, bit for bit."""

import subprocess
import sys
from pathlib import Path

import pytest

TRAINING = '''
import hashlib, os, random, sys, warnings
import numpy as np
import torch
from pruneyard.orchestrator.execution.process_state import ProcessSnapshot, reset_numerics
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.workload import Context
from pathlib import Path

SPEC = {
    "name": "x", "kind": "sparse", "data": {"name": "digits", "max_train": 100, "max_test": 50},
    "model": {"name": "convnet", "width": 8, "depth": 1}, "method": {"name": "set", "density": 0.5, "schedule": {"every": 3}},
    "budget": {"steps": 12, "batch_size": 16}, "augment": {"flip": True, "pad": 1},
}


def digest(folder):
    """Of the weights and predictions of one training."""
    (job,) = load_spec(SPEC).jobs
    *_, last = job.workload.run(Context(checkpoints=CheckpointFolder(Path(folder))))
    found = hashlib.sha256()
    for name, tensor in sorted(last.outcome.weights.items()):
        found.update(tensor.contiguous().numpy().tobytes())
    for split, predictions in sorted(last.outcome.predictions.items()):
        found.update(predictions.logits.tobytes())
    return found.hexdigest()


def dirty(folder):
    """Everything that a careless trial can leave behind."""
    random.seed(5)
    np.random.seed(5)
    np.seterr(all="raise")
    torch.manual_seed(5)
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True)
    torch.autograd.set_detect_anomaly(True)
    torch.set_autocast_enabled("cpu", True)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = not torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.enabled = False
    os.environ["PRUNEYARD_DATA"] = "/nowhere"
    os.environ["LEFT_BEHIND"] = "1"
    del os.environ["TO_BE_KEPT"]
    os.chdir(folder)


os.environ["TO_BE_KEPT"] = "1"
data_folder = os.environ.get("PRUNEYARD_DATA")
scratch = sys.argv[1]
os.makedirs(f"{scratch}/elsewhere")
warnings.simplefilter("ignore")
torch.set_num_threads(1)
pristine, here = ProcessSnapshot.capture(), os.getcwd()
CUDNN = ("benchmark", "deterministic", "allow_tf32", "enabled")
cudnn = [getattr(torch.backends.cudnn, name) for name in CUDNN]
fresh = digest(f"{scratch}/fresh")
dirty(f"{scratch}/elsewhere")
pristine.restore(threads=1)
assert torch.get_num_threads() == 1
assert (os.getcwd(), os.environ["TO_BE_KEPT"]) == (here, "1")
assert "LEFT_BEHIND" not in os.environ and os.environ.get("PRUNEYARD_DATA") == data_folder
assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
assert not torch.is_autocast_enabled("cpu") and not torch.are_deterministic_algorithms_enabled()
assert torch.get_float32_matmul_precision() == "highest" and not torch.is_anomaly_enabled()
assert [getattr(torch.backends.cudnn, name) for name in CUDNN] == cudnn
assert str(torch.zeros(1).device) == "cpu"
assert np.geterr() == {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
first = (random.random(), np.random.rand(), float(torch.rand(1)))
after_dirt = digest(f"{scratch}/after-dirt")
pristine.restore(threads=1)
assert (random.random(), np.random.rand(), float(torch.rand(1))) == first
print(fresh, after_dirt)
'''


@pytest.mark.slow
def test_a_training_after_a_dirty_one_equals_that_of_a_fresh_process(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", TRAINING, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fresh, after_dirt = done.stdout.split()
    assert fresh == after_dirt
