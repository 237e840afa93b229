"""A Console's HTTPS side, for tests: the real store, identity, directory and runner, real TLS on 127.0.0.1.

Only the fleet is a small stand-in, since it needs nothing here but to be told who is connected.
"""

import asyncio
import ipaddress
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import argon2
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common.version import VERSION
from console.api import Services, build_app, make_runner
from console.fleet.directory import DefenderDirectory
from console.identity import IdentityService, LoginThrottle, PasswordHasher
from console.pki import InstallBundle, Refused
from console.store import AdmitRequest, HostFacts, SpoolState, Store

START = datetime(2026, 11, 21, 20, 0, tzinfo=UTC)
USER = "operator"
PASSWORD = "correct horse battery staple"
CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class SetClock:
    """Clocks that stand still until they are moved."""

    def __init__(self, start: datetime = START) -> None:
        self._now = start
        self._monotonic = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def step(self, by: timedelta) -> None:
        """Set the wall clock, as NTP or an operator does; the monotonic one doesn't notice."""
        self._now += by

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds


@dataclass(frozen=True)
class Session:
    since: datetime
    address: str
    certificate_not_after: datetime
    session: int
    using_old_ca: bool = False


class Fleet:
    """Who is connected: the interface of the live fleet, in memory."""

    def __init__(self) -> None:
        self.version = 0
        self.sessions: dict[str, Session] = {}
        self._changed = asyncio.Event()

    def connected(self, defender_id: str) -> Session | None:
        return self.sessions.get(defender_id)

    async def wait_for_change(self, version: int) -> int:
        while self.version == version:
            await self._changed.wait()
        return self.version

    def change(self) -> None:
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()


@dataclass
class Certificates:
    """What the Console would serve of its certificates; remembers what it was asked."""

    pem: bytes = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    asked: list[tuple[str, str]] = field(default_factory=list)

    def ca_pem(self) -> bytes:
        return self.pem

    def install_bundle(self, address: str, defender_type: str) -> InstallBundle | Refused:
        self.asked.append((address, defender_type))
        if address != "console.example":
            return Refused(f"address {address!r}", "is not in the certificate", "use another")
        return InstallBundle("eyJzZWNyZXRzIjp7fX0=", f"wss://{address}:8084")


class World:
    """A Console that answers at `url`."""

    def __init__(self, store: Store, *, throttle: LoginThrottle | None = None) -> None:
        self.store = store
        self.clock = SetClock()
        self.fleet = Fleet()
        self.certificates = Certificates()
        self.identity = IdentityService(
            store.users, self.clock, hasher=PasswordHasher(CHEAP, waiting=64), throttle=throttle
        )
        self.directory = DefenderDirectory(store.defenders, self.fleet, self.clock)
        self.url = ""
        self.app: web.Application
        self.runner: web.AppRunner

    @property
    def services(self) -> Services:
        return Services(
            identity=self.identity,
            directory=self.directory,
            certificates=self.certificates,
            live=self.fleet,
            clock=self.clock,
        )

    async def start(self, context: ssl.SSLContext) -> None:
        self.app = build_app(self.services)
        self.runner = make_runner(self.app, self.clock)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        self.url = f"https://localhost:{self.runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self.runner.cleanup()
        await self.identity.close()

    async def sign_up(self) -> None:
        await self.identity.signup(USER, PASSWORD, "127.0.0.1")

    async def connect(self, hostname: str, *, key: str = "", type_: str = "serverLinux", **facts: Any) -> str:
        """Let a Defender connect, as the fleet does: the store first, then who watches."""
        not_after = facts.pop("not_after", self.clock.now() + timedelta(days=1095))
        old_ca = facts.pop("using_old_ca", False)
        claims = {
            "fqdn": f"{hostname}.example.test",
            "version": VERSION,
            "os": "linux",
            "arch": "x86_64",
        } | facts
        admission = await self.store.defenders.admit(
            AdmitRequest(
                public_key=(key or hostname).encode(),
                facts=HostFacts(hostname=hostname, type=type_, **claims),
                spool=SpoolState("epoch", 1, 1, 0),
                certificate_fingerprint="ab" * 32,
                certificate_not_after=not_after,
                address="192.0.2.7",
            ),
            self.clock.now(),
        )
        self.fleet.sessions[admission.record.id] = Session(
            self.clock.now(), "192.0.2.7", not_after, admission.session, old_ca
        )
        self.fleet.change()
        return admission.record.id

    async def disconnect(self, defender_id: str) -> None:
        session = self.fleet.sessions.pop(defender_id)
        await self.store.defenders.mark_disconnected({defender_id: session.session}, self.clock.now())
        self.fleet.change()


@asynccontextmanager
async def running_world(folder: Path, *, throttle: LoginThrottle | None = None) -> AsyncIterator[World]:
    """A Console that runs for as long as the block does."""
    server, _ = contexts()
    async with await Store.open(folder / "data") as store:
        world = World(store, throttle=throttle)
        await world.start(server)
        try:
            yield world
        finally:
            await world.stop()


@asynccontextmanager
async def client(world: World, **options: Any) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that verifies the Console's certificate."""
    connector = aiohttp.TCPConnector(ssl=contexts()[1])
    async with aiohttp.ClientSession(world.url, connector=connector, **options) as session:
        yield session


_made: list[tuple[ssl.SSLContext, ssl.SSLContext]] = []


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's, made once."""
    if not _made:
        _made.append(_make_contexts())
    return _made[0]


def _make_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(key_pem + pem)
        file.flush()
        server.load_cert_chain(file.name)
    return server, ssl.create_default_context(cadata=pem.decode())
