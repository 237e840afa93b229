"""The Defenders' table, kept up to date in every browser that shows it, by server-sent events.

One task waits for the fleet to change and lets at most one change a second through; each stream waits for
that, and all streams that show the same part of the table share one rendering of it. A stream has no queue:
a browser that reads slowly skips what was overtaken.
"""

import asyncio
import hashlib
import random
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from console.fleet.directory import LiveFleet
from console.turnover import STREAM_DRAIN_SECONDS, generation_of

INTERVAL: Final = 1.0
"""Seconds between two changes that a browser is told of."""
HEARTBEAT: Final = 15.0
"""Seconds without a change after which a comment is sent, so that no proxy takes the stream for dead."""
WRITE_TIMEOUT: Final = 30.0
"""Seconds that a browser may take to read what it was sent."""
MAX_STREAMS: Final = 256
"""Streams at a time; each holds a connection, and a few kilobytes."""
RETRY_MS: Final = 2000
"""How long a browser waits before it connects again (HTML, server-sent events, `retry`)."""
AT_ONCE_MS: Final = 100
"""The same where it has come back on a connection that is to be left: it may keep several of them."""


class Pulse:
    """Tells many waiters that the fleet has changed, not more often than they can show it.

    Args:
        live: What changes.
        interval: Seconds between two beats, at least.
    """

    def __init__(self, live: LiveFleet, interval: float = INTERVAL) -> None:
        self._live = live
        self._interval = interval
        self._next = asyncio.Event()
        self.beat = 0
        self.closed = False

    async def run(self) -> None:
        """Beat until cancelled."""
        version = self._live.version
        while True:
            version = await self._live.wait_for_change(version)
            self._wake()
            await asyncio.sleep(self._interval)

    async def wait(self, beat: int, longest: float) -> None:
        """Return when the beat isn't `beat` any more, when all is over, or after `longest` seconds."""
        if self.closed or self.beat != beat:
            return
        try:
            async with asyncio.timeout(longest):
                await self._next.wait()
        except TimeoutError:
            return

    def close(self) -> None:
        """Let every waiter go, for good."""
        self.closed = True
        self._wake()

    def release(self) -> None:
        """Let every waiter go, to look whether it is still to wait; nothing has changed."""
        self._next.set()
        self._next = asyncio.Event()

    def _wake(self) -> None:
        self.beat += 1
        self.release()


@dataclass(frozen=True, slots=True)
class Fragment:
    """A part of a page, by the name of the event that replaces it."""

    event: str
    html: str

    @property
    def digest(self) -> str:
        """Which content this is."""
        return hashlib.sha256(self.html.encode()).hexdigest()[:16]


# HTML, server-sent events: these three end a line, and nothing else that str.splitlines takes for an end.
_LINE_BREAK: Final = re.compile(r"\r\n|\r|\n")

Render = Callable[[int], Awaitable[tuple[Fragment, ...]]]
"""From the offset of a table's first row to the parts of the page that show it."""


@dataclass(frozen=True, slots=True)
class _Kept:
    beat: int
    until: float
    parts: tuple[Fragment, ...]


