"""A Defender without a task and without files: its protocol's state machine, driven by the generator."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import ec

from common.protocol import (
    Acknowledged,
    Claims,
    Close,
    CloseCode,
    CommandReceived,
    DefenderEnd,
    DefenderOutput,
    Fields,
    HeartbeatSeen,
    ReconnectAsked,
    ReportState,
    Send,
    SpoolState,
    Started,
    Welcomed,
    leaf_digest,
    report,
)
from common.transport import WebSocketConnection
from common.version import VERSION
from tests.bench.wallet import Credentials

if TYPE_CHECKING:
    from tests.bench.generator import Fleet

RETRY_SECONDS: Final = 5.0
"""A lost Defender comes back after a random part of this; of more after each failure, up to the next."""
RETRY_CAP_SECONDS: Final = 30.0


class Defender:
    """One Defender: who it is, its spool in memory, and the connection that it has.

    Attributes:
        through: The last event that the Console has.
        proved: The set by which it was welcomed last.
        asked_by: Until when it must have tried to reconnect, by the monotonic clock; None: nobody asked.
        failures: Attempts in a row that failed.
    """

    __slots__ = (
        "_happened",
        "asked_by",
        "epoch",
        "failures",
        "fleet",
        "id",
        "key",
        "line",
        "name",
        "next_event",
        "next_post",
        "opening",
        "proved",
        "queued",
        "through",
        "timer",
    )

    def __init__(self, fleet: "Fleet", number: int, scalar: bytes) -> None:
        self.fleet = fleet
        self.key = ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1())
        self.name = f"bench-{number:05d}"
        self.epoch = f"{self.name}-{fleet.run}"
        self.id = ""
        self.line: Line | None = None
        self.opening: Line | None = None
        self.queued = False
        self.timer: asyncio.TimerHandle | None = None
        self.proved: Credentials | None = None
        self.asked_by: float | None = None
        self.failures = 0
        self.next_event = 1
        self.through = 0
        self.next_post = time.monotonic() + random.random() * fleet.post_seconds
        self._happened: deque[float] = deque()

    def claims(self) -> Claims:
        spool = SpoolState(self.epoch, first=self.through + 1, next=self.next_event)
        return Claims(self.name, f"{self.name}.bench.test", VERSION, "daemonset", "linux", "amd64", spool)

    def tick(self, now: float) -> None:
        if now >= self.next_post and self.fleet.posting:
            self.next_post = now + self.fleet.post_seconds
            self.next_event += 1
            self.fleet.tally.created += 1
            self._happened.append(now)
            self.post()
        if self.line is not None:
            self.line.tick(now)

    def post(self) -> None:
        """Post what the spool holds and the window has room for."""
        if self.line is None:
            return
        end = self.line.end
        count = min(end.room, self.next_event - end.next_event)
        if count > 0:
            events = [report(Started(VERSION), datetime.now(UTC))] * count
            self.fleet.tally.posted += count
            self.line.do(end.post_events(self.epoch, end.next_event, events))

    def acknowledged(self, through: int) -> None:
        """The Console has all events up to this one; what it said before, it may say again."""
        tally, now = self.fleet.tally, time.monotonic()
        for _ in range(through - self.through):
            self.through += 1
            tally.acknowledged += 1
            tally.delays.append(now - self._happened.popleft())

    @property
    def retry_seconds(self) -> float:
        """How long it waits before it tries again: capped, and jittered."""
        longest: float = min(RETRY_CAP_SECONDS, RETRY_SECONDS * 2.0**self.failures)
        return random.random() * longest


class Line:
    """A connection of a Defender; implements common.transport.WebSocketHandler."""

    __slots__ = ("_connection", "began", "credentials", "defender", "end", "leaf", "settled")

    def __init__(self, defender: Defender, shown: Credentials, settled: "asyncio.Future[str]") -> None:
        self.defender = defender
        self.credentials = shown
        self.end: DefenderEnd
        self.leaf = b""
        self.began = time.monotonic()
        self.settled: asyncio.Future[str] | None = settled
        self._connection: WebSocketConnection | None = None

    def on_open(self, connection: WebSocketConnection) -> None:
        self._connection = connection
        assert connection.transport is not None
        self.leaf = leaf_digest(connection.transport.get_extra_info("peer_chain")[0])
        defender = self.defender
        self.end = DefenderEnd(defender.key, defender.claims(), leaf=self.leaf, jitter=random.random())
        self.do(self.end.opened(time.monotonic()))

    def on_message(self, data: bytes) -> None:
        self.do(self.end.receive(data, time.monotonic()))

    def on_writable(self) -> None:
        pass

    def on_close(self, code: int, reason: str, exc: Exception | None) -> None:
        if self._connection is not None:
            self.end.lost()
        self._connection = None
        why = f"{code} {reason or exc or ''}".strip()
        self.defender.fleet.ended(self, code, why)

    def tick(self, now: float) -> None:
        if now >= self.end.next_deadline:
            self.do(self.end.tick(now, time.time()))

    def close(self, code: CloseCode, reason: str) -> None:
        self.do(self.end.close(code, reason))

    def settle(self, why: str) -> None:
        """Tell whoever opened it what became of it: nothing, if it was welcomed."""
        if self.settled is not None and not self.settled.done():
            self.settled.set_result(why)
        self.settled = None

    def abort(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    def do(self, outputs: Iterable[DefenderOutput]) -> None:
        for output in outputs:
            if self._connection is not None:
                self._do(self._connection, output)

    def _do(self, connection: WebSocketConnection, output: DefenderOutput) -> None:
        fleet = self.defender.fleet
        match output:
            case Send(data):
                connection.send(data)
            case Close(code, reason):
                connection.close(code, reason)
            case Welcomed(welcome):
                fleet.welcomed(self, welcome)
            case HeartbeatSeen():
                fleet.tally.heartbeats += 1
            case Acknowledged(_, through):
                self.defender.acknowledged(through)
                self.defender.post()
            case CommandReceived(command_id, order):
                fleet.ordered(command_id)
                known = isinstance(order, ReportState)
                state: Fields = {"name": self.defender.name} if known else {}
                error = "" if known else "a Defender of the load generator"
                self.do(self.end.result(command_id, ok=known, value=state, error=error))
            case ReconnectAsked(at, deadline):
                fleet.tally.asked += 1
                self.defender.asked_by = deadline
                fleet.again(self.defender, at - time.monotonic())
