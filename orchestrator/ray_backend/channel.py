"""The line between the ranks of a trial and the process that keeps its rows: an actor of Ray that takes no CPU.

It carries references to what ranks hold and does not look into it, so its process imports little. Ranks wait at a gate after
each evaluation: whether they are to go on, to pause or to end is decided where their rows are judged, once for all of them.
"""

import asyncio
from typing import Any


class Channel:
    """One attempt's."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[list[Any]] = asyncio.Queue()
        self._changed = asyncio.Condition()
        self._num_told = self._num_taken = 0
        self._answers: list[bool] = []
        self._closed = False
        self._ranks: dict[int, Any] = {}
        self._nodes: dict[int, str] = {}

    async def join(self, rank: int, actor: Any, node: str) -> None:
        """A rank has begun; `actor` is its process, on `node`."""
        self._ranks[rank], self._nodes[rank] = actor, node

    async def ranks(self) -> dict[int, Any]:
        """Those that have begun."""
        return self._ranks

    async def nodes(self) -> list[str]:
        """Of those that have begun, each once, in the order of ranks."""
        return list(dict.fromkeys(self._nodes[rank] for rank in sorted(self._nodes)))

    async def send(self, message: list[Any]) -> None:
        """By a rank: a list of one reference, which holds until it was taken, or nobody will."""
        self._num_told += 1
        number = self._num_told
        await self._messages.put(message)
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or number <= self._num_taken)

    async def receive(self, wait_s: float) -> list[Any]:
        """The next message; empty where there was none for so long."""
        try:
            return await asyncio.wait_for(self._messages.get(), wait_s)
        except TimeoutError:
            return []

    async def ack(self) -> None:
        """What was heard last is in other hands."""
        async with self._changed:
            self._num_taken += 1
            self._changed.notify_all()

    async def wait_barrier(self, gate: int) -> bool | None:
        """Asked by every rank at gate 0, 1, ...; waits: whether to pause there, None for the end. The same for all."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or gate < len(self._answers))
            return self._answers[gate] if gate < len(self._answers) else None

    async def release_barrier(self, *, pausing: bool) -> None:
        """The next one."""
        async with self._changed:
            self._answers.append(pausing)
            self._changed.notify_all()

    async def until_closed(self) -> None:
        """Waits; who asks hears of the end of the trial's process, too, by the error."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed)

    async def close(self) -> None:
        """No rank goes on beyond the gates that are open."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()
