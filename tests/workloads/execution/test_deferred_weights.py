"""Large weights that are never allocated: their start, what is refused, and trainings with them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_sparse_training import OFTEN, WithEveryKind, assert_equal, final
from torch import Tensor, nn

from pruneyard.workloads.execution import deferred, layers
from pruneyard.workloads.execution.deferred import NotDeferrableError, RecordedStart
from pruneyard.workloads.masks.stored_weights import decode
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.sparse.methods.dsl_rec import DSLRec
from pruneyard.workloads.sparse.methods.itop import ITOP
from pruneyard.workloads.sparse.methods.mest import MEST, Stages
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.sparse.methods.set import SET
from pruneyard.workloads.sparse.methods.static import Static
from pruneyard.workloads.sparse.update_schedule import LastingSchedule, UpdateSchedule
from pruneyard.workloads.training.mask_updater import MaskUpdater

STARTS: dict[str, Callable[[Tensor], object]] = {
    "default": lambda weight: weight,
    "kaiming": nn.init.kaiming_uniform_,
    "xavier": nn.init.xavier_normal_,
    "constant": nn.init.ones_,
    "scaled": lambda weight: weight.data.div_(3).add_(1),
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes weights large from 1,000 entries on, and pieces of them 64."""
    for module in (deferred, layers):
        monkeypatch.setattr(module, "MIN_SIZE", 1000)
    monkeypatch.setattr(deferred, "PIECE", 64)


def network(start: Callable[[Tensor], object]) -> nn.Module:
    layers = [nn.Linear(50, 41), nn.ReLU(), nn.Linear(41, 30), nn.Linear(30, 4)]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            start(layer.weight)
    return nn.Sequential(*layers)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_entries_and_later_random_numbers_are_those_of_allocated_weights(start: Callable[[Tensor], object]) -> None:
    torch.manual_seed(5)
    allocated, after = network(start), torch.rand(3)
    torch.manual_seed(5)
    recorded = RecordedStart()
    with recorded:
        placeholders = network(start)
    assert torch.equal(torch.rand(3), after)
    weights = recorded.of(dict(placeholders.named_parameters()))
    assert list(weights) == ["0.weight", "2.weight"]
    for name, weight in allocated.named_parameters():
        if name not in weights:
            assert torch.equal(placeholders.get_parameter(name), weight)
            continue
        assert placeholders.get_parameter(name).untyped_storage().nbytes() == 4
        assert torch.equal(weights[name].dense(), weight)
        places = torch.tensor([0, 1, 63, 64, 700, weight.numel() - 1])
        assert torch.equal(weights[name].at(places), weight.flatten()[places])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("start", [nn.init.orthogonal_, lambda weight: weight.sum(), lambda weight: weight.data.copy_(weight)])
def test_what_treats_entries_unlike_is_not_recorded(start: Callable[[Tensor], object]) -> None:
    with pytest.raises(NotDeferrableError), RecordedStart():
        network(start)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "method",
    [
        Static(density=0.1),
        SET(density=0.1, schedule=OFTEN[UpdateSchedule]),
        RigL(density=0.1, schedule=OFTEN[UpdateSchedule]),
        ITOP(density=0.1, growth="random", schedule=OFTEN[LastingSchedule]),
        MEST(density=0.1, gradient_weight=0.5, schedule=OFTEN[Stages]),
        DSLRec(density=0.1, schedule=OFTEN[LastingSchedule]),
    ],
    ids=["static", "set", "rigl", "itop", "mest", "dsl_rec"],
)
@pytest.mark.parametrize(
    ("model", "small_weights"),
    [(Mlp(width=48), {"classifier.weight"}), (WithEveryKind(torch.float32), {"table.weight", "classifier.weight"})],
    ids=["mlp", "every-kind"],
)
def test_trainings_equal_masked_ones_and_their_artifacts_hold_values_and_index(
    tmp_path: Path, model: ModelBuilder, small_weights: set[str], method: MaskUpdater
) -> None:
    masked, sparse = (final(tmp_path / each, method, each, model=model) for each in ("masked", "sparse"))
    assert masked.outcome is not None
    assert sparse.outcome is not None
    large = {name.partition(":")[0] for name in sparse.outcome.weights if ":" in name}
    assert large == masked.outcome.masks.keys() - small_weights
    assert set(sparse.outcome.masks) == small_weights
    weights, masks = decode(sparse.outcome.weights)
    for field, dense in (("weights", weights), ("masks", {**sparse.outcome.masks, **masks})):
        object.__setattr__(sparse.outcome, field, dense)
    assert_equal(masked, sparse)


