"""A Console to test against: real TLS on the real listener, the protocol's other end, a store in memory."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import cast

from common.protocol import (
    MAX_MESSAGE_BYTES,
    SUBPROTOCOL,
    Close,
    CloseCode,
    CommandFinished,
    ConsoleEnd,
    ConsoleOptions,
    ConsoleOutput,
    Event,
    EventsReceived,
    FactsReceived,
    Fields,
    HelloReceived,
    HostFacts,
    MoveFailed,
    Send,
    leaf_digest,
)
from common.protocol.messages import Claims
from common.transport import (
    Generation,
    HandshakeFailure,
    Listener,
    Refusal,
    UpgradeRequest,
    WebSocketConnection,
    server_factory,
)
from tests.defender.pki import Pki

PATIENCE = 15.0


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait, with a bound, until this is true."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


@dataclass
class Known:
    """What the store keeps of one Defender."""

    session: int = 0
    applied: dict[str, dict[int, Event]] = field(default_factory=dict)
    dropped: int = 0

    def through(self, epoch: str) -> int:
        return max(self.applied.get(epoch, {}), default=0)

    @property
    def events(self) -> list[Event]:
        return [event for events in self.applied.values() for _, event in sorted(events.items())]

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]


class Session:
    """The Console's side of one connection."""

    def __init__(self, console: "Console") -> None:
        self.console = console
        self.loop = asyncio.get_running_loop()
        self.known = Known()
        self.number = 0
        self.claims: Claims | None = None
        self.facts: HostFacts | None = None
        self.results: dict[str, CommandFinished] = {}
        self.move_failures: list[str] = []
        self.closed: tuple[int, str] | None = None
        self.heard_beats = 0
        self.beside: list[Session] = []
        self.deaf = False
        self.hello: tuple[bytes, Claims] | None = None
        self.fenced = 0
        self.presented = b""

    def on_open(self, connection: WebSocketConnection) -> None:
        self.connection = connection
        transport = connection.transport
        self.presented = transport.get_extra_info("peer_chain")[0]
        leaf = leaf_digest(self.console.leaves[transport.get_extra_info("generation").name])
        self.end = ConsoleEnd(self.console.options, nonce=os.urandom(32), leaf=leaf)
        self.console.sessions.append(self)
        if not self.console.silent and self.presented != self.console.ignored:
            self.do(self.end.opened(self.loop.time()))

    def on_message(self, data: bytes) -> None:
        if b'"heartbeat"' in data:
            self.heard_beats += 1
        if self.deaf:
            return
        self.do(self.end.receive(data, self.loop.time()))

    def on_writable(self) -> None: ...

    def on_close(self, code: int, reason: str, exc: Exception | None) -> None:
        self.end.lost()
        self.closed = code, reason

    def do(self, outputs: tuple[ConsoleOutput, ...]) -> None:
        for output in outputs:
            match output:
                case Send(data):
                    self.connection.send(data)
                case Close(code, reason):
                    self.connection.close(code, reason)
                case HelloReceived(instance_key, claims):
                    self.hello = instance_key, claims
                    if not self.console.pondering:
                        self.judge(instance_key, claims)
                case EventsReceived(epoch, first, items, dropped):
                    self.apply(epoch, first, items, dropped)
                case FactsReceived(facts):
                    self.facts = facts
                case CommandFinished():
                    self.results[output.id] = output
                    self.superseded()
                case MoveFailed(reason, _):
                    self.move_failures.append(reason)

    def judge(self, instance_key: bytes, claims: Claims) -> None:
        self.claims = claims
        self.beside = [one for one in self.console.sessions if one is not self and one.closed is None]
        if self.console.refuse is not None:
            self.do(self.end.refuse(self.console.refuse, "by the test"))
            return
        self.known = self.console.defenders.setdefault(instance_key, Known())
        self.known.session += 1
        self.number = self.known.session
        epoch = claims.spool.epoch
        self.do(self.end.welcome("d-test", self.known.session, self.known.through(epoch), self.loop.time()))
        for one in self.beside:
            if one.known is self.known:
                one.superseded()

    def superseded(self) -> None:
        """As the Console does: a replaced session ends once nothing is under way on it."""
        if self.number < self.known.session and not self.end.outstanding and self.console.superseding:
            self.do(self.end.close(CloseCode.SUPERSEDED, "this Defender has a newer connection"))

    def apply(self, epoch: str, first: int, items: tuple[Event, ...], dropped: int) -> None:
        if self.number < self.known.session:
            self.fenced += len(items)
            return
        applied = self.known.applied.setdefault(epoch, {})
        for number, item in enumerate(items, first):
            assert number not in applied, "an event came twice on a fresh position"
            applied[number] = item
        self.known.dropped += dropped
        if self.console.acknowledging:
            self.do(self.end.acknowledge(epoch, first + len(items) - 1))

    def command(self, name: str, arguments: Fields | None = None, command_id: str = "c-1") -> None:
        self.do(self.end.send_command(command_id, name, arguments or {}, self.loop.time()))

    def goes_by_the_deadline(self) -> None:
        """As time passes: one who was asked to move and said nothing by the deadline is closed."""
        self.do(self.end.tick(self.loop.time()))

    def reconnect(self, slot: float = 0.0, deadline: float = 10.0) -> None:
        self.do(self.end.reconnect(slot, deadline, "the test wants it", self.loop.time()))

    def acknowledge_all(self) -> None:
        epoch = self.end.epoch
        self.do(self.end.acknowledge(epoch, self.known.through(epoch)))

    def close(self, code: CloseCode) -> None:
        self.do(self.end.close(code, "by the test"))


