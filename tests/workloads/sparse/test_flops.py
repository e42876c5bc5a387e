import ast
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pruneyard.workloads.networks.flops import forward_flops, layer_macs, training_flops


class Everything(nn.Module):
    """A network with strided, grouped, transposed, shared and unused layers, statistics, dropout and tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, groups=4, padding=1, bias=False)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.tokens = nn.Linear(4, 4)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(4, 5)
        self.unused = nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.up(self.grouped(self.norm(self.stem(images))).relu())
        tokens = self.tokens(hidden.flatten(2).transpose(1, 2))
        return self.head(self.dropout(self.tokens(tokens)).mean(1))


def test_multiply_adds_by_hand() -> None:
    macs = layer_macs(Everything(), (3, 10, 10))
    assert macs == {
        "stem.weight": 3 * 8 * 9 * 25,
        "grouped.weight": 2 * 8 * 9 * 25,
        "up.weight": 8 * 4 * 4 * 25,
        "tokens.weight": 2 * 4 * 4 * 100,  # called twice, on 100 tokens
        "head.weight": 4 * 5,
        "unused.weight": 0,
    }


def test_the_sum_agrees_with_the_counter_of_torch() -> None:
    model = Everything().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 10, 10))
    assert 2 * sum(layer_macs(model, (3, 10, 10)).values()) == counter.get_total_flops()


def test_counting_changes_neither_the_model_nor_the_random_state() -> None:
    model = Everything().train()
    model.norm.eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    layer_macs(model, (3, 10, 10))
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


def test_a_network_whose_statistics_need_many_values_is_counted_while_it_trains() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4)).train()
    assert layer_macs(model, (3, 2, 2)) == {"0.weight": 48}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions_are_counted_too(dtype: torch.dtype) -> None:
    assert layer_macs(Everything().to(dtype), (3, 10, 10)) == layer_macs(Everything(), (3, 10, 10))


def test_shared_weights_count_every_use() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.Linear(12, 12))
    model[2].weight = model[1].weight
    assert layer_macs(model, (3, 2, 2)) == {"1.weight": 2 * 144}


def test_work_follows_the_density_of_each_layer() -> None:
    macs = {"a": 100, "b": 10}
    masks = {"a": torch.tensor([True, False, False, False])}
    assert forward_flops(macs, {}) == 220
    assert forward_flops(macs, masks) == 2 * (25 + 10)
    assert training_flops(macs, used=masks, trained=masks) == 3 * 70
    assert training_flops(macs, used=masks, trained={}) == 2 * 70 + 220


@pytest.mark.parametrize(
    ("active", "every", "rigl", "snfs"), [(42, 100, 0.422, 0.613), (24, 100, 0.2425, 0.493)]
)
def test_the_published_cost_of_training_follows(active: int, every: int, rigl: float, snfs: float) -> None:
    macs, masks = {"a": 1}, {"a": torch.arange(100) < active}
    dense = training_flops(macs, used={}, trained={})
    step = training_flops(macs, used=masks, trained=masks) / dense
    update = training_flops(macs, used=masks, trained={}) / dense
    assert (every * step + update) / (every + 1) == pytest.approx(rigl, abs=0.0005)
    assert update == pytest.approx(snfs, abs=0.0005)


def test_counting_an_mlp_imports_no_sympy() -> None:
    program = """
import sys
from pruneyard.workloads.networks.flops import macs_of
from pruneyard.workloads.plugins import find
print(dict(macs_of(find("models", "mlp")(width=5, depth=1), (1, 2, 3), 4)), "sympy" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.endswith(" False\n"), done.stdout + done.stderr
    assert sorted(ast.literal_eval(done.stdout.removesuffix(" False\n")).values()) == [20, 30]


class Scaled(nn.Module):
    """A linear layer whose bias counts half."""

    def __init__(self, *, num_inputs: int, bias_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layer, self.bias = nn.Linear(num_inputs, 4, bias=False), nn.Parameter(torch.zeros(bias_shape))

    def forward(self, images: Tensor) -> Tensor:
        return torch.addmm(self.bias, images.flatten(1), self.layer.weight.T, beta=0.5).relu()


@pytest.mark.parametrize("bias_shape", [(4,), (1, 4)])
def test_a_product_with_a_scaled_bias_is_counted(bias_shape: tuple[int, ...]) -> None:
    assert layer_macs(Scaled(num_inputs=6, bias_shape=bias_shape), (1, 2, 3)) == {"layer.weight": 24}


@pytest.mark.parametrize(("num_inputs", "bias_shape"), [(5, (4,)), (6, (3,))])
def test_a_product_of_shapes_that_do_not_fit_is_refused(num_inputs: int, bias_shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError):
        layer_macs(Scaled(num_inputs=num_inputs, bias_shape=bias_shape), (1, 2, 3))
