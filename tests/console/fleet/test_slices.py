import asyncio
import time

import pytest

from console.fleet import slices
from console.fleet.slices import SLICE_SECONDS, Slice, in_slices


async def test_others_get_their_turn_between_slices() -> None:
    done: list[int] = []
    turns: list[int] = []

    async def other() -> None:
        while len(done) < 20:
            turns.append(len(done))
            await asyncio.sleep(0)

    def work(item: int) -> None:
        time.sleep(SLICE_SECONDS / 4)
        done.append(item)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(other())
        await in_slices(range(20), work)
    assert done == list(range(20))
    # None of the gaps is longer than a slice's worth of items.
    gaps = [b - a for a, b in zip([0, *turns], [*turns, 20], strict=True)]
    assert max(gaps) <= 4


async def test_little_work_is_done_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE_SECONDS", 60.0)
    done: list[int] = []
    asyncio.get_running_loop().call_soon(done.append, -1)
    await in_slices(range(3), done.append)
    assert done == [0, 1, 2]


def test_a_slice_ends() -> None:
    slice_ = Slice()
    assert not slice_.over
    time.sleep(SLICE_SECONDS)
    assert slice_.over
