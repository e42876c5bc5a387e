"""Several processes that train one network: each sees its share of every batch, and all of them hold the same.

What a step makes of a batch does not depend on their number beyond rounding, unless the budget's batch norm is `local`: then
each rank normalises by the statistics of its own rows, and the running ones become the mean of the ranks' after every step.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

T = TypeVar("T")


class RanksDisagreeError(RuntimeError):
    """Tensors that must be equal on all ranks are not: from here on each would train a network of its own."""

    def __init__(self, step: int, differing: Mapping[int, Sequence[str]]) -> None:
        """differing: by rank, names of the tensors that are not those of rank 0."""
        ranks = "; ".join(f"rank {rank} has another {', '.join(found)}" for rank, found in differing.items())
        super().__init__(f"at step {step} the ranks hold different tensors: compared with rank 0, {ranks}")
        self.step, self.differing = step, differing


@dataclass(frozen=True)
class Share:
    """The rows of a batch that are one rank's: from `start` up to `stop`, of `total`."""

    start: int
    stop: int
    total: int

    @classmethod
    def whole(cls, total: int) -> "Share":
        """All of them."""
        return cls(0, total, total)

    @property
    def weight(self) -> float:
        """What a mean over these rows counts in the mean over all."""
        return (self.stop - self.start) / self.total

    def of(self, rows: Tensor, dim: int = 0) -> Tensor:
        """This rank's, of something that was found for the whole batch: a view."""
        return rows.narrow(dim, self.start, self.stop - self.start)


class Ranks(Protocol):
    """The processes of a training, seen by one of them. The neutral member is `SingleRank`.

    Every rank calls the same methods in the same order; each waits there for the others. A rank that is gone makes the
    others raise what `torch.distributed` raises.
    """

    @property
    def rank(self) -> int:
        """From 0; rank 0 writes what is written."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def share(self, num_rows: int) -> Share:
        """This rank's rows of a batch; raises `ValueError` where a rank would have none."""
        ...

    def stream_name(self, stream: str) -> str:
        """The name of a random stream for what is drawn for this rank's rows alone."""
        ...

    def average(
        self,
        loss: Tensor,
        memory: Mapping[str, Tensor],
        *,
        share: Share,
        parameters: Iterable[nn.Parameter] = (),
        statistics: Sequence[Tensor] = (),
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Loss and memory of the whole batch from those of the shares, summed in float32; integers in memory stay.

        `.grad` of the parameters becomes that of the whole batch, and so do the statistics, in place.
        """
        ...

    def all_reduce_sum(self, part: Tensor) -> Tensor:
        """The sum of every rank's part, equal on all of them, in memory of its own."""
        ...

    def any_rank(self, *wishes: bool) -> tuple[bool, ...]:
        """For each wish, whether some rank has it."""
        ...

    def assert_ranks_equal(self, step: int, held: Callable[[], Mapping[str, Tensor]]) -> None:
        """Raises `RanksDisagreeError` on every rank unless all hold the same, bit for bit."""
        ...

    def broadcast_from_rank_0(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, which must be plain data and tensors on the CPU; the others make nothing."""
        ...

    def run_on_rank_0(self, act: Callable[[], None]) -> None:
        """Done by rank 0; nobody waits for it."""
        ...

    def all_gather(self, mine: T) -> list[T]:
        """Every rank's, in their order."""
        ...


@dataclass(frozen=True)
class SingleRank:
    """One process, which has everything; no method costs more than its call."""

    rank: int = 0
    size: int = 1

    def share(self, num_rows: int) -> Share:
        """All rows."""
        return Share.whole(num_rows)

    def stream_name(self, stream: str) -> str:
        """The stream as it is."""
        return stream

    def average(
        self,
        loss: Tensor,
        memory: Mapping[str, Tensor],
        *,
        share: Share,
        parameters: Iterable[nn.Parameter] = (),
        statistics: Sequence[Tensor] = (),
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """As they are."""
        return loss, memory

    def all_reduce_sum(self, part: Tensor) -> Tensor:
        """The part."""
        return part.clone()

    def any_rank(self, *wishes: bool) -> tuple[bool, ...]:
        """Its own."""
        return wishes

    def assert_ranks_equal(self, step: int, held: Callable[[], Mapping[str, Tensor]]) -> None:
        """Always."""

    def broadcast_from_rank_0(self, make: Callable[[], T]) -> T:
        """What it makes."""
        return make()

    def run_on_rank_0(self, act: Callable[[], None]) -> None:
        """Does it."""
        act()

    def all_gather(self, mine: T) -> list[T]:
        """Its own."""
        return [mine]


SINGLE_RANK = SingleRank()


class DistributedRanks:
    """The ranks of torch's default process group, which is made by whoever starts them: gloo on the CPU, NCCL on GPUs.

    Questions of the loop go through a gloo group, so that they never wait for a GPU.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._questions = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))

    def share(self, num_rows: int) -> Share:
        """Neighbouring rows, as many as the others have or one more or less."""
        if num_rows < self.size:
            raise ValueError(
                f"a batch has {num_rows} rows; it must have at least one for each of the {self.size} ranks"
            )
        return Share(num_rows * self.rank // self.size, num_rows * (self.rank + 1) // self.size, num_rows)

    def stream_name(self, stream: str) -> str:
        """That of rank 0 is the one that a process alone draws from."""
        return stream if self.rank == 0 else f"{stream}/rank-{self.rank}"

    def average(
        self,
        loss: Tensor,
        memory: Mapping[str, Tensor],
        *,
        share: Share,
        parameters: Iterable[nn.Parameter] = (),
        statistics: Sequence[Tensor] = (),
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """One copy into one buffer; gradients stay in it, what is small is copied out."""
        trained = [parameter for parameter in parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        means = {name: tensor for name, tensor in memory.items() if tensor.is_floating_point()}
        small = [loss, *means.values(), *statistics]
        parts = _summed([*gradients, *small], share.weight)
        for parameter, part in zip(trained, parts[: len(trained)], strict=True):
            parameter.grad = part
        with torch.no_grad():
            loss, *rest = [part.clone() for part in parts[len(trained) :]]
            for statistic, mean in zip(statistics, rest[len(means) :], strict=True):
                statistic.copy_(mean)
        return loss, {**memory, **dict(zip(means, rest[: len(means)], strict=True))}

    def all_reduce_sum(self, part: Tensor) -> Tensor:
        """By one all-reduce."""
        found = part.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(found)
        return found

    def any_rank(self, *wishes: bool) -> tuple[bool, ...]:
        """The largest of each."""
        flags = torch.tensor(wishes, dtype=torch.uint8)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self._questions)
        return tuple(bool(flag) for flag in flags.tolist())

    def assert_ranks_equal(self, step: int, held: Callable[[], Mapping[str, Tensor]]) -> None:
        """By one checksum per tensor."""
        first, *others = self.all_gather(checksums(held()))
        differing = {
            rank: sorted(name for name in first | found if first.get(name) != found.get(name))
            for rank, found in enumerate(others, start=1)
            if found != first
        }
        if differing:
            raise RanksDisagreeError(step, differing)

    def broadcast_from_rank_0(self, make: Callable[[], T]) -> T:
        """Sent over the group, so that ranks need no common disk."""
        sent: list[T | None] = [make() if self.rank == 0 else None]
        dist.broadcast_object_list(sent, src=0, group=self._questions)
        return sent[0]  # type: ignore[return-value]

    def run_on_rank_0(self, act: Callable[[], None]) -> None:
        """On rank 0."""
        if self.rank == 0:
            act()

    def all_gather(self, mine: T) -> list[T]:
        """Over the group."""
        found: list[T | None] = [None] * self.size
        dist.all_gather_object(found, mine, group=self._questions)
        return found  # type: ignore[return-value]


def checksums(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """CRC-32 of the bytes of every tensor: for accidents, not for adversaries."""
    return {name: zlib.crc32(_bytes(tensor).data) for name, tensor in tensors.items()}


def _bytes(tensor: Tensor) -> NDArray[np.uint8]:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _summed(tensors: Sequence[Tensor], weight: float) -> list[Tensor]:
    """Views, laid out as the tensors are, of one float32 buffer that holds their weighted sums over ranks."""
    flat = torch.cat([_in_memory_order(tensor).float() for tensor in tensors]).mul_(weight)
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [_laid_out_as(tensor, part).to(tensor.dtype) for tensor, part in zip(tensors, parts, strict=True)]


def _in_memory_order(tensor: Tensor) -> Tensor:
    """(n,): a view, where the tensor fills its memory."""
    return tensor.as_strided((tensor.numel(),), (1,)) if _is_filled(tensor) else tensor.reshape(-1)


def _laid_out_as(tensor: Tensor, part: Tensor) -> Tensor:
    """The values that `_in_memory_order` took from a tensor, or others in their place, as a view of its shape."""
    if _is_filled(tensor):
        return part.as_strided(tensor.shape, tensor.stride(), part.storage_offset())
    return part.view(tensor.shape)


def _is_filled(tensor: Tensor) -> bool:
    return tensor.is_contiguous() or (
        tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    )
