"""Several processes that train one network: each computes on its share of every batch, and all hold the same tensors.

The result of a step does not depend on the number of ranks beyond rounding, unless the budget's batch norm is `local`: then
each rank normalises by the statistics of its own rows, and running statistics are averaged over ranks after every step.
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
    """Tensors that must be equal on all ranks differ, so that each rank would train a network of its own from here on."""

    def __init__(self, step: int, differing: Mapping[int, Sequence[str]]) -> None:
        """differing: by rank, the names of the tensors that differ from those of rank 0."""
        ranks = "; ".join(f"rank {rank} differs in {', '.join(names)}" for rank, names in differing.items())
        super().__init__(f"at step {step} the ranks hold different tensors: compared with rank 0, {ranks}")
        self.step, self.differing = step, differing


@dataclass(frozen=True)
class Share:
    """The rows of a batch that one rank computes on: from `start` up to, not including, `stop`, of `total`."""

    start: int
    stop: int
    total: int

    @classmethod
    def whole(cls, total: int) -> "Share":
        """Returns the share of a single rank: all rows."""
        return cls(0, total, total)

    @property
    def weight(self) -> float:
        """Weight of the mean over these rows in the mean over all rows."""
        return (self.stop - self.start) / self.total

    def of(self, rows: Tensor, dim: int = 0) -> Tensor:
        """Returns this rank's rows of a tensor for the whole batch, as a view."""
        return rows.narrow(dim, self.start, self.stop - self.start)


class Ranks(Protocol):
    """The collective operations of a training's processes. The neutral member is `SingleRank`.

    Every rank must call the same methods in the same order, because each call waits for the other ranks. If a rank is gone,
    the others raise the error of `torch.distributed`.
    """

    @property
    def rank(self) -> int:
        """Index of this process, from 0; rank 0 writes all files."""
        ...

    @property
    def size(self) -> int:
        """Number of processes."""
        ...

    def share(self, num_rows: int) -> Share:
        """Returns this rank's rows of a batch; raises `ValueError` if a rank would have none."""
        ...

    def stream_name(self, stream: str) -> str:
        """Returns the name of a random stream for numbers that are used for this rank's rows alone."""
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
        """Returns loss and memory of the whole batch, averaged in float32 with the weights of the shares.

        Averages `.grad` of the parameters and the `statistics` in place. Integer tensors in memory do not change.
        """
        ...

    def all_reduce_sum(self, part: Tensor) -> Tensor:
        """Returns the sum over ranks as a new tensor, equal on all ranks."""
        ...

    def any_rank(self, *flags: bool) -> tuple[bool, ...]:
        """Returns for each flag whether it is true on any rank."""
        ...

    def assert_ranks_equal(self, step: int, tensors_of: Callable[[], Mapping[str, Tensor]]) -> None:
        """Raises `RanksDisagreeError` on every rank unless the tensors are bit-equal on all ranks."""
        ...

    def broadcast_from_rank_0(self, make: Callable[[], T]) -> T:
        """Calls a function on rank 0 only and returns its result, plain data and CPU tensors, on every rank."""
        ...

    def run_on_rank_0(self, act: Callable[[], None]) -> None:
        """Calls a function on rank 0 only; the other ranks do not wait for it."""
        ...

    def all_gather(self, mine: T) -> list[T]:
        """Returns the values of all ranks, in their order."""
        ...


@dataclass(frozen=True)
class SingleRank:
    """One process without communication."""

    rank: int = 0
    size: int = 1

    def share(self, num_rows: int) -> Share:
        """Returns all rows."""
        return Share.whole(num_rows)

    def stream_name(self, stream: str) -> str:
        """Returns the name unchanged."""
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
        """Returns loss and memory unchanged."""
        return loss, memory

    def all_reduce_sum(self, part: Tensor) -> Tensor:
        """Returns a copy."""
        return part.clone()

    def any_rank(self, *flags: bool) -> tuple[bool, ...]:
        """Returns the flags unchanged."""
        return flags

    def assert_ranks_equal(self, step: int, tensors_of: Callable[[], Mapping[str, Tensor]]) -> None:
        """Does nothing: there is no other rank."""

    def broadcast_from_rank_0(self, make: Callable[[], T]) -> T:
        """Calls the function."""
        return make()

    def run_on_rank_0(self, act: Callable[[], None]) -> None:
        """Calls the function."""
        act()

    def all_gather(self, mine: T) -> list[T]:
        """Returns the one value."""
        return [mine]


SINGLE_RANK = SingleRank()


