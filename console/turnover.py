"""What a swap of the HTTPS certificates means for the connections that exist: nobody's request is cut off.

From the swap on (D3), a connection that was made on the replaced generation is left at the next moment that
both of its ends can know to be safe:

- A request under way is answered, and so are those that were sent with it (pipelined). The last of these
  answers carries `Connection: close`, after which a client sends nothing more (RFC 9112 §9.6).
- A connection without a request under way isn't touched: the next one could be on its way. It is left after
  that one's answer, or by the keep-alive time-out that it has anyway.
- An event stream ends in order within `STREAM_DRAIN_SECONDS`, each at a moment of its own, so that browsers
  don't all come back at once. A browser may come back on another connection that it kept: that stream has
  no more time than the others, and the browser is told to come again at once.
- A request (a download, an upload) that is still under way `HTTPS_DRAIN_SECONDS` after the swap is cut: its
  client sees a truncated stream, never one that looks whole.

It rests on one question: is the generation of a request's connection replaced? So any number of swaps may
overlap.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from ssl import SSLContext
from typing import Final

from common.transport import Generation, TLSTransport

HTTPS_DRAIN_SECONDS: Final = 300.0
"""How long after a swap a request may still be under way on a connection that was made before it."""
STREAM_DRAIN_SECONDS: Final = 30.0
"""Within which an event stream on such a connection ends."""


class HTTPSGeneration(Generation):
    """A listener generation that tells whoever is on it that it was replaced.

    Args:
        name: The fingerprint of its set.
        context: Complete, and never changed after.

    Attributes:
        replaced_at: When, by the loop's clock; None as long as new connections get this generation.
    """

    __slots__ = ("_waiting", "replaced_at")

    def __init__(self, name: str, context: SSLContext) -> None:
        super().__init__(name, context)
        self.replaced_at: float | None = None
        self._waiting: set[Callable[[], None]] = set()

    def tell(self, callback: Callable[[], None]) -> None:
        """Call this when the generation is replaced: once, however often it was asked for."""
        self._waiting.add(callback)

    def replace(self, now: float) -> None:
        """New connections get another generation from now on."""
        self.replaced_at = now
        for callback in self._waiting:
            callback()
        self._waiting.clear()

    def remaining(self, seconds: float, now: float) -> float:
        """Seconds left for what has `seconds` from the swap on; infinite before one."""
        return float("inf") if self.replaced_at is None else self.replaced_at + seconds - now


def generation_of(transport: asyncio.BaseTransport | None) -> HTTPSGeneration | None:
    """What a connection was made on; None for a listener that isn't ours, and for a lost connection."""
    generation = transport and transport.get_extra_info("generation")
    return generation if isinstance(generation, HTTPSGeneration) else None


@dataclass(frozen=True, slots=True)
class DrainBounds:
    """What the connections of a replaced generation are given, in seconds.

    Attributes:
        handshakes: From the swap, within which a handshake that began before it has ended.
        requests: From the swap, after which a request that is under way is cut.
        waiting: From that moment, for those that waited for a request then: longer than the keep-alive
            time-out by what is a fair time for that request.
    """

    handshakes: float
    requests: float
    waiting: float


class Drain:
    """The end of one replaced generation. Decides; whoever asks aborts, and logs.

    Args:
        generation: Replaced.
        bounds: What its connections are given.
    """

    def __init__(self, generation: HTTPSGeneration, bounds: DrainBounds) -> None:
        assert generation.replaced_at is not None
        self._generation = generation
        self._since = generation.replaced_at
        self._bounds = bounds
        self._bound_seen = False
        self.cut = 0

    @property
    def left(self) -> int:
        """Connections that it still has."""
        return len(self._generation.connections)

    def due(self, now: float, is_answering: Callable[[TLSTransport], bool]) -> list[TLSTransport]:
        """The connections to abort now; `cut` counts them.

        At the bound only those that answer a request: one that waits has its keep-alive time-out still, since
        a request may be on its way. What is left after that, too, has had its time. One that is closing has
        bounds of its own.
        """
        connections = [one for one in self._generation.connections if not one.is_closing()]
        if now >= self._since + self._bounds.requests + self._bounds.waiting:
            due = connections
        elif now >= self._since + self._bounds.requests and not self._bound_seen:
            self._bound_seen = True
            due = [one for one in connections if is_answering(one)]
        else:
            return []
        self.cut += len(due)
        return due

    def over(self, now: float) -> bool:
        """Whether nobody is connected on it any more, nor can come to be by a handshake under way."""
        return not self.left and now >= self._since + self._bounds.handshakes

    def line(self, now: float) -> str:
        """What to log when it is over."""
        line = (
            f"Console HTTPS: nobody is connected on the replaced certificates ({self._generation.name[:16]}) "
            f"any more, {now - self._since:.0f} s after the swap"
        )
        if not self.cut:
            return line
        were = "request that was still under way was" if self.cut == 1 else "requests still under way were"
        return f"{line}; {self.cut} {were} cut off after {self._bounds.requests:g} s"
