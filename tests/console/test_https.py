"""The HTTPS listener: aiohttp on our transport, and who misbehaves on it."""

import asyncio
import ssl
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from common.certificates import Role
from common.clock import SystemClock
from common.transport import bind
from console.https import HTTPSServer
from tests.pki import PKI

SLOW = web.AppKey("slow", asyncio.Event)


@pytest.fixture(scope="module")
def pki() -> PKI:
    return PKI()


async def _hello(_: web.Request) -> web.Response:
    return web.Response(text="hello")


async def _slow(request: web.Request) -> web.Response:
    request.app[SLOW].set()
    await asyncio.sleep(0.5)
    return web.Response(text="done")


@pytest.fixture
def app() -> web.Application:
    app = web.Application()
    app[SLOW] = asyncio.Event()
    app.router.add_get("/", _hello)
    app.router.add_get("/slow", _slow)
    return app


@pytest.fixture
async def server(pki: PKI, app: web.Application) -> AsyncIterator[HTTPSServer]:
    server = HTTPSServer(app, SystemClock())
    server.use(pki.set(Role.HTTPS_SERVER))
    await server.start(await bind("127.0.0.1", 0))
    yield server
    await server.close()


def trusting(pki: PKI, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=pki.authority.certificate_pem.decode())
    context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_serves_both_versions(server: HTTPSServer, pki: PKI, version: ssl.TLSVersion) -> None:
    async with aiohttp.ClientSession() as session:
        url = f"https://localhost:{server.port}/"
        async with session.get(url, ssl=trusting(pki, version)) as response:
            assert await response.text() == "hello"


async def test_an_untrusting_client_refuses_it(server: HTTPSServer) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(f"https://localhost:{server.port}/", ssl=ssl.create_default_context())


async def test_an_older_version_is_refused(server: HTTPSServer, pki: PKI) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pki.authority.certificate_pem.decode())
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        await asyncio.open_connection("127.0.0.1", server.port, ssl=context, server_hostname="localhost")


async def test_plain_http_is_told_so(server: HTTPSServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"https://" in answer


async def test_good_ones_are_served_while_many_never_finish(server: HTTPSServer, pki: PKI) -> None:
    writers = []
    for n in range(300):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write([b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"][n % 3])
        writers.append(writer)
    stuck = []
    for _ in range(20):
        # TLS, and then a request whose head never ends.
        _, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=trusting(pki), server_hostname="localhost"
        )
        writer.write(b"GET / HTTP/1.1\r\nHost: loc")
        stuck.append(writer)
    async with aiohttp.ClientSession() as session:
        for _ in range(10):
            url = f"https://localhost:{server.port}/"
            async with session.get(url, ssl=trusting(pki)) as response:
                assert response.status == 200
    for writer in [*writers, *stuck]:
        writer.transport.abort()


async def test_a_request_that_is_under_way_ends_before_the_server_does(
    pki: PKI, app: web.Application
) -> None:
    server = HTTPSServer(app, SystemClock())
    server.use(pki.set(Role.HTTPS_SERVER))
    await server.start(await bind("127.0.0.1", 0))
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:

        async def get() -> str:
            async with session.get(f"https://localhost:{server.port}/slow", ssl=trusting(pki)) as response:
                return await response.text()

        asked = tasks.create_task(get())
        await app[SLOW].wait()
        await server.close()
    assert asked.result() == "done"


async def test_a_swap_is_seen_by_the_next_connection(server: HTTPSServer, pki: PKI) -> None:
    new = pki.set(Role.HTTPS_SERVER)
    server.use(new)
    _, writer = await asyncio.open_connection(
        "127.0.0.1", server.port, ssl=trusting(pki), server_hostname="localhost"
    )
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    assert shown == new.leaf.der
