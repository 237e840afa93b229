"""Group commit without a task of its own."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from common.errors import StoreError
from console.store.batching import Batcher


class Worker:
    """Runs batches when it is let; remembers them."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.started = asyncio.Event()
        self.failure: Exception | None = None
        self.tasks: list[asyncio.Task[None]] = []

    def own(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    async def run(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(items))
        self.started.set()
        await asyncio.sleep(0)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return [item * 10 for item in items]


def batcher(worker: Worker, limit: int = 100) -> Batcher[int, int]:
    return Batcher(worker.run, start=worker.own, weigh=lambda item: item, limit=limit)


async def test_what_comes_while_a_batch_runs_is_the_next_batch() -> None:
    worker = Worker()
    ours = batcher(worker)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(ours.submit(1))
        await worker.started.wait()
        others = [group.create_task(ours.submit(item)) for item in (2, 3, 4)]
        await asyncio.sleep(0)
        worker.gate.set()
    assert first.result() == 10
    assert [task.result() for task in others] == [20, 30, 40]
    assert worker.batches == [[1], [2, 3, 4]]


async def test_a_batch_has_a_limit_and_a_heavy_item_runs_alone() -> None:
    worker = Worker()
    worker.gate.set()
    ours = batcher(worker, limit=10)
    results = await asyncio.gather(*(ours.submit(item) for item in (2, 4, 5, 6, 50, 1)))
    assert results == [20, 40, 50, 60, 500, 10]
    assert worker.batches == [[2, 4], [5], [6], [50], [1]]


async def test_a_store_that_fails_fails_all_of_the_batch_and_no_other() -> None:
    worker = Worker()
    ours = batcher(worker)
    first = asyncio.ensure_future(ours.submit(1))
    await worker.started.wait()
    second = asyncio.ensure_future(ours.submit(2))
    third = asyncio.ensure_future(ours.submit(3))
    await asyncio.sleep(0)
    worker.failure = StoreError("store", "is full", "free some space")
    worker.gate.set()
    outcomes = await asyncio.gather(first, second, third, return_exceptions=True)
    assert all(outcome is worker.failure for outcome in outcomes)
    worker.failure = None
    assert await ours.submit(4) == 40


async def test_a_bug_shows_to_everybody_in_the_batch() -> None:
    worker = Worker()
    worker.failure = RuntimeError("bug")
    worker.gate.set()
    ours = batcher(worker)
    outcomes = await asyncio.gather(*(ours.submit(item) for item in (1, 2)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [RuntimeError, RuntimeError]
    worker.failure = None
    assert await ours.submit(3) == 30


async def test_who_is_cancelled_while_waiting_takes_the_item_back() -> None:
    worker = Worker()
    ours = batcher(worker)
    first = asyncio.ensure_future(ours.submit(1))
    await worker.started.wait()
    second = asyncio.ensure_future(ours.submit(2))
    third = asyncio.ensure_future(ours.submit(3))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    worker.gate.set()
    assert (await first, await third) == (10, 30)
    assert worker.batches == [[1], [3]]
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_who_is_cancelled_while_the_batch_runs_is_no_trouble_to_it() -> None:
    worker = Worker()
    ours = batcher(worker)
    tasks = [asyncio.ensure_future(ours.submit(item)) for item in (1, 2, 3)]
    await worker.started.wait()
    assert worker.batches == [[1, 2, 3]]
    tasks[0].cancel()  # the one that started it
    tasks[1].cancel()
    await asyncio.sleep(0)
    worker.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, asyncio.CancelledError, int]
    assert worker.batches == [[1, 2, 3]]


async def test_what_runs_the_batches_ends_when_nothing_waits_and_starts_again() -> None:
    worker = Worker()
    worker.gate.set()
    ours = batcher(worker)
    assert await ours.submit(1) == 10
    await asyncio.wait(worker.tasks)
    assert await ours.submit(2) == 20
    assert len(worker.tasks) == 2


async def test_when_all_who_waited_are_cancelled_nothing_runs() -> None:
    worker = Worker()
    ours = batcher(worker)
    first = asyncio.ensure_future(ours.submit(1))
    await worker.started.wait()
    second = asyncio.ensure_future(ours.submit(2))
    await asyncio.sleep(0)
    second.cancel()
    worker.gate.set()
    assert await first == 10
    await asyncio.wait(worker.tasks)
    assert worker.batches == [[1]]
