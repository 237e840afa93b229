"""Which pending connection does a handshake step next, and which one has to go: decided without I/O.

What is admitted is work, not waiting. A connection that has sent its final flight goes first: it costs one
verification and then serves a peer. Only when there is none does a new ClientHello start, one in a turn of
the loop, taking addresses in rotation, so that one address with a thousand of them delays another by one. A
connection that only waits holds no slot beyond a moment (`Limits.stall`): forty silent ones must not block
the forty-first. Where too many wait, the one that has waited longest goes; one whose bytes are there never
does.

Measured (performance.md): a plain limit of concurrent handshakes let 40 silent connections block everybody
for 9.7 s; without any limit, a storm of 5,000 starts every handshake and ends none in time.
"""

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

FINALS_PER_TURN: Final = 32
"""Final flights done in one turn of the loop: about 10 ms, after which live connections get theirs."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a listener takes on. Times in seconds.

    Attributes:
        backlog: Connections that the kernel holds until we accept them.
        max_pending: Connections that we hold before they are established; beyond, the one waiting longest
            goes.
        per_address: Waiting connections of one address (an IPv6 /64 counts as one); beyond, its own oldest
            goes. As high as `max_pending` by default, since a whole fleet may come through one NAT.
        max_concurrent: Handshakes that wait for their final flight while a new one may start.
        stall: How long such a handshake counts as one that will go on at once.
        hello_timeout: From accept to the complete ClientHello.
        handshake_timeout: From the ClientHello's turn to the end of the handshake.
        linger_timeout: How long a closed connection is drained, so that our last words reach the peer.
        shutdown_timeout: From close() until what is queued must have been taken by the peer.
        write_stall: How long the peer of an established connection may take nothing of what is queued.
        max_connections: Established connections; beyond, the newest is refused, so that those of one port
            cannot take the file descriptors of another. None: as many as there are file descriptors.
        max_per_address: Likewise, of one address (counted as for `per_address`).
        sweep: How often deadlines are looked at.
    """

    backlog: int = 4096
    max_pending: int = 8192
    per_address: int = 8192
    max_concurrent: int = 64
    stall: float = 0.02
    hello_timeout: float = 10.0
    handshake_timeout: float = 10.0
    linger_timeout: float = 2.0
    shutdown_timeout: float = 30.0
    write_stall: float = 60.0
    max_connections: int | None = None
    max_per_address: int | None = None
    sweep: float = 0.25


class Stage(Enum):
    """How far a pending connection has come."""

    SILENT = auto()
    """Accepted; its ClientHello is not complete."""
    HELLO = auto()
    """Its ClientHello is there and waits for its turn: on us."""
    SHAKING = auto()
    """We have answered; the peer's next flight is due: on the peer."""
    FINAL = auto()
    """That flight is there: on us."""
    LINGERING = auto()
    """Refused; what the peer still sends is drained, so that our alert is not lost to a reset."""


@dataclass(slots=True)
class _Entry:
    address: str
    stage: Stage
    deadline: float


