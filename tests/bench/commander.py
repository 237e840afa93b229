"""Commands to Defenders without pause, so that some are always under way while their connections move."""

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from common.errors import GarrisonError
from console.control import ask

CONCURRENCY: Final = 4


class Commander:
    """Asks one Defender after the other for its state, by the Console's command socket.

    Attributes:
        answered: Commands with a result.
        failed: The others, by what the Console said.
    """

    def __init__(self, data: Path, defenders: Sequence[str]) -> None:
        self.answered = 0
        self.failed: Counter[str] = Counter()
        self._data = data
        self._next = itertools.cycle(defenders)
        self._stop = threading.Event()

    def run(self) -> None:
        """Until `stop`."""
        asyncio.run(self._run())

    def stop(self) -> None:
        """End; each command under way is waited for."""
        self._stop.set()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(CONCURRENCY):
                tasks.create_task(self._work(), name=f"commander {number}")

    async def _work(self) -> None:
        while not self._stop.is_set():
            try:
                await ask(self._data, "command", defender=next(self._next), name="reportState")
                self.answered += 1
            except GarrisonError as error:
                self.failed[f"{error.fault}"] += 1


@contextmanager
def commanding(data: Path, defenders: Sequence[str]) -> Iterator[Commander]:
    """Commands all the while."""
    commander = Commander(data, defenders)
    thread = threading.Thread(target=commander.run, name="commander")
    thread.start()
    try:
        yield commander
    finally:
        commander.stop()
        thread.join()


def known(data: Path) -> list[str]:
    """The IDs of the Defenders that a Console knows."""
    return [each["id"] for each in asyncio.run(ask(data, "defenders"))]