class Renderings:
    """What `render` made of each part of the table, once for each beat and not once for each browser.

    Args:
        render: Makes them.
        age: Seconds after which one is made anew without a beat: a certificate may have ended meanwhile.
        size: How many parts of the table are kept.
    """

    def __init__(self, render: Render, *, age: float = HEARTBEAT / 2, size: int = 32) -> None:
        self._render = render
        self._age = age
        self._size = size
        self._lock = asyncio.Lock()
        self._kept: OrderedDict[int, _Kept] = OrderedDict()

    async def at(self, offset: int, beat: int) -> tuple[Fragment, ...]:
        """The parts for a beat, or for a later one."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            kept = self._kept.get(offset)
            if kept is None or kept.beat < beat or kept.until < now:
                kept = _Kept(beat, now + self._age, await self._render(offset))
                self._kept[offset] = kept
                self._kept.move_to_end(offset)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
            return kept.parts


class Streams:
    """The event streams that are open.

    Args:
        live: What they follow.
        render: What they show.
        interval: Seconds between two updates, at least.
        heartbeat: Seconds between two signs of life.
        most: How many at a time.
        leave: Seconds within which a stream ends when its connection's certificates have been replaced.
        chance: Where in that time one ends, as a part of it from 0 to 1.
    """

    def __init__(
        self,
        live: LiveFleet,
        render: Render,
        *,
        interval: float = INTERVAL,
        heartbeat: float = HEARTBEAT,
        most: int = MAX_STREAMS,
        leave: float = STREAM_DRAIN_SECONDS,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.pulse = Pulse(live, interval)
        self._renderings = Renderings(render, age=heartbeat / 2)
        self._heartbeat = heartbeat
        self._most = most
        self._leave = leave
        self._chance = chance
        self.open = 0

    @property
    def full(self) -> bool:
        """Whether no further stream may be opened."""
        return self.open >= self._most or self.pulse.closed

    def look_again(self) -> None:
        """Let each stream see whether its session still lives."""
        self.pulse.release()

    async def serve(
        self,
        request: web.Request,
        offset: int,
        remaining: Callable[[], float],
        ended: tuple[Fragment, ...] = (),
    ) -> web.StreamResponse:
        """Send one browser every change, until it goes, its session ends or the Console stops.

        Also until the certificates of its connection have been replaced: then it ends without a word, and the
        browser, which shows what it has, comes back by itself on a new connection.

        Args:
            request: The browser's.
            offset: Of the first row that it shows.
            remaining: Seconds that its session has left.
            ended: What to say when it has none left.
        """
        response = _stream()
        self.open += 1
        try:
            await response.prepare(request)
            stay = self._stay(request)
            await _write(response, f"retry: {RETRY_MS if stay() > 0 else AT_ONCE_MS}\n\n")
            shown = request.query.get("shown", "")
            await self._follow(response, offset, lambda: min(remaining(), stay()), shown=shown)
            if remaining() <= 0:
                await _write(response, "".join(map(event, ended)))
        except (ConnectionError, TimeoutError):
            # The browser is gone, or reads nothing: its connection has no other use.
            if request.transport is not None:
                request.transport.abort()
        finally:
            self.open -= 1
        return response

    def _stay(self, request: web.Request) -> Callable[[], float]:
        """How many seconds a stream may stay on its connection."""
        generation = generation_of(request.transport)
        if generation is None:
            return lambda: float("inf")
        # Whoever waits for a change looks again. The same callback for all of them, so it is called once.
        generation.tell(self.pulse.release)
        seconds = self._leave * self._chance()
        now = asyncio.get_running_loop().time
        return lambda: generation.remaining(seconds, now())

    async def _follow(
        self, response: web.StreamResponse, offset: int, remaining: Callable[[], float], *, shown: str
    ) -> None:
        known = set(shown.split(","))
        while not self.pulse.closed and remaining() > 0:
            beat = self.pulse.beat
            fragments = await self._renderings.at(offset, beat)
            news = [part for part in fragments if part.digest not in known]
            known = {part.digest for part in fragments}
            await _write(response, "".join(map(event, news)) or ": still here\n\n")
            await self.pulse.wait(beat, min(self._heartbeat, remaining()))


def event(part: Fragment) -> str:
    """A fragment as one event of a stream; every line break starts a new `data:` line."""
    lines = _LINE_BREAK.split(part.html)
    return f"event: {part.event}\n" + "".join(f"data: {line}\n" for line in lines) + "\n"


async def once(request: web.Request, *parts: Fragment) -> web.StreamResponse:
    """A stream that says this much and ends."""
    response = _stream()
    await response.prepare(request)
    await _write(response, "".join(map(event, parts)))
    return response


def _stream() -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-store",
            # A proxy of nginx's kind would otherwise hold events back until its buffer is full.
            "X-Accel-Buffering": "no",
        }
    )
    # Its end is its connection's, and that is said beforehand: whoever ends it, no other request can have
    # been sent on that connection meanwhile, and the browser comes back on a new one.
    response.force_close()
    return response


async def _write(response: web.StreamResponse, text: str) -> None:
    async with asyncio.timeout(WRITE_TIMEOUT):
        await response.write(text.encode())