class Admission:
    """The pending connections of one listener, by a key of the caller's (its file descriptor)."""

    __slots__ = (
        "_entries",
        "_finals",
        "_fresh",
        "_hellos",
        "_limits",
        "_newest",
        "_stalled",
        "_stalled_by_address",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._entries: dict[int, _Entry] = {}
        # Insertion order is the order of waiting: the first has waited longest.
        self._stalled: dict[int, None] = {}
        self._stalled_by_address: dict[str, dict[int, None]] = {}
        self._hellos: dict[str, deque[int]] = {}
        self._newest = False
        self._finals: dict[int, None] = {}
        # Handshakes that hold a slot, and until when.
        self._fresh: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def stage(self, key: int) -> Stage:
        """How far this connection has come."""
        return self._entries[key].stage

    def full(self, now: float) -> bool:
        """Whether nothing more may be accepted: all that is held is work, so the kernel shall hold it.

        A handshake that will go on at once (one that holds a slot) is work, too.
        """
        if len(self._entries) < self._limits.max_pending:
            return False
        self._give_back_slots(now)
        return len(self._stalled) <= len(self._fresh)

    def arrive(self, key: int, address: str, now: float) -> int | None:
        """A connection was accepted.

        Returns:
            The connection to evict for it, which has left already; None if there is room.
        """
        self._give_back_slots(now)
        victim = self._victim(address)
        if victim is not None:
            self.leave(victim)
        self._entries[key] = _Entry(address, Stage.SILENT, now + self._limits.hello_timeout)
        self._stall(key, address)
        return victim

    def make_room(self, now: float) -> int | None:
        """The connection to evict where file descriptors have run out; it has left already."""
        self._give_back_slots(now)
        victim = self._longest(self._stalled)
        if victim is not None:
            self.leave(victim)
        return victim

    def _longest(self, waiting: dict[int, None]) -> int | None:
        return next((key for key in waiting if key not in self._fresh), None)

    def _victim(self, address: str) -> int | None:
        of_address = self._stalled_by_address.get(address, {})
        if len(of_address) >= self._limits.per_address:
            waiting = of_address
        elif len(self._entries) >= self._limits.max_pending:
            waiting = self._stalled
        else:
            return None
        return self._longest(waiting)

    def hello(self, key: int) -> None:
        """Its ClientHello is complete; it waits for its turn and cannot be evicted for that."""
        entry = self._entries[key]
        self._unstall(key, entry)
        entry.stage, entry.deadline = Stage.HELLO, math.inf
        self._hellos.setdefault(entry.address, deque()).append(key)

    def readable(self, key: int) -> None:
        """Octets of its next flight are there; saying so again changes nothing."""
        entry = self._entries[key]
        if entry.stage is Stage.SHAKING:
            self._unstall(key, entry)
            entry.stage = Stage.FINAL
            self._finals[key] = None

    def turn(self, now: float) -> list[int]:
        """The connections that do a handshake step in this turn of the loop, in this order.

        After its step each of them either says `waiting`, `linger` or `leave`.
        """
        keys = list(self._finals)[:FINALS_PER_TURN]
        for key in keys:
            del self._finals[key]
        if not self._finals and (hello := self._next_hello(now)) is not None:
            keys.append(hello)
            self._entries[hello].deadline = now + self._limits.handshake_timeout
        for key in keys:
            self._entries[key].stage = Stage.SHAKING
        return keys

    def _next_hello(self, now: float) -> int | None:
        self._give_back_slots(now)
        if not self._hellos or len(self._fresh) >= self._limits.max_concurrent:
            return None
        address = next(iter(self._hellos))
        queue = self._hellos.pop(address)
        # Of one address the newest and the oldest alternate. A burst of ClientHellos that lead nowhere then
        # delays a newcomer by one of them, not by all (400 of them: 0.4 s), and nobody waits for ever.
        self._newest = not self._newest
        key = queue.pop() if self._newest else queue.popleft()
        if queue:
            self._hellos[address] = queue  # at the end: addresses take turns
        return key

    def _give_back_slots(self, now: float) -> None:
        while self._fresh and next(iter(self._fresh.values())) <= now:
            del self._fresh[next(iter(self._fresh))]

    def next_turn(self, now: float) -> float | None:
        """Seconds until `turn` has something to do, as far as is known; None while nothing waits for us."""
        if self._finals:
            return 0.0
        if not self._hellos:
            return None
        self._give_back_slots(now)
        if len(self._fresh) < self._limits.max_concurrent:
            return 0.0
        return next(iter(self._fresh.values())) - now

    def waiting(self, key: int, now: float) -> None:
        """It did its step, and now the peer has to go on."""
        self._stall(key, self._entries[key].address)
        self._fresh[key] = now + self._limits.stall

    def retry(self, key: int) -> None:
        """It was in a turn that ended before its step; it is in the next one."""
        self._entries[key].stage = Stage.FINAL
        self._finals[key] = None

    def linger(self, key: int, now: float) -> None:
        """It was refused; it stays for as long as the peer takes to read why."""
        entry = self._entries[key]
        self._forget_work(key, entry)
        entry.stage, entry.deadline = Stage.LINGERING, now + self._limits.linger_timeout
        self._stall(key, entry.address)

    def leave(self, key: int) -> None:
        """It is established, or closed."""
        entry = self._entries.pop(key)
        self._forget_work(key, entry)

    def expired(self, now: float) -> list[tuple[int, Stage]]:
        """The connections whose time is over, and how far they came; they still have to `leave`."""
        return [(key, entry.stage) for key, entry in self._entries.items() if entry.deadline <= now]

    def _forget_work(self, key: int, entry: _Entry) -> None:
        self._unstall(key, entry)
        self._finals.pop(key, None)
        queue = self._hellos.get(entry.address)
        if queue is not None and entry.stage is Stage.HELLO:
            queue.remove(key)
            if not queue:
                del self._hellos[entry.address]

    def _stall(self, key: int, address: str) -> None:
        self._stalled[key] = None
        self._stalled_by_address.setdefault(address, {})[key] = None

    def _unstall(self, key: int, entry: _Entry) -> None:
        self._fresh.pop(key, None)
        if self._stalled.pop(key, 0) is None:
            of_address = self._stalled_by_address[entry.address]
            del of_address[key]
            if not of_address:
                del self._stalled_by_address[entry.address]
