"""Work on all sessions in slices, between which the loop serves everybody else."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

SLICE_SECONDS: Final = 0.01

T = TypeVar("T")


class Slice:
    """The time that a piece of work may take before the loop is given back."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until = time.perf_counter() + SLICE_SECONDS

    @property
    def over(self) -> bool:
        """Whether it is used up."""
        return time.perf_counter() >= self._until


async def in_slices(items: Iterable[T], do: Callable[[T], None]) -> None:
    """Do something with each item; an item is never interrupted."""
    slice_ = Slice()
    for item in items:
        do(item)
        if slice_.over:
            await asyncio.sleep(0)
            slice_ = Slice()
