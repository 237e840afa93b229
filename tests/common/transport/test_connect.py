import asyncio
import gc
import importlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from common.transport import ConnectionFailed, FailureKind, connect
from tests.common.transport import certs
from tests.common.transport.helpers import Echo, Recorder, dial, eventually, refused, serving


@asynccontextmanager
async def plain(answer: bytes | None) -> AsyncIterator[int]:
    """A TCP server that is not TLS: it answers with this and closes, or with None says nothing for ever."""
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.read(1)
        if answer is not None:
            writer.write(answer)
            await writer.drain()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await server.wait_closed()


async def failure(port: int, host: str = "127.0.0.1", **options: Any) -> ConnectionFailed:
    options = {"context": certs.client_context(), "server_hostname": "localhost", **options}
    with pytest.raises(ConnectionFailed) as caught:
        await connect(host, port, protocol_factory=Recorder, **options)
    assert isinstance(caught.value.detail, str)
    assert str(caught.value) == f"{caught.value.kind}: {caught.value.detail}"
    return caught.value


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def test_nobody_listens() -> None:
    port = free_port()
    failed = await failure(port)
    assert (failed.kind, failed.detail) == (FailureKind.REFUSED, f"127.0.0.1:{port}: Connection refused")


async def test_a_name_that_does_not_resolve() -> None:
    failed = await failure(1, "no-such-host.invalid")
    assert failed.kind is FailureKind.UNREACHABLE
    assert failed.detail.startswith("no-such-host.invalid:1: ")


async def test_a_name_that_cannot_be_one() -> None:
    assert (await failure(1, "a" * 300)).kind is FailureKind.UNREACHABLE


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", FailureKind.NOT_TLS),
        (b"SSH-2.0-OpenSSH_9.2\r\n", FailureKind.NOT_TLS),
        (b"", FailureKind.RESET),
    ],
)
async def test_a_peer_that_is_no_tls_server(answer: bytes, kind: FailureKind) -> None:
    async with plain(answer) as port:
        assert (await failure(port)).kind is kind


async def test_a_peer_that_says_nothing() -> None:
    async with plain(None) as port:
        failed = await failure(port, timeout=0.1)
        assert failed.kind is FailureKind.TIMEOUT
        assert failed.detail == f"127.0.0.1:{port}: no connection in 0.1 s"


@pytest.mark.parametrize(
    ("leaf", "name", "kind"),
    [
        (certs.ca().issue("localhost", certs.SERVER, ends=-certs.DAY / 2), "localhost", FailureKind.EXPIRED),
        (
            certs.ca().issue("localhost", certs.SERVER, starts=certs.DAY / 2),
            "localhost",
            FailureKind.NOT_YET_VALID,
        ),
        (certs.ca().issue("localhost", certs.CLIENT), "localhost", FailureKind.WRONG_PURPOSE),
        (certs.server_leaf("localhost", "Other CA"), "localhost", FailureKind.UNKNOWN_CA),
        (certs.server_leaf(), "elsewhere", FailureKind.WRONG_NAME),
        (certs.server_leaf(), "127.0.0.2", FailureKind.WRONG_NAME),
    ],
    ids=["expired", "future", "client's", "other CA", "other name", "other address"],
)
async def test_a_server_certificate_that_must_be_refused(
    leaf: certs.Leaf, name: str, kind: FailureKind
) -> None:
    async with serving(context=certs.server_context(leaf)) as server:
        failed = await failure(server.port, server_hostname=name)
        assert failed.kind is kind
        assert failed.detail.startswith(f"127.0.0.1:{server.port}: ")
        assert (await server.failure()).kind.is_alert, "and we told the server"


async def test_a_host_name_is_needed_where_the_context_checks_it() -> None:
    async with serving() as server:
        assert (await failure(server.port, server_hostname=None)).kind is FailureKind.OTHER


async def test_a_good_server_is_accepted_by_name_and_by_address() -> None:
    async with serving() as server:
        for name in ("localhost", "127.0.0.1"):
            transport, protocol = await connect(
                *(name, server.port),
                context=certs.client_context(),
                server_hostname=name,
                protocol_factory=Recorder,
            )
            assert protocol.calls == ["made"]
            transport.abort()


async def test_the_next_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with two addresses of which the first does not answer (127.0.0.9 has no listener)."""
    async with serving() as server:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo("127.0.0.9", server.port, type=socket.SOCK_STREAM)
        found += await loop.getaddrinfo("127.0.0.1", server.port, type=socket.SOCK_STREAM)

        async def resolve(*_: Any, **__: Any) -> Any:
            return found

        monkeypatch.setattr(importlib.import_module("common.transport.connect"), "_resolve", resolve)
        transport, _ = await connect(
            *("two.example", server.port),
            context=certs.client_context(),
            server_hostname="localhost",
            protocol_factory=Recorder,
        )
        assert transport.get_extra_info("peername")[0] == "127.0.0.1"
        transport.abort()


async def test_cancelling_leaves_no_socket_behind() -> None:
    async with plain(None) as port:
        for delay in (0, 0.001, 0.05):
            task = asyncio.ensure_future(failure(port))
            await asyncio.sleep(delay)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        gc.collect()  # a socket left open is a ResourceWarning, which is an error here


async def test_a_protocol_factory_that_fails_closes_the_connection() -> None:
    def fail() -> Recorder:
        raise ZeroDivisionError

    async with serving() as server:
        with pytest.raises(ZeroDivisionError):
            await dial(server, fail)
        assert isinstance(await (await server.protocol()).ended(), ssl.SSLEOFError)


async def test_a_connection_made_that_fails_aborts_the_connection() -> None:
    class Failing(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            raise ZeroDivisionError

    async with serving() as server:
        with pytest.raises(ZeroDivisionError):
            await dial(server, Failing)
        assert isinstance(await (await server.protocol()).ended(), ssl.SSLEOFError)


async def test_the_server_that_is_told_by_its_alert_which_version_we_need() -> None:
    context = certs.server_context(minimum=ssl.TLSVersion.TLSv1_2)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    client = certs.client_context()
    client.minimum_version = ssl.TLSVersion.TLSv1_3
    async with serving(context=context) as server:
        assert (await refused(server, context=client)).kind.name.endswith("PROTOCOL_VERSION")


async def test_many_at_once() -> None:
    async with serving(Echo) as server:
        pairs = await asyncio.gather(*(dial(server) for _ in range(50)))
        for number, (transport, _) in enumerate(pairs):
            transport.write(b"%03d" % number)
        for number, (transport, protocol) in enumerate(pairs):
            assert await protocol.received(3) == b"%03d" % number
            transport.close()
        await eventually(lambda: all(protocol.lost for _, protocol in pairs))
