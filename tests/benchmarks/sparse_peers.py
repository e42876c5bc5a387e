"""A step of sparse training by others on the same work as ours: static masks, MLP 784-N-N-10, batch 128, one thread, CPU time.

All have our ERK masks, random weights as torch starts them, SGD with momentum, and one batch of noise. They take turns; a ratio
is the median over the rounds of their time over that of our `execution: sparse`.

ours masked, ours sparse: whole steps of our training.
torch masks: as rigl-torch and the code of ITOP do: dense forward and backward pass, gradients and then weights times their masks.
scipy csr: written by hand: products of `scipy.sparse` matrices, gradients of the stored weights by sampled rows in blocks.
jax masks: only with --jax, in a process of its own per round: what a step of jaxpruner comes to, a dense gradient, an update of
    optax, then parameters times their masks, in one compiled function; the batch is there already.

Run: python tests/benchmarks/sparse_peers.py [--width N ...] [--density D ...] [--jax path/to/python]
"""

import argparse
import json
import os
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from sparse_execution import Case, Trainee, clock_of, seconds
from torch.nn import functional

from pruneyard.workloads.masks.masks import prunable_weights
from pruneyard.workloads.masks.sparse_index import dense_mask

LR, MOMENTUM, DECAY = 0.001, 0.9, 5e-4
BLOCK = 16_384  # stored weights whose gradients the scipy trainer computes at a time, so that gathered rows stay in cache
Masks = list[torch.Tensor]


def torch_masks(ours: Trainee, masks: Masks) -> Callable[[], None]:
    """Returns a step with masks multiplied into gradients and weights."""
    network = torch.nn.Sequential(torch.nn.Flatten(), *layers_of(masks))
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    weights = [p for p in network.parameters() if p.ndim == 2]
    factors = [mask.float() for mask in masks]
    for weight, factor in zip(weights, factors, strict=True):
        weight.data.mul_(factor)

    def step() -> None:
        images, labels = ours.batch()
        optimizer.zero_grad()
        functional.cross_entropy(network(images), labels).backward()
        for weight, factor in zip(weights, factors, strict=True):
            assert weight.grad is not None
            weight.grad.mul_(factor)
        optimizer.step()
        for weight, factor in zip(weights, factors, strict=True):
            weight.data.mul_(factor)

    return step


def layers_of(masks: Masks) -> list[torch.nn.Module]:
    """Returns linear layers of the masks' shapes with ReLU in between."""
    found: list[torch.nn.Module] = []
    for mask in masks:
        found += [torch.nn.Linear(mask.shape[1], mask.shape[0]), torch.nn.ReLU()]
    return found[:-1]


class ScipyLayer:
    """Stored weights of a layer `(outputs, inputs)`; activations are `(features, rows)`."""

    def __init__(self, mask: torch.Tensor) -> None:
        generator = np.random.default_rng(0)
        self.weight = scipy.sparse.csr_matrix(mask.numpy().astype(np.float32))
        bound = mask.shape[1] ** -0.5
        self.weight.data[:] = generator.uniform(-bound, bound, self.weight.nnz)
        self.rows = np.repeat(np.arange(mask.shape[0]), np.diff(self.weight.indptr))
        self.bias = np.zeros((mask.shape[0], 1), np.float32)
        self.speeds = [np.zeros_like(self.weight.data), np.zeros_like(self.bias)]

    def forward(self, inputs: np.ndarray) -> np.ndarray:
        self.inputs = inputs
        return self.weight @ inputs + self.bias

    def backward(self, gradient: np.ndarray, *, first: bool) -> np.ndarray | None:
        """Returns the gradient at the inputs, unless this is the first layer; the weights take their step."""
        at_values = np.empty_like(self.weight.data)
        for start in range(0, len(at_values), BLOCK):
            part = slice(start, start + BLOCK)
            left, right = gradient[self.rows[part]], self.inputs[self.weight.indices[part]]
            np.einsum("ij,ij->i", left, right, out=at_values[part])
        at_inputs = None if first else self.weight.T @ gradient
        gradients = [at_values, gradient.sum(1, keepdims=True)]
        for value, slope, speed in zip([self.weight.data, self.bias], gradients, self.speeds, strict=True):
            speed *= MOMENTUM
            speed += slope + DECAY * value
            value -= LR * speed
        return at_inputs


