"""Named random streams: every draw is a function of the job's seed, the stream's name and an index.

Nothing of them needs saving: a resumed run asks for the stream of the step it stands at.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
