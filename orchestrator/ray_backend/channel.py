"""The channel between the ranks of a worker group and their trial's process: a Ray actor that takes no CPU.

It carries object references and never opens them, so its process imports little. Ranks ask it for one attempt after the other.
Within an attempt they wait at a barrier after each evaluation: the trial decides, once for all ranks, whether they continue,
pause or end the attempt.
"""

import asyncio
from typing import Any


class Channel:
    """The channel of one worker group, for all its attempts, of which one is current."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._closed = False
        self._ranks: dict[int, Any] = {}
        self._nodes: dict[int, str] = {}
        self._num_attempts = 0
        self._next_attempt: dict[int, int] = {}  # the index of the attempt for which each rank asked last
        self._start_attempt(None)

    def _start_attempt(self, task: Any) -> None:
        self._task, self._is_ended = task, False
        self._messages: asyncio.Queue[list[Any]] = asyncio.Queue()
        self._num_sent = self._num_acknowledged = 0
        # Every answer is kept: ranks reach a barrier at different times, and all of them must get the same one.
        self._answers: list[bool] = []

    async def join(self, rank: int, actor: Any, node: str) -> None:
        """Registers a rank that has started; `actor` is its process on `node`."""
        self._ranks[rank], self._nodes[rank] = actor, node

    async def ranks(self) -> dict[int, Any]:
        """Returns the actors of the ranks that have started."""
        return self._ranks

    async def nodes(self) -> list[str]:
        """Returns the nodes of the ranks that have started, each once, in the order of ranks."""
        return list(dict.fromkeys(self._nodes[rank] for rank in sorted(self._nodes)))

    async def begin_attempt(self, task: Any) -> None:
        """Gives the ranks their next task. The attempt before must have ended on all of them."""
        async with self._changed:
            self._start_attempt(task)
            self._num_attempts += 1
            self._changed.notify_all()

    async def task(self, rank: int, attempt: int) -> Any:
        """Waits for the task of attempt 0, 1, ...; returns None once the channel is closed.

        A rank asks for it after it has ended the attempt before.
        """
        async with self._changed:
            self._next_attempt[rank] = attempt
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._closed or attempt < self._num_attempts)
            return None if self._closed else self._task

    async def end_attempt(self, wait_s: float) -> bool:
        """Ends the current attempt at the first barrier that was not released.

        Returns whether all ranks that have started ask for the next attempt within `wait_s` seconds.
        """
        async with self._changed:
            self._is_ended = True
            self._changed.notify_all()
            try:
                await asyncio.wait_for(self._changed.wait_for(self._all_ranks_wait), wait_s)
            except TimeoutError:
                return False
            return True

    def _all_ranks_wait(self) -> bool:
        return all(self._next_attempt.get(rank) == self._num_attempts for rank in self._ranks)

    async def send(self, message: list[Any]) -> None:
        """Sends a message of a rank, and waits until it was acknowledged or the attempt has ended.

        message: a list of one object reference. The rank keeps the object alive by waiting.
        """
        self._num_sent += 1
        # Taken before the first `await`, where calls of other ranks may come in between.
        number = self._num_sent
        await self._messages.put(message)
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._closed or self._is_ended or number <= self._num_acknowledged
            )

    async def receive(self, wait_s: float) -> list[Any]:
        """Returns the next message, or an empty list if none came within `wait_s` seconds."""
        try:
            return await asyncio.wait_for(self._messages.get(), wait_s)
        except TimeoutError:
            return []

    async def ack(self) -> None:
        """Acknowledges the message that was received last: its content was fetched."""
        async with self._changed:
            self._num_acknowledged += 1
            self._changed.notify_all()

    async def wait_barrier(self, barrier: int) -> bool | None:
        """Waits at barrier 0, 1, ... of the attempt; returns whether to pause there, or None to end the attempt.

        The answer is the same for all ranks.
        """
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._closed or self._is_ended or barrier < len(self._answers)
            )
            # A barrier that was released before the end still gives its answer: another rank may already train on.
            return self._answers[barrier] if barrier < len(self._answers) else None

    async def release_barrier(self, *, pausing: bool) -> None:
        """Releases the next barrier."""
        async with self._changed:
            self._answers.append(pausing)
            self._changed.notify_all()

    async def until_closed(self) -> None:
        """Waits for `close`. Ray raises in the caller if the trial's process, which owns this actor, ends."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed)

    async def close(self) -> None:
        """Closes the channel: ranks end their attempt at the first barrier that was not released, and then their process."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()
