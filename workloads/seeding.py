"""Named random streams: every random number is a function of the job's seed, the stream's name and an index.

Streams need no place in a checkpoint: a resumed run recreates the stream of its current step.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def stream_seed(seed: int, name: str, index: int = 0) -> int:
    """Returns a 63-bit seed; different names, indices and job seeds give unrelated ones."""
    digest = hashlib.blake2b(f"{seed}/{name}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def stream(seed: int, name: str, index: int = 0, *, device: torch.device | str = "cpu") -> torch.Generator:
    """Returns a new generator of one stream. All CPUs give the same numbers; a GPU gives others."""
    generator = torch.Generator(device=device)
    generator.manual_seed(stream_seed(seed, name, index))
    return generator


@contextmanager
def global_stream(seed: int, name: str) -> Iterator[None]:
    """Seeds torch's global CPU generator inside the block (module initialisation uses it) and restores it after."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(stream_seed(seed, name))
    try:
        yield
    finally:
        torch.set_rng_state(before)


@contextmanager
def seeded_globals(seed: int) -> Iterator[None]:
    """Seeds the global generators of Python, NumPy and torch (CPU) for code of the user's own, and restores them after."""
    of_python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)


def seed_globally(seed: int, *, device: torch.device | str = "cpu") -> None:
    """Seeds torch's global generators: the CPU's, and that of `device`.

    Unlike `torch.manual_seed` it does not queue a call, with its stack trace, for a GPU that may never be used.
    """
    torch.default_generator.manual_seed(seed)
    if torch.device(device).type == "cuda":
        torch.cuda.manual_seed(seed)


RandomState = tuple[Tensor, Tensor | None]
"""The states of torch's global generators: that of the CPU, and that of the GPU if there is one."""


def random_state(device: torch.device) -> RandomState:
    """Returns the states of the global generators of the CPU and of `device`."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def set_random_state(state: RandomState, device: torch.device) -> None:
    """Restores the states of the global generators."""
    cpu, cuda = state
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda, device)


@contextmanager
def fork_rng(device: torch.device, start: int | RandomState | None) -> Iterator[None]:
    """Restores the global generators after the block; `start` is a seed or state for the block, None for the current state."""
    saved = random_state(device)
    try:
        if isinstance(start, int):
            seed_globally(start, device=device)
        elif start is not None:
            set_random_state(start, device)
        yield
    finally:
        set_random_state(saved, device)
