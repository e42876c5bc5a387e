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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, name))
        yield