def test_a_damaged_index_is_refused_with_its_name() -> None:
    parts = {
        "w:values": torch.ones(3),
        "w:starts": torch.tensor([0, 2, 3]),
        "w:columns": torch.tensor([0, 3, 1]),
        "w:shape": torch.tensor([2, 4]),
    }
    weights, masks = decode(parts)
    assert weights["w"].tolist() == [[1, 0, 0, 1], [0, 1, 0, 0]]
    assert torch.equal(masks["w"], weights["w"] == 1)
    for changed, message in (
        ({"w:columns": torch.tensor([0, 4, 1])}, "w is stored sparse, but its values and index do not fit 2x4"),
        ({"w:values": torch.ones(4)}, "do not fit 2x4"),
        ({"w:starts": torch.tensor([0, 4, 3])}, "do not fit 2x4"),
    ):
        with pytest.raises(ValueError, match=message):
            decode({**parts, **changed})
    del parts["w:columns"]
    with pytest.raises(ValueError, match="w:columns is missing"):
        decode(parts)


# Unlike `ru_maxrss`, which a program inherits from the process that starts it.
PEAK_BYTES = """
def peak_bytes():
    with open("/proc/self/status") as lines:
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
"""

TRAINING = """
import sys, tempfile
from pathlib import Path
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.sparse.methods.set import SET
from pruneyard.workloads.sparse.update_schedule import UpdateSchedule
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context

method = SET(density=0.002, distribution="uniform", schedule=UpdateSchedule(every=2))
recipe = Recipe(budget=Budget(steps=4, batch_size=64, evaluate_every=0, checkpoint_every_s=0))
data = Digits(max_train=128, max_test=32).load()
with tempfile.TemporaryDirectory() as folder:
    context = Context(checkpoints=CheckpointFolder(Path(folder)))
    for width in (64, 12_000):
        *_, last = train(recipe, model=Mlp(width=width), method=method, data=data, seed=0, context=context, execution="sparse")
        print(peak_bytes())
        context = Context(checkpoints=CheckpointFolder(Path(folder) / "other"))
"""


@pytest.mark.slow
def test_a_training_takes_less_memory_than_one_dense_copy_or_mask() -> None:
    """A layer of 12,000 x 12,000 weights, dense 576 MB and its mask 144 MB, of which 288,000 are active."""
    printed = subprocess.run([sys.executable, "-c", PEAK_BYTES + TRAINING], capture_output=True, text=True, check=True).stdout
    small, large = map(int, printed.split())
    assert large - small < 100e6


BILLION = """
import sys, tempfile
from pathlib import Path
sys.path.append(sys.argv[1])
from training_loop import random_images
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.sparse.methods.set import SET
from pruneyard.workloads.sparse.update_schedule import UpdateSchedule
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context

method = SET(density=0.005, schedule=UpdateSchedule(every=1))
recipe = Recipe(budget=Budget(steps=2, batch_size=8, evaluate_every=0))
with tempfile.TemporaryDirectory() as folder:
    context = Context(checkpoints=CheckpointFolder(Path(folder)))
    model, data = Mlp(width=32_768), random_images((3, 32, 32), 16)
    *_, last = train(recipe, model=model, method=method, data=data, seed=0, context=context, execution="sparse")
moved = {metric.name: metric.value for metric in last.metrics}["explored"] > 0.0055
print(last.outcome.num_parameters, last.outcome.num_active, int(moved), peak_bytes())
"""


@pytest.mark.slow
def test_a_billion_weights_train_in_less_memory_than_a_quarter_of_one_dense_copy() -> None:
    """An MLP 3072-32768-32768-10 at density 0.005: dense, one copy of its middle layer takes 4.3 GB, its mask 1.07 GB.

    Two steps of SET and an update between them, the checkpoint and the artifact included. The peak is that of the whole process.
    """
    folder = str(Path(__file__).parents[2] / "benchmarks")
    program = [sys.executable, "-c", PEAK_BYTES + BILLION, folder]
    printed = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    num_parameters, num_active, moved, peak_bytes = map(int, printed.split())
    num_biases = 2 * 32_768 + 10
    assert num_parameters == 3072 * 32_768 + 32_768**2 + 32_768 * 10 + num_biases
    assert num_active == round(0.005 * (num_parameters - num_biases)) + num_biases
    assert moved
    assert peak_bytes < 2**30
