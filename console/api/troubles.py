"""What the log says of requests that went wrong: what an operator needs, nothing that a peer sent, no flood.

Whoever can reach the port can send what cannot be read, and may find a bug that answers 500: neither fills
the disk. What a peer sends may hold a credential, so no line quotes any of it.
"""

import logging
import traceback

from common.clock import Clock
from common.errors import StoreError
from console.failures import Repeats

log = logging.getLogger(__name__)


class Troubles:
    """Says what went wrong, each kind at once, and then once a minute with a count.

    Args:
        clock: The host's clocks.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Apart, so that strangers' noise doesn't keep back what is wrong with the Console itself.
        self._strangers = Repeats()
        self._ours = Repeats()

    def unreadable(self, error: BaseException | None, address: str) -> None:
        """A request that is no HTTP. Only the error's kind is said: its text quotes the request."""
        kind = type(error).__name__
        tail = self._strangers.tail((address, kind), self._clock.monotonic())
        if tail is not None:
            log.warning("A request from %s cannot be read: %s%s", address, kind, tail)

    def store(self, error: StoreError, at: str) -> None:
        """The store failed, which is no bug of whoever asked it: its own words, without where in the code."""
        tail = self._ours.tail(("store", str(error)), self._clock.monotonic())
        if tail is not None:
            log.error("The store failed at %s: %s%s", at, error, tail)

    def bug(self, error: BaseException, at: str) -> None:
        """A mistake of ours, with where in the code it is."""
        tail = self._ours.tail((type(error), place(error)), self._clock.monotonic())
        if tail is not None:
            log.error("%s failed%s", at, tail, exc_info=error)


def place(error: BaseException) -> tuple[str, int]:
    """The file and line that an exception was raised at."""
    frames = traceback.extract_tb(error.__traceback__)
    return (frames[-1].filename, frames[-1].lineno or 0) if frames else ("", 0)
