"""Whose password is checked next: so many of one place at a time, the others of that place wait in line.

Checking is dear on purpose, and all places share a fixed number of threads: without turns, one address could
hold them all, and nobody else could log in.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from console.identity.throttle import origin


@dataclass(slots=True)
class _Line:
    turns: asyncio.Semaphore
    length: int = 0


class Turns:
    """Turns by address.

    Args:
        at_once: How many of one place have their turn at a time.
        waiting: How many more of it may wait.
    """

    def __init__(self, *, at_once: int = 2, waiting: int = 32) -> None:
        self._at_once = at_once
        self._longest = at_once + waiting
        self._lines: dict[str, _Line] = {}

    def __len__(self) -> int:
        return len(self._lines)

    @asynccontextmanager
    async def take(self, address: str) -> AsyncIterator[bool]:
        """Wait for a turn and have it during the block; False at once where too many wait already."""
        place = origin(address)
        line = self._lines.get(place) or _Line(asyncio.Semaphore(self._at_once))
        if line.length >= self._longest:
            yield False
            return
        self._lines[place] = line
        line.length += 1
        try:
            async with line.turns:
                yield True
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[place]
