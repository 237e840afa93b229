"""Group commit: what many ask for at the same time shares one transaction."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

Start = Callable[[Coroutine[Any, Any, None]], object]
"""Starts a coroutine and owns it: waits for its end at the latest when everything ends."""


class Batcher(Generic[T, R]):
    """Runs what was submitted while the previous batch ran as the next batch.

    Who is cancelled while the item waits takes it back; once its batch runs, it runs to its end.

    Args:
        run: Does a batch, all or nothing; gives one result per item, in order.
        start: The owner of what runs the batches; it doesn't end with the caller who needed it first.
        weigh: The weight of one item.
        limit: How much one batch may weigh; a heavier item runs alone.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Coroutine[Any, Any, Sequence[R]]],
        *,
        start: Start,
        weigh: Callable[[T], int],
        limit: int,
    ) -> None:
        self._run = run
        self._start = start
        self._weigh = weigh
        self._limit = limit
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._busy = False

    async def submit(self, item: T) -> R:
        """The result for one item.

        Raises:
            StoreError: if the batch that the item was in failed; nothing of it took effect.
        """
        if not self._busy:
            self._start(self._drain())
            self._busy = True
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        return await future

    async def _drain(self) -> None:
        try:
            while batch := self._take():
                await self._settle(batch)
        finally:
            self._busy = False

    async def _settle(self, batch: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        # An exception is an outcome, too: everybody in the batch gets it.
        work = self._run([item for item, _ in batch])
        outcome: Sequence[R] | BaseException
        (outcome,) = await asyncio.gather(work, return_exceptions=True)
        for index, (_, future) in enumerate(batch):
            if future.done():
                continue
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome[index])

    def _take(self) -> list[tuple[T, asyncio.Future[R]]]:
        self._waiting = [entry for entry in self._waiting if not entry[1].done()]
        weight = count = 0
        for item, _ in self._waiting:
            weight += self._weigh(item)
            if count and weight > self._limit:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch
