"""aiohttp's server runs on our listener: both servers of the Console share it."""

import asyncio
import contextlib
import hashlib
import io
import random
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientPayloadError, ClientSession, TCPConnector, web

from common.transport import Generation, Listener
from tests.common.transport import certs
from tests.common.transport.helpers import BOUND, QUICK, BioClient, eventually

MB = 2**20
BLOB = random.Random(1).randbytes(20 * MB)


class Site:
    """A site with what the handlers saw."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "blob"
        self.file.write_bytes(BLOB)
        self.listener: Listener
        self.gone = 0
        self.working = 0
        self.peers: set[object] = set()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.listener.port}"

    async def upload(self, request: web.Request) -> web.Response:
        digest = hashlib.sha256()
        async for piece in request.content.iter_any():
            digest.update(piece)
        return web.Response(text=digest.hexdigest())

    async def download(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            for start in range(0, len(BLOB), MB):
                await response.write(BLOB[start : start + MB])
        except (ConnectionError, asyncio.CancelledError):
            self.gone += 1
            raise
        return response

    async def serve_file(self, _: web.Request) -> web.FileResponse:
        return web.FileResponse(self.file)

    async def events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(20):
            await response.write(b"data: %d\n\n" % number)
            await asyncio.sleep(0)
        return response

    async def whoami(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        self.peers.add(request.transport.get_extra_info("peername"))
        return web.Response(text=f"{request.scheme} {request.secure} {request.remote}")

    async def slow(self, request: web.Request) -> web.Response:
        self.working += 1
        try:
            await asyncio.sleep(BOUND)
        except asyncio.CancelledError:
            self.gone += 1
            raise
        return web.Response()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    it = Site(tmp_path)
    app = web.Application(client_max_size=100 * MB)
    app.router.add_post("/upload", it.upload)
    for name in ("download", "events", "whoami", "slow"):
        app.router.add_get(f"/{name}", getattr(it, name))
    app.router.add_get("/file", it.serve_file)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    assert runner.server is not None
    generation = Generation("one", certs.server_context(minimum=ssl.TLSVersion.TLSv1_2))
    it.listener = await Listener.start(
        *("127.0.0.1", 0), select=lambda _: generation, protocol_factory=runner.server, limits=QUICK
    )
    yield it
    it.listener.close()
    await runner.cleanup()
    await it.listener.wait_closed(BOUND)


@contextlib.asynccontextmanager
async def session() -> AsyncIterator[ClientSession]:
    async with ClientSession(connector=TCPConnector(ssl=certs.client_context())) as client:
        yield client


async def test_upload_20_mb(site: Site) -> None:
    async with session() as client, client.post(f"{site.url}/upload", data=io.BytesIO(BLOB)) as response:
        assert await response.text() == hashlib.sha256(BLOB).hexdigest()


async def test_download_20_mb(site: Site) -> None:
    async with session() as client, client.get(f"{site.url}/download") as response:
        assert await response.read() == BLOB


async def test_a_file_and_a_range_of_it(site: Site) -> None:
    """aiohttp asks the loop for sendfile(2); ours makes it copy instead."""
    async with session() as client:
        async with client.get(f"{site.url}/file") as response:
            assert await response.read() == BLOB
        async with client.get(f"{site.url}/file", headers={"Range": "bytes=1000000-1999999"}) as response:
            assert response.status == 206
            assert await response.read() == BLOB[1_000_000:2_000_000]


async def test_an_event_stream(site: Site) -> None:
    async with session() as client, client.get(f"{site.url}/events") as response:
        lines = [line async for line in response.content if line.strip()]
        assert lines == [b"data: %d\n" % number for number in range(20)]


async def test_keep_alive_uses_one_connection_and_the_scheme_is_https(site: Site) -> None:
    async with session() as client:
        for _ in range(10):
            async with client.get(f"{site.url}/whoami") as response:
                assert await response.text() == "https True 127.0.0.1"
    assert len(site.peers) == 1
    assert site.listener.stats.handshakes == 1


async def test_many_clients_at_once(site: Site) -> None:
    async def one() -> bytes:
        async with session() as client, client.get(f"{site.url}/file") as response:
            return hashlib.sha256(await response.read()).digest()

    assert set(await asyncio.gather(*(one() for _ in range(4)))) == {hashlib.sha256(BLOB).digest()}


async def test_a_client_that_resets_within_a_download(site: Site) -> None:
    client = BioClient(site.listener.port, certs.client_context())
    await client.handshake()
    await client.send(client.encrypt(b"GET /download HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert (await client.read(12)).startswith(b"HTTP/1.1 200")
    client.reset()
    await eventually(lambda: site.gone == 1)
    await eventually(lambda: site.listener.stats.connections == 0)
    async with session() as good, good.get(f"{site.url}/whoami") as response:
        assert response.status == 200


async def test_a_client_that_leaves_while_the_handler_works(site: Site) -> None:
    client = BioClient(site.listener.port, certs.client_context())
    await client.handshake()
    await client.send(client.encrypt(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"))
    await eventually(lambda: site.working == 1)
    client.close()
    await eventually(lambda: site.gone == 1)


async def test_an_upload_that_breaks_off(site: Site) -> None:
    client = BioClient(site.listener.port, certs.client_context())
    await client.handshake()
    head = b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    await client.send(client.encrypt(head + bytes(1000)))
    await eventually(lambda: site.listener.stats.connections == 1)
    client.close()
    await eventually(lambda: site.listener.stats.connections == 0)


async def test_requests_in_a_row_on_one_connection(site: Site) -> None:
    with BioClient(site.listener.port, certs.client_context()) as client:
        await client.handshake()
        await client.send(client.encrypt(b"GET /whoami HTTP/1.1\r\nHost: x\r\n\r\n" * 3))
        got = b""
        while got.count(b"https True") < 3:
            got += await client.read(1)
        assert got.count(b"HTTP/1.1 200 OK") == 3


async def test_connection_close_ends_with_close_notify(site: Site) -> None:
    with BioClient(site.listener.port, certs.client_context()) as client:
        await client.handshake()
        await client.send(client.encrypt(b"GET /whoami HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
        got = await client.read(10**6)  # raises SSLEOFError if the stream is truncated
        assert got.endswith(b"https True 127.0.0.1")


async def test_a_malformed_request_gets_400(site: Site) -> None:
    with BioClient(site.listener.port, certs.client_context()) as client:
        await client.handshake()
        await client.send(client.encrypt(b"NOT HTTP AT ALL\r\n\r\n"))
        assert b" 400 " in (await client.read(10**6)).partition(b"\r\n")[0]


async def test_aborting_connections_is_seen_by_clients(site: Site) -> None:
    async with session() as client, client.get(f"{site.url}/download") as response:
        await response.content.readexactly(1000)
        for transport in site.listener.connections:
            transport.abort()
        with pytest.raises((ClientPayloadError, ConnectionError)):
            await response.read()