class DistributedRanks:
    """The ranks of torch's default process group, which their starter has created: gloo on the CPU, NCCL on GPUs.

    Flags and objects go through a separate gloo group, so that they never wait for a GPU.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._cpu_group = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))

    def share(self, num_rows: int) -> Share:
        """Returns adjacent rows; the shares of two ranks differ by at most one row."""
        if num_rows < self.size:
            raise ValueError(
                f"a batch has {num_rows} rows; it must have at least one for each of the {self.size} ranks"
            )
        return Share(num_rows * self.rank // self.size, num_rows * (self.rank + 1) // self.size, num_rows)

    def stream_name(self, stream: str) -> str:
        """Returns one name per rank; that of rank 0 is the name that a single process uses."""
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
        """Averages everything with one all-reduce of one buffer.

        Gradients stay views of this buffer, which saves a copy; the small tensors are copied out of it.
        """
        trained = [parameter for parameter in parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        means = {name: tensor for name, tensor in memory.items() if tensor.is_floating_point()}
        small = [loss, *means.values(), *statistics]
        parts = _weighted_sums([*gradients, *small], share.weight)
        for parameter, part in zip(trained, parts[: len(trained)], strict=True):
            parameter.grad = part
        with torch.no_grad():
            loss, *rest = [part.clone() for part in parts[len(trained) :]]
            for statistic, mean in zip(statistics, rest[len(means) :], strict=True):
                statistic.copy_(mean)
        return loss, {**memory, **dict(zip(means, rest[: len(means)], strict=True))}

    def all_reduce_sum(self, part: Tensor) -> Tensor:
        """Returns the sum by one all-reduce."""
        found = part.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(found)
        return found

    def any_rank(self, *flags: bool) -> tuple[bool, ...]:
        """Returns the maximum of each flag over ranks."""
        tensor = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self._cpu_group)
        return tuple(bool(flag) for flag in tensor.tolist())

    def assert_ranks_equal(self, step: int, tensors_of: Callable[[], Mapping[str, Tensor]]) -> None:
        """Compares one checksum per tensor."""
        first, *others = self.all_gather(checksums(tensors_of()))
        differing = {
            rank: sorted(name for name in first | found if first.get(name) != found.get(name))
            for rank, found in enumerate(others, start=1)
            if found != first
        }
        if differing:
            raise RanksDisagreeError(step, differing)

    def broadcast_from_rank_0(self, make: Callable[[], T]) -> T:
        """Sends the result over the process group, so that ranks need no shared disk."""
        sent: list[T | None] = [make() if self.rank == 0 else None]
        dist.broadcast_object_list(sent, src=0, group=self._cpu_group)
        return sent[0]  # type: ignore[return-value]

    def run_on_rank_0(self, act: Callable[[], None]) -> None:
        """Calls the function if this is rank 0."""
        if self.rank == 0:
            act()

    def all_gather(self, mine: T) -> list[T]:
        """Returns the values of all ranks, sent over the process group."""
        found: list[T | None] = [None] * self.size
        dist.all_gather_object(found, mine, group=self._cpu_group)
        return found  # type: ignore[return-value]


def checksums(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Returns the CRC-32 of the bytes of every tensor, which detects accidents but no manipulation."""
    return {name: zlib.crc32(_bytes(tensor).data) for name, tensor in tensors.items()}


def _bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """Returns the values of a tensor as bytes, (n,), on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _weighted_sums(tensors: Sequence[Tensor], weight: float) -> list[Tensor]:
    """Returns the weighted sums over ranks as views of one float32 buffer, each in the memory layout of its tensor."""
    flat = torch.cat([_in_memory_order(tensor).float() for tensor in tensors]).mul_(weight)
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [_view_like(tensor, part).to(tensor.dtype) for tensor, part in zip(tensors, parts, strict=True)]


def _in_memory_order(tensor: Tensor) -> Tensor:
    """Returns the values in memory order, (n,): a view if the tensor is dense in memory, else a copy."""
    return tensor.as_strided((tensor.numel(),), (1,)) if _is_dense_in_memory(tensor) else tensor.reshape(-1)


def _view_like(tensor: Tensor, part: Tensor) -> Tensor:
    """Returns values in the order of `_in_memory_order` as a view with the shape and strides of `tensor`."""
    if _is_dense_in_memory(tensor):
        return part.as_strided(tensor.shape, tensor.stride(), part.storage_offset())
    return part.view(tensor.shape)


def _is_dense_in_memory(tensor: Tensor) -> bool:
    """Returns whether the tensor is contiguous in one of the two common memory layouts."""
    return tensor.is_contiguous() or (
        tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    )
