"""One connection to the Console, from the attempt to its end.

The protocol's state machine decides; this executes what it says on a WebSocket of our transport. There may be
two of these at a time: the next one is opened and proved beside the one in use (D4).
"""

import asyncio
import math
import ssl
import time
from collections.abc import Sequence
from typing import Final, Protocol

from common.protocol import (
    MAX_MESSAGE_BYTES,
    SUBPROTOCOL,
    Acknowledged,
    Claims,
    Close,
    CloseCode,
    CommandReceived,
    DefenderEnd,
    DefenderOutput,
    Event,
    Fields,
    HeartbeatSeen,
    HostFacts,
    Order,
    ReconnectAsked,
    Send,
    Welcome,
    Welcomed,
    leaf_digest,
)
from common.transport import (
    ConnectionFailed,
    WebSocketConnection,
    WebSocketHandler,
    client_factory,
    connect,
)
from defender.causes import Cause, Failure
from defender.classify import attempt_failure, close_failure
from defender.credentials import Credentials
from defender.identity import InstanceKey
from defender.resolve import Resolver
from defender.settings import Address

CLOSE_BOUND: Final = 5.0
"""Seconds that the Console may take to answer a close."""

_ELSEWHERE: Final = frozenset({Cause.UNREACHABLE})
"""Causes that another address of the same host may not have."""


class Observer(Protocol):
    """What the owner of a link is told while the link stands."""

    def on_welcome(self, link: "Link", welcome: Welcome) -> None:
        """The Console accepted us: the link may be used from now on, and may be asked things at once."""

    def on_room(self, link: "Link") -> None:
        """More events may be posted."""

    def on_acknowledged(self, link: "Link", epoch: str, through: int) -> None:
        """The Console has these events."""

    def on_heartbeat(self, link: "Link") -> None:
        """The Console answered a heartbeat."""

    def on_order(self, link: "Link", command_id: str, order: Order) -> None:
        """The Console wants something done."""

    def on_move(self, link: "Link", asked: ReconnectAsked) -> None:
        """The Console wants us to connect anew."""


