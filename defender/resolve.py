"""Name look-ups that nobody has to wait for.

asyncio resolves names in its executor, whose threads are joined when the loop closes and again when the
interpreter exits: a resolver that hangs (5 s and more for each server in resolv.conf) would hold up SIGTERM
for as long. Here a look-up runs in a daemon thread of its own, that ends with it and is left behind at exit.
"""

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(call: Callable[[], T], *, patience: float) -> T:
    """What `call` returns or raises, from a daemon thread.

    Args:
        call: Something that blocks and cannot be interrupted.
        patience: Seconds after which it is left to itself.

    Raises:
        TimeoutError: if it takes longer.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(value: T | None, error: BaseException | None) -> None:
        if future.done():  # Nobody waits any more.
            return
        if error is None:
            future.set_result(value)  # type: ignore[arg-type]  # no error: the value is there, None or not
        else:
            future.set_exception(error)

    def work() -> None:
        outcome: tuple[T | None, BaseException | None]
        try:
            outcome = call(), None
        except (OSError, UnicodeError) as error:
            outcome = None, error
        # The loop may be closed by now: we were left behind.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(deliver, *outcome)

    threading.Thread(target=work, name="resolve", daemon=True).start()
    async with asyncio.timeout(patience):
        return await future


class Resolver:
    """Look-ups of one Defender: at most one at a time, however long the resolver hangs."""

    def __init__(self, lookup: Callable[[str, int], list[str]] | None = None) -> None:
        self._lookup = lookup or addresses
        self._busy: threading.Event = threading.Event()

    async def resolve(self, host: str, port: int, *, patience: float) -> list[str]:
        """The addresses of a host, in the order in which to try them.

        Raises:
            OSError: if the name is not known (socket.gaierror), or the look-up takes longer than `patience`
                seconds (TimeoutError), now or since an earlier call.
        """
        with contextlib.suppress(ValueError):
            return [str(ipaddress.ip_address(host))]
        if self._busy.is_set():
            # A second thread would hang as the first does, and a week of attempts would pile them up.
            raise TimeoutError("an earlier look-up of the name still hangs")
        self._busy.set()

        def look_up() -> list[str]:
            try:
                return self._lookup(host, port)
            finally:
                self._busy.clear()

        return await in_thread(look_up, patience=patience)


def addresses(host: str, port: int) -> list[str]:
    """What getaddrinfo says, each address once, in its order (RFC 6724). Blocks."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
