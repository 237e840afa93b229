"""Event loops of the bench's own programs, and how they learn that they are not wanted any more."""

import asyncio
import os
import stat
import sys
from collections.abc import Callable
from typing import Any, Final

LOOPS: Final = ("asyncio", "uvloop")


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the event loop of this name."""
    if name == "asyncio":
        return None
    import uvloop

    factory: Callable[[], Any] = uvloop.new_event_loop
    return factory


async def input_ended(hear: Callable[[str], None] = lambda _line: None) -> None:
    """Wait until standard input ends: whoever started us is gone, or done. A file or no input never does.

    Args:
        hear: Gets each line that comes meanwhile.
    """
    mode = os.fstat(sys.stdin.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or sys.stdin.isatty()):
        await asyncio.Event().wait()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        hear(line.decode().rstrip())