class Link:
    """One connection: a WebSocket's handler that drives a DefenderEnd.

    Attributes:
        outcome: Set once: the Welcome, or why there was none.
        ended: Set once the connection is gone: why.
        credentials: What it presents and trusts.
        leaf: SHA-256 of the Console's certificate, hex; empty before TLS stands.
        chain: The Console's certificates as they were verified, DER, leaf first; empty before TLS stands.
        console_version: The Console's version; empty before the Welcome.
        round_trip: Seconds of the last heartbeat's, None before.
        skew: Seconds that the Console's clock is ahead, None before it was told.

    Args:
        key: The instance key.
        credentials: What to present and trust.
        claims: What the Hello says.
        observer: Whom to tell.
        jitter: A random number in [0, 1), for the first heartbeat.
    """

    def __init__(
        self,
        key: InstanceKey,
        credentials: Credentials,
        claims: Claims,
        *,
        observer: Observer,
        jitter: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._key = key
        self.credentials = credentials
        self._claims = claims
        self._observer = observer
        self._jitter = jitter
        self._connection: WebSocketConnection | None = None
        self._end: DefenderEnd | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._said: Close | None = None
        self._opened_at = math.inf
        self.outcome: asyncio.Future[Welcome | Failure] = self._loop.create_future()
        self.ended: asyncio.Future[Failure] = self._loop.create_future()
        self.leaf = ""
        self.chain: tuple[bytes, ...] = ()
        self.console_version = ""
        self.round_trip: float | None = None
        self.skew: float | None = None

    # What the owner asks

    async def open(self, dialer: "Dialer") -> Failure | None:
        """Connect, prove both sides and say Hello.

        Returns:
            Why there is no connection; None once the Console has welcomed us. Bounded by the dialer's
            patience and the protocol's.
        """
        connection = await dialer.dial(self.credentials.context, self)
        if isinstance(connection, Failure):
            return connection
        self._connection = connection
        try:
            outcome = await asyncio.shield(self.outcome)
        except asyncio.CancelledError:
            if self.welcome is None:  # Else its owner has it, and says goodbye on it.
                connection.abort()
            raise
        return outcome if isinstance(outcome, Failure) else None

    @property
    def epoch(self) -> str:
        """The spool epoch that this connection carries."""
        return self._claims.spool.epoch

    @property
    def welcome(self) -> Welcome | None:
        """The Console's Welcome; None before it."""
        return self._end.welcomed if self._end else None

    @property
    def age(self) -> float:
        """Seconds since the WebSocket stood."""
        return max(0.0, self._loop.time() - self._opened_at)

    @property
    def room(self) -> int:
        """Events that may be posted now."""
        if self._end is None or self._connection is None or not self._connection.writable:
            return 0
        return self._end.room

    @property
    def next_event(self) -> int:
        """The number of the event to post next."""
        return self._end.next_event if self._end else 0

    def post_events(self, first: int, items: Sequence[Event]) -> None:
        """Send events of this connection's epoch; at most `room`, from `next_event` on or later."""
        if self._end:
            self._do(self._end.post_events(self.epoch, first, items))

    def post_facts(self, facts: HostFacts) -> None:
        """Tell what changed about the host."""
        if self._end:
            self._do(self._end.post_facts(facts))

    def answer(self, command_id: str, *, ok: bool, value: Fields | None = None, error: str = "") -> None:
        """Say what became of a command."""
        if self._end:
            self._do(self._end.result(command_id, ok=ok, value=value, error=error))

    def move_failed(self, failure: Failure) -> None:
        """Say that an attempt that the Console asked for failed."""
        if self._end:
            self._do(self._end.reconnect_failed(failure.cause.value, failure.detail))

    def close(self, code: CloseCode, reason: str) -> None:
        """Close it in order; `ended` follows within the transport's bound."""
        if self._end:
            self._do(self._end.close(code, reason))
        else:
            self.abort()

    def abort(self) -> None:
        """Drop it now."""
        if self._connection is not None:
            self._connection.abort()

    # What the WebSocket says

    def on_open(self, connection: WebSocketConnection) -> None:
        """The upgrade is done: the Console speaks next."""
        self._connection = connection
        self.chain = connection.transport.get_extra_info("peer_chain")
        digest = leaf_digest(self.chain[0])
        self.leaf = digest.hex()
        self._end = DefenderEnd(self._key.private, self._claims, leaf=digest, jitter=self._jitter)
        self._opened_at = self._loop.time()
        self._do(self._end.opened(self._opened_at))

    def on_message(self, data: bytes) -> None:
        """A message came."""
        if self._end:
            self._do(self._end.receive(data, self._loop.time()))

    def on_writable(self) -> None:
        """What was sent is on its way."""
        if self.room:
            self._observer.on_room(self)

    def on_close(self, code: int, reason: str, exc: Exception | None) -> None:
        """The connection is gone."""
        welcomed = self.welcome is not None
        if self._end:
            self._end.lost()
        if self._timer:
            self._timer.cancel()
        if self._said:
            code, reason, exc = self._said.code, self._said.reason, None
        failure = close_failure(code, reason, exc, welcomed=welcomed, ours=self._said is not None)
        if not self.outcome.done():
            self.outcome.set_result(failure)
        if not self.ended.done():
            self.ended.set_result(failure)

    # How

    def _do(self, outputs: Sequence[DefenderOutput]) -> None:
        assert self._connection is not None
        for output in outputs:
            match output:
                case Send(data):
                    self._connection.send(data)
                case Close(code, reason):
                    self._said = output
                    self._connection.close(code, reason)
                    if code is CloseCode.SILENT:
                        # Who says nothing won't answer a close either.
                        self._connection.abort()
                case Welcomed(welcome, challenge):
                    self.console_version = challenge.version
                    if not self.outcome.done():
                        self.outcome.set_result(welcome)
                        self._observer.on_welcome(self, welcome)
                case Acknowledged(epoch, through):
                    self._observer.on_acknowledged(self, epoch, through)
                case CommandReceived(command_id, order):
                    self._observer.on_order(self, command_id, order)
                case ReconnectAsked():
                    self._observer.on_move(self, output)
                case HeartbeatSeen(round_trip, skew):
                    self.round_trip, self.skew = round_trip, skew
                    self._observer.on_heartbeat(self)
        self._schedule()

    def _schedule(self) -> None:
        """One timer, moved only when it would come too late: heartbeats put deadlines off all the time."""
        assert self._end is not None
        deadline = self._end.next_deadline
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
            self._timer = None
        if deadline < math.inf:
            self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._end:
            self._do(self._end.tick(self._loop.time(), time.time()))


def console_certificate(connection: WebSocketConnection) -> bytes:
    """The leaf certificate that the Console presented on a connection, DER."""
    transport = connection.transport
    der = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
    assert isinstance(der, bytes)  # our context verifies: there is one
    return der


class Dialer:
    """Opens WebSockets to one address.

    Args:
        address: The Console's.
        resolver: For its name.
        patience: Seconds that the look-up, TCP and TLS may take together, and then the upgrade.
    """

    def __init__(self, address: Address, resolver: Resolver, *, patience: float) -> None:
        self._address = address
        self._resolver = resolver
        self._patience = patience

    async def dial(self, context: ssl.SSLContext, handler: WebSocketHandler) -> WebSocketConnection | Failure:
        """Connect a handler; its `on_open` or `on_close` follows.

        Returns:
            The connection, TLS done and the upgrade asked for; or why it didn't come so far on any of the
            host's addresses.
        """
        deadline = asyncio.get_running_loop().time() + self._patience
        address = self._address
        try:
            hosts = await self._resolver.resolve(address.host, address.port, patience=self._patience)
        except OSError as error:
            words = error.strerror or str(error) or "no answer in time"
            return Failure(Cause.UNREACHABLE, f"the name {address.host} cannot be looked up ({words})")
        failure = Failure(Cause.UNREACHABLE, f"the name {address.host} has no address")
        for number, host in enumerate(hosts):
            # What is left is shared among the addresses that are left: a black hole may not eat all of it.
            left = max(0.1, deadline - asyncio.get_running_loop().time()) / (len(hosts) - number)
            tried = await self._try(host, left, context, handler)
            if isinstance(tried, WebSocketConnection) or tried.cause not in _ELSEWHERE:
                return tried
            failure = tried
        return failure

    async def _try(
        self, host: str, seconds: float, context: ssl.SSLContext, handler: WebSocketHandler
    ) -> WebSocketConnection | Failure:
        factory = client_factory(
            f"{self._address}/",
            handler,
            subprotocols=(SUBPROTOCOL,),
            max_size=MAX_MESSAGE_BYTES,
            upgrade_timeout=self._patience,
            close_timeout=CLOSE_BOUND,
        )
        try:
            _, connection = await connect(
                host,
                self._address.port,
                context=context,
                server_hostname=self._address.host,
                protocol_factory=factory,
                timeout=seconds,
            )
        except ConnectionFailed as error:
            return attempt_failure(error, Address(host, self._address.port).authority)
        return connection
