"""A training that compiles nothing starts without the modules that take seconds to import, and compiles as ever if asked to."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys

import torch

import pruneyard.orchestrator.ray_backend.trial_process  # what a process of trials imports
import pruneyard.workloads.data.sources.digits
from pruneyard.orchestrator.execution.process_state import reset_numerics
from pruneyard.workloads.networks.deferred_compiler import freeze_imports

if "freeze" in sys.argv:
    freeze_imports()
# Imported after it.
from pruneyard.workloads.networks.flops import macs_of
from pruneyard.workloads.plugins import find

reset_numerics(threads=1)
assert macs_of(find("models", "mlp")(), (3, 32, 32), 10)
assert "triton" not in sys.modules
assert macs_of(find("models", "resnet18")(), (3, 32, 32), 10)
layer = torch.nn.Linear(3, 2)
inputs = torch.ones(4, 3)
for family in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
    optimizer = family(layer.parameters(), lr=0.1)
    layer(inputs).square().sum().backward()
    before = layer.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(layer.weight, before)
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
    assert torch.is_grad_enabled()
slow = ("torch._dynamo", "sklearn", "scipy", "ray.job_submission", "ray.tune", "ray.train")
print(*(name for name in slow if name in sys.modules), "are imported")

compiled = torch.compile(layer, backend="eager", fullgraph=True)
compiled(inputs).sum().backward()
before = layer.weight.detach().clone()
optimizer.step()
assert not torch.equal(layer.weight, before)
assert macs_of(find("models", "vgg11")(), (3, 32, 32), 10)
optimizer.zero_grad()
print("zero_grad is hidden by", getattr(torch.optim.Optimizer.zero_grad.__wrapped__, "__dynamo_disable").__module__)
"""


@pytest.mark.parametrize("how", ["freeze", "as they are"])
def test_a_training_imports_neither_the_compiler_nor_other_slow_modules(how: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["are imported", "zero_grad is hidden by torch._dynamo.eval_frame"], done.stderr