class Console:
    """A Console on a port of its own."""

    def __init__(self, pki: Pki, *, heartbeat: float = 30.0) -> None:
        self.pki = pki
        self.options = ConsoleOptions("9.9.9", heartbeat_seconds=heartbeat)
        self.sessions: list[Session] = []
        self.defenders: dict[bytes, Known] = {}
        self.handshake_failures: list[HandshakeFailure] = []
        self.refuse: CloseCode | None = None
        self.refusal: Refusal | None = None
        self.acknowledging = True
        self.superseding = True
        self.silent = False
        self.pondering = False
        self.ignored = b""
        self.subprotocols: tuple[str, ...] = (SUBPROTOCOL,)
        self.host = "127.0.0.1"
        self.port = 0
        self.leaves: dict[str, bytes] = {}
        self._listener: Listener | None = None

    async def start(self, pki: Pki | None = None) -> None:
        self.use(pki or self.pki)
        self._listener = await Listener.start(
            self.host,
            self.port,
            select=lambda _hello: self._generation,
            protocol_factory=server_factory(
                lambda: Session(self),
                subprotocols=self.subprotocols,
                max_size=MAX_MESSAGE_BYTES,
                process_request=self.look_at,
                close_timeout=1.0,
            ),
            on_failure=self.failed,
        )
        self.port = self._listener.port

    def use(self, pki: Pki) -> None:
        """Answer with another set from the next handshake on."""
        self.pki = pki
        leaf = pki.server.certificate
        self.leaves[leaf.fingerprint] = leaf.der
        self._generation = Generation(leaf.fingerprint, pki.context(), mutual=True)

    async def stop(self) -> None:
        """As by kill -9: connections just end."""
        assert self._listener is not None
        self._listener.close()
        for transport in self._listener.connections:
            transport.abort()
        await self._listener.wait_closed(1.0)

    def failed(self, failure: HandshakeFailure) -> None:
        self.handshake_failures.append(failure)

    def look_at(self, request: UpgradeRequest) -> Refusal | None:
        return self.refusal

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait, with a bound, until this is true."""
        await eventually(condition)

    async def welcomed(self, number: int = 1) -> Session:
        """The n-th session that was welcomed."""
        await self.until(lambda: len(self.open_sessions()) >= number)
        return self.open_sessions()[number - 1]

    def open_sessions(self) -> list[Session]:
        return [session for session in self.sessions if session.known.session]

    @property
    def only(self) -> Known:
        (known,) = self.defenders.values()
        return known

    def only_types(self, kind: str) -> int:
        """Events of a type that the one Defender there is has sent; 0 before there is one."""
        return self.only.types.count(kind) if self.defenders else 0


@asynccontextmanager
async def console(pki: Pki, *, heartbeat: float = 30.0) -> AsyncIterator[Console]:
    peer = Console(pki, heartbeat=heartbeat)
    await peer.start()
    try:
        yield peer
    finally:
        await peer.stop()


@asynccontextmanager
async def tcp_server(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object],
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Something else that listens: plain TCP, plain HTTP, HTTPS."""

    handlers: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        handlers[task] = writer
        with suppress(OSError, asyncio.IncompleteReadError):
            answer = serve(reader, writer)
            if asyncio.iscoroutine(answer):
                await answer
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in handlers.values():
            writer.transport.abort()
        await asyncio.gather(*handlers)
