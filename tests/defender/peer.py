"""A Console to test against: real TLS on the real listener, the protocol's other end, a store in memory."""

import asyncio
import logging
import os
import random
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from common.bundle import Bundle, encode_bundle
from common.certificates import (
    FILES,
    P256,
    Authority,
    FileSet,
    Issued,
    Role,
    Source,
    judge,
    parse_san,
    server_context,
)
from common.clock import SystemClock
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
from defender.agent import Agent, Ending
from defender.connection import Dialer
from defender.credentials import Credentials, CredentialSource
from defender.identity import InstanceKey, load_or_create
from defender.journal import Journal
from defender.resolve import Resolver
from defender.settings import Address, DefenderSettings
from defender.spool import Bounds, Spool

DAY = timedelta(days=1)
PATIENCE = 15.0


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait, with a bound, until this is true."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


@dataclass(frozen=True, slots=True)
class Pki:
    """A CA with what it issued to a Console and to a Defender."""

    authority: Authority
    server: Issued
    client: Issued

    @classmethod
    def create(
        cls,
        *,
        san: str = "DNS:localhost IP:127.0.0.1",
        server_ends: timedelta = 30 * DAY,
        client_ends: timedelta = 30 * DAY,
        server_role: Role = Role.DEFENDER_SERVER,
        client_role: Role = Role.DEFENDER_CLIENT,
        authority: Authority | None = None,
        client_authority: Authority | None = None,
    ) -> "Pki":
        now = datetime.now(UTC)
        authority = authority or Authority.create("Test CA", now=now - 5 * DAY, algorithm=P256)

        def issue(by: Authority, role: Role, ends: timedelta) -> Issued:
            # Issued in the past, so that an end may lie there, too; validity begins a day before.
            return by.issue(
                role,
                common_name="test",
                names=parse_san(san),
                now=now - 3 * DAY,
                lifetime=3 * DAY + ends,
            )

        server = issue(authority, server_role, server_ends)
        return cls(authority, server, issue(client_authority or authority, client_role, client_ends))

    def reissued(self) -> "Pki":
        """The same CA, with new certificates and keys for both."""
        return Pki.create(authority=self.authority)

    def credentials(self, source: Source = Source.GENERATED, place: str = "the test") -> Credentials:
        """What a Defender makes of its files."""
        files = FileSet.from_bytes(Role.DEFENDER_CLIENT, self.defender_files())
        judgement = judge(files, now=datetime.now(UTC), source=source)
        assert judgement.set is not None, judgement.faults
        return Credentials.of(judgement.set, place)

    def defender_files(self, trust: Authority | None = None) -> Mapping[str, bytes]:
        names = FILES[Role.DEFENDER_CLIENT]
        anchors = (trust or self.authority).certificate_pem
        if self.client.certificate.aki != self.authority.certificate.ski:
            # The loader wants our own chain to end in our own bundle.
            anchors += self.authority.certificate_pem
        return {
            names.ca or "": anchors,
            names.certificate: self.client.chain,
            names.key: self.client.key,
        }

    def deploy(self, data_folder: Path, extra_trust: bytes = b"") -> None:
        """Put the Defender's files where it looks for them."""
        folder = data_folder / "certificates"
        folder.mkdir(parents=True, exist_ok=True)
        for name, pem in self.defender_files().items():
            path = folder / name
            path.write_bytes(pem + (extra_trust if name == "defender-ca.pem" else b""))
            path.chmod(0o600)

    def copy_custom(self, data_folder: Path, *names: str) -> Path:
        """Put files of the Defender's, or all, into its directory of custom certificates, as `mv` does."""
        folder = data_folder / "custom-certificates"
        folder.mkdir(parents=True, exist_ok=True)
        for name, pem in self.defender_files().items():
            if not names or name in names:
                beside = data_folder / name
                beside.write_bytes(pem)
                beside.chmod(0o600)
                beside.replace(folder / name)
        return folder

    def bundle(self) -> str:
        return encode_bundle(Bundle(self.defender_files()))

    def server_files(self) -> dict[str, bytes]:
        names = FILES[Role.DEFENDER_SERVER]
        return {
            names.ca or "": self.authority.certificate_pem,
            names.certificate: self.server.chain,
            names.key: self.server.key,
        }

    def context(self) -> ssl.SSLContext:
        """The listener's; one that our own judgement would refuse is built by hand."""
        files = FileSet.from_bytes(Role.DEFENDER_SERVER, self.server_files())
        judgement = judge(files, now=datetime.now(UTC), source=Source.GENERATED)
        if judgement.set is not None:
            return server_context(judgement.set)
        return self.bare_context()

    def bare_context(self, *, mutual: bool = True) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        path = f"/dev/shm/garrison-test-{os.getpid()}-{random.randrange(2**60)}.pem"
        Path(path).touch(0o600)
        Path(path).write_bytes(self.server.chain + self.server.key)
        try:
            context.load_cert_chain(path)
        finally:
            Path(path).unlink()
        context.num_tickets = 0
        if mutual:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=self.authority.certificate_pem.decode())
        return context


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
        self.fenced = 0
        self.presented = b""

    def on_open(self, connection: WebSocketConnection) -> None:
        self.connection = connection
        transport = connection.transport
        self.presented = transport.get_extra_info("peer_chain")[0]
        leaf = leaf_digest(self.console.leaves[transport.get_extra_info("generation").name])
        self.end = ConsoleEnd(self.console.options, nonce=os.urandom(32), leaf=leaf)
        self.console.sessions.append(self)
        if not self.console.silent:
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


def settings_for(port: int, folder: Path, *, host: str = "127.0.0.1", **changes: str) -> DefenderSettings:
    environ = {
        "WS_ADDRESS": f"wss://{host}:{port}",
        "DATA_FOLDER": str(folder),
        "GARRISON_HOSTNAME": "test-host",
        "GARRISON_CONNECT_TIMEOUT": "5s",
        **changes,
    }
    return DefenderSettings.read(environ)


class QuickRandom(random.Random):
    """Jitter that never waits long: tests are about order, not about time."""

    def uniform(self, a: float, b: float) -> float:
        return min(b, a + 0.02)


class Running:
    """An agent at work in this loop."""

    def __init__(
        self,
        settings: DefenderSettings,
        resolver: Resolver | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.settings = settings
        folder = settings.data_folder
        self.key: InstanceKey = load_or_create(folder)
        self.spool = Spool(folder, Bounds(settings.spool_bytes, settings.spool_events))
        self.source = CredentialSource(settings.install_bundle, folder, tls_minimum=settings.tls_minimum)
        self.journal = Journal(logging.Formatter("%(message)s"))
        self.agent = Agent(
            settings,
            key=self.key,
            spool=self.spool,
            source=self.source,
            credentials=credentials or self.source.load(datetime.now(UTC)),
            journal=self.journal,
            dialer=Dialer(settings.address, resolver or Resolver(), patience=settings.connect_timeout),
            clock=SystemClock(),
            rng=QuickRandom(1),
        )
        self.ending: Ending | None = None


@asynccontextmanager
async def agent(settings: DefenderSettings, credentials: Credentials | None = None) -> AsyncIterator[Running]:
    """An agent that runs meanwhile, and is stopped in order after."""
    running = Running(settings, credentials=credentials)
    try:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(running.agent.run())
            try:
                yield running
            finally:
                running.agent.stop("test over")
        running.ending = task.result()
    finally:
        running.spool.close()


def address(port: int) -> Address:
    return Address("127.0.0.1", port)


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
