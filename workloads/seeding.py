"""Named random streams: every draw is a function of the job's seed, the stream's name and an index.

Nothing of them needs saving: a resumed run asks for the stream of the step it stands at.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def stream_seed(seed: int, name: str, index: int = 0) -> int:
    """A 63-bit seed; different names, indices and job seeds give unrelated ones."""
    digest = hashlib.blake2b(f"{seed}/{name}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def stream(seed: int, name: str, index: int = 0, *, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator of one stream. The same numbers come on every CPU; a GPU's generator draws its own."""
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


def seed_globally(seed: int, *, device: torch.device | str = "cpu") -> None:
    """Seeds torch's global generators: the CPU's, and that of `device`.

    Unlike `torch.manual_seed` it does not queue a call, with its stack trace, for a GPU that may never be used.
    """
    torch.default_generator.manual_seed(seed)
    if torch.device(device).type == "cuda":
        torch.cuda.manual_seed(seed)


RandomState = tuple[Tensor, Tensor | None]


"""Where torch's global generators stand: the CPU's, and the GPU's if there is one."""


def random_state(device: torch.device) -> RandomState:
    """Of the CPU and of `device`."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def set_random_state(state: RandomState, device: torch.device) -> None:
    """Puts the generators back where they stood."""
    cpu, cuda = state
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda, device)


@contextmanager
def fork_rng(device: torch.device, start: int | RandomState | None) -> Iterator[None]:
    """After the block the generators stand where they stood; inside they start there, at a state or from a seed."""
    held = random_state(device)
    try:
        if isinstance(start, int):
            seed_globally(start, device=device)
        elif start is not None:
            set_random_state(start, device)
        yield
    finally:
        set_random_state(held, device)
