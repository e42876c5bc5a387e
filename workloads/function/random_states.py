"""The states of the global random generators of Python, NumPy and torch, as plain values and tensors."""

import random
from typing import Any

import numpy as np
import torch

from pruneyard.workloads.function.saved_state import decode_state, encode_state
from pruneyard.workloads.seeding import random_state, seed_globally, set_random_state


def seed_everything(seed: int, device: torch.device) -> None:
    """Seeds the global generators of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # NumPy takes no larger seed
    seed_globally(seed, device=device)


def random_states(device: torch.device) -> dict[str, Any]:
    """Returns the states of the global generators, as a checkpoint takes them."""
    numpy_state: Any = np.random.get_state(legacy=False)
    return {"python": random.getstate(), "numpy": encode_state(numpy_state), "torch": random_state(device)}


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Restores the states of the global generators."""
    random.setstate(states["python"])
    np.random.set_state(decode_state(states["numpy"]))
    set_random_state(states["torch"], device)
