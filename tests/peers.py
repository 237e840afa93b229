"""A Defender's end of the channel without the agent: the real protocol over real TLS, driven step by step."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import ec

from common.certificates import CertificateSet, client_context
from common.protocol import (
    SUBPROTOCOL,
    Acknowledged,
    Claims,
    Close,
    CommandReceived,
    DefenderEnd,
    Event,
    HeldSet,
    ReconnectAsked,
    Send,
    SpoolState,
    Welcome,
    Welcomed,
    leaf_digest,
)
from common.transport import WebSocketConnection, client_factory, connect

PATIENCE = 15.0


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def event(text: str) -> Event:
    return Event(time=datetime.now(UTC), type="test", fields={"text": text})


@dataclass
class Peer:
    """One connection. `welcome`, `acked`, `commands`, `asked` and `closed` fill as the Console speaks.

    `held` is what its Hello says of its certificate sets; `on_asked` is called for each Reconnect.
    """

    key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    hostname: str = "peer"
    epoch: str = "epoch-1"
    first: int = 1
    next: int = 1
    held: tuple[HeldSet, ...] = ()
    welcome: Welcome | None = None
    acked: int = 0
    commands: list[CommandReceived] = field(default_factory=list)
    asked: list[ReconnectAsked] = field(default_factory=list)
    on_asked: Callable[[ReconnectAsked], None] | None = None
    closed: tuple[int, str, Exception | None] | None = None
    connection: WebSocketConnection | None = None
    end: DefenderEnd | None = None
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def connect(self, port: int, certificates: CertificateSet, **more: Any) -> Self:
        """Connect, up to the upgrade."""
        context = more.pop("context", None) or client_context(certificates)
        factory = client_factory(f"wss://localhost:{port}/", self, subprotocols=[SUBPROTOCOL])
        await connect(
            "127.0.0.1", port, context=context, server_hostname="localhost", protocol_factory=factory
        )
        return self

    async def welcomed(self) -> Welcome:
        """Wait for the Welcome."""
        await self.until(lambda: self.welcome is not None)
        assert self.welcome is not None
        return self.welcome

    async def over(self) -> tuple[int, str, Exception | None]:
        """Wait for the end of the connection."""
        await self.until(lambda: self.closed is not None)
        assert self.closed is not None
        return self.closed

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for the condition, looked at whenever something came."""
        async with self.news:
            try:
                await asyncio.wait_for(self.news.wait_for(condition), PATIENCE)
            except TimeoutError:
                raise AssertionError(f"never came true; {self}") from None

    def post(self, first: int, *items: Event) -> None:
        """Post events at a position."""
        assert self.end is not None
        self.do(self.end.post_events(self.epoch, first, items))

    def answer(self, command: CommandReceived, **result: Any) -> None:
        """Answer a command."""
        assert self.end is not None
        self.do(self.end.result(command.id, **result))

    # WebSocketHandler

    def on_open(self, connection: WebSocketConnection) -> None:
        assert connection.transport is not None
        leaf = leaf_digest(connection.transport.get_extra_info("peer_chain")[0])
        spool = SpoolState(self.epoch, self.first, self.next)
        claims = Claims(
            self.hostname,
            self.hostname,
            "0.1.0",
            "serverLinux",
            "linux",
            "x86_64",
            spool,
            certificates=self.held,
        )
        self.connection = connection
        self.end = DefenderEnd(self.key, claims, leaf=leaf, jitter=0.5)
        self.do(self.end.opened(time.monotonic()))

    def on_message(self, data: bytes) -> None:
        assert self.end is not None
        self.do(self.end.receive(data, time.monotonic()))

    def on_writable(self) -> None: ...

    def on_close(self, code: int, reason: str, exc: Exception | None) -> None:
        self.closed = (code, reason, exc)
        self._notify()

    def do(self, outputs: Any) -> None:
        """Execute what the end says."""
        assert self.connection is not None
        for output in outputs:
            match output:
                case Send(data):
                    self.connection.send(data)
                case Close(code, reason):
                    self.connection.close(code, reason)
                case Welcomed(welcome):
                    self.welcome = welcome
                case Acknowledged(_, through):
                    self.acked = through
                case CommandReceived():
                    self.commands.append(output)
                case ReconnectAsked():
                    self.asked.append(output)
                    if self.on_asked is not None:
                        self.on_asked(output)
        self._notify()

    def _notify(self) -> None:
        async def notify() -> None:
            async with self.news:
                self.news.notify_all()

        task = asyncio.get_running_loop().create_task(notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