def scipy_csr(ours: Trainee, masks: Masks) -> Callable[[], None]:
    """Returns a step on compressed sparse rows."""
    layers = [ScipyLayer(mask) for mask in masks]

    def step() -> None:
        images, labels = ours.batch()
        signal = np.ascontiguousarray(images.flatten(1).numpy().T)
        for layer in layers[:-1]:
            signal = np.maximum(layer.forward(signal), 0)
        logits = layers[-1].forward(signal)
        exponents = np.exp(logits - logits.max(0))
        gradient = exponents / exponents.sum(0)
        gradient[labels.numpy(), np.arange(len(labels))] -= 1
        gradient /= np.float32(len(labels))
        for layer in reversed(layers):
            active = layer.inputs > 0
            back = layer.backward(gradient, first=layer is layers[0])
            if back is not None:
                gradient = back * active

    return step


JAX = """
import sys, time
import jax, optax
import jax.numpy as jnp
width, density, steps = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
sizes = [(784, width), (width, width), (width, 10)]
keys = jax.random.split(jax.random.PRNGKey(0), 8)
params = [(jax.random.uniform(k, s, minval=-1, maxval=1) * s[0] ** -0.5, jnp.zeros(s[1])) for k, s in zip(keys, sizes)]
masks = [jax.random.uniform(k, s) < density for k, s in zip(keys[3:], sizes)]
optimizer = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.001, momentum=0.9))
images = jax.random.normal(keys[6], (128, 784))
labels = jax.random.randint(keys[7], (128,), 0, 10)
def loss(params):
    signal = images
    for weight, bias in params[:-1]:
        signal = jax.nn.relu(signal @ weight + bias)
    logits = signal @ params[-1][0] + params[-1][1]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
def step(params, state):
    updates, state = optimizer.update(jax.grad(loss)(params), state, params)
    params = optax.apply_updates(params, updates)
    return [(w * m, b) for (w, b), m in zip(params, masks)], state
step = jax.jit(step, donate_argnums=(0, 1))
params = [(w * m, b) for (w, b), m in zip(params, masks)]
state = optimizer.init(params)
for number in range(2 + steps):
    started = time.process_time()
    params, state = jax.block_until_ready(step(params, state))
    if number > 1:
        print(time.process_time() - started)
"""


def jax_seconds(python: Path, *, width: int, density: float, steps: int) -> float:
    """Returns the median seconds of a step, measured in a process of its own."""
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    command = [str(python), "-c", JAX, str(width), str(density), str(steps)]
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return statistics.median(float(line) for line in done.stdout.split())


def compare(width: int, density: float, *, rounds: int, jax: Path | None) -> dict[str, object]:
    """Milliseconds of each, and ratios to ours sparse."""
    case = Case(network="mlp", width=width, method="static", density=density)
    data, steps, clock = case.images(), max(2, 4096 // width), clock_of(1)
    masked, sparse = Trainee(case, "masked", data), Trainee(case, "sparse", data)
    applied = masked.training.applied.masks
    masks = [dense_mask(applied[name]) for name in prunable_weights(masked.training.network)]
    doing: dict[str, Callable[[], None]] = {
        "ours masked": masked.step,
        "ours sparse": sparse.step,
        "torch masks": torch_masks(masked, masks),
        "scipy csr": scipy_csr(masked, masks),
    }
    times: dict[str, list[float]] = {name: [] for name in [*doing, *(["jax masks"] if jax else [])]}
    for step in doing.values():
        step()
    for _ in range(rounds):
        for name, step in doing.items():
            times[name].append(statistics.median(seconds(step, clock) for _ in range(steps)))
        if jax is not None:
            times["jax masks"].append(jax_seconds(jax, width=width, density=density, steps=steps))
    ratios = {
        name: round(statistics.median(a / b for a, b in zip(own, times["ours sparse"], strict=True)), 2)
        for name, own in times.items()
    }
    time_ms = {name: round(1e3 * statistics.median(own), 1) for name, own in times.items()}
    return {"width": width, "density": density, "ms": time_ms, "over ours sparse": ratios}


def main(arguments: argparse.Namespace) -> None:
    """Prints a line for each width and density."""
    torch.set_num_threads(1)
    if arguments.jax is None:
        print("jax masks: not measured, give --jax an interpreter that has jax and optax")
    for width in arguments.width:
        for density in arguments.density:
            print(json.dumps(compare(width, density, rounds=arguments.rounds, jax=arguments.jax)), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Steps of sparse training by others, on the same work as ours.")
    parser.add_argument("--width", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--density", type=float, nargs="+", default=[0.02, 0.01])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jax", type=Path, help="an interpreter that has jax and optax")
    main(parser.parse_args())
