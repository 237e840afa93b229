"""An HTTPS server whose certificates are replaced, for tests: handlers wait, clients are dropped."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from common.certificates import CertificateSet, Role
from common.clock import SystemClock
from common.transport import bind
from console.https import BOUNDS, HTTPSServer
from console.turnover import DrainBounds
from tests.console.raw_http import RawClient
from tests.pki import PKI

MIB = 2**20
PIECE = bytes(range(256)) * 256


@pytest.fixture(
    params=[("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """The Console runs on uvloop where it is installed."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def pki() -> PKI:
    return PKI()


@dataclass
class Work:
    """Handlers that wait where a test wants them to."""

    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    may_go_on: asyncio.Event = field(default_factory=asyncio.Event)
    answered: int = 0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * MIB)
        app.router.add_route("*", "/", self.hello)
        app.router.add_get("/slow", self.slow)
        app.router.add_get("/slow-stream", self.slow_stream)
        app.router.add_get("/download", self.download)
        app.router.add_post("/upload", self.upload)
        return app

    async def hello(self, request: web.Request) -> web.Response:
        await request.read()
        self.answered += 1
        return web.Response(text="hello")

    async def slow(self, _: web.Request) -> web.Response:
        self.arrived.set()
        await self.may_go_on.wait()
        return web.Response(text="done")

    async def slow_stream(self, request: web.Request) -> web.StreamResponse:
        self.arrived.set()
        await self.may_go_on.wait()
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"done")
        return response

    async def download(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 128 * len(PIECE)
        await response.prepare(request)
        for n in range(128):
            if n == 64:
                self.arrived.set()
                await self.may_go_on.wait()
            await response.write(PIECE)
        return response

    async def upload(self, request: web.Request) -> web.Response:
        digest = hashlib.sha256()
        async for data in request.content.iter_any():
            self.arrived.set()
            digest.update(data)
        return web.Response(text=digest.hexdigest())


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture(autouse=True)
def looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.https.LOOK_SECONDS", 0.02)


@asynccontextmanager
async def serving(
    pki: PKI, app: web.Application, *, bounds: DrainBounds = BOUNDS
) -> AsyncIterator[HTTPSServer]:
    server = HTTPSServer(app, SystemClock(), bounds=bounds)
    server.use(pki.set(Role.HTTPS_SERVER))
    await server.start(await bind("127.0.0.1", 0))
    try:
        yield server
    finally:
        await server.close()


@pytest.fixture
async def server(pki: PKI, work: Work) -> AsyncIterator[HTTPSServer]:
    async with serving(pki, work.app()) as server:
        yield server


def swap(server: HTTPSServer, pki: PKI) -> CertificateSet:
    certificates = pki.set(Role.HTTPS_SERVER)
    server.use(certificates)
    return certificates


@contextmanager
def dropped(*clients: RawClient) -> Iterator[None]:
    try:
        yield
    finally:
        for client in clients:
            client.drop()


async def until_gone(server: HTTPSServer) -> None:
    async with asyncio.timeout(20):
        while server.draining:
            await asyncio.sleep(0.01)


async def until_said(caplog: pytest.LogCaptureFixture, text: str) -> None:
    async with asyncio.timeout(20):
        while text not in caplog.text:
            await asyncio.sleep(0.01)
