import asyncio
from typing import Any

import pytest

from common.transport import (
    FailureKind,
    Refusal,
    UpgradeRefused,
    UpgradeRequest,
    classify,
    client_factory,
    connect,
)
from common.transport.websocket import MAX_HEAD
from tests.common.transport import certs
from tests.common.transport.helpers import Recorder, eventually, loop_errors, serving
from tests.common.transport.wshelpers import REQUEST, Handler, answer, http_client, upgraded, websockets


def changed(old: bytes, new: bytes) -> bytes:
    assert old in REQUEST
    return REQUEST.replace(old, new)


@pytest.mark.parametrize(
    ("request_", "status", "more"),
    [
        (changed(b"GET / ", b"GET /nowhere "), b"404 Not Found", b"There is nothing here."),
        (changed(b"GET / ", b"POST / "), b"405 Method Not Allowed", b"Allow: GET"),
        (changed(b"HTTP/1.1", b"HTTP/1.0"), b"505 ", b""),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"426 Upgrade Required", b"Upgrade: websocket"),
        (changed(b"Sec-WebSocket-Protocol: test.v1\r\n", b""), b"400 Bad Request", b"subprotocol"),
        (changed(b"test.v1", b"other.v9"), b"400 Bad Request", b"subprotocol"),
        (changed(b"Version: 13", b"Version: 8"), b"400 Bad Request", b"Sec-WebSocket-Version"),
        (changed(b"AAAAAAAAAAAAAAAAAAAAAA==", b"AAAA"), b"400 Bad Request", b"Sec-WebSocket-Key"),
        (b"hello\r\n\r\n", b"400 Bad Request", b""),
        (b"\x81\x01x\r\n\r\n", b"400 Bad Request", b""),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", b"414 ", b""),
        (changed(b"Host: localhost", b"Host: " + b"x" * 9000), b"431 ", b""),
        (changed(b"Host: localhost", b"\r\n".join(b"X%d: y" % n for n in range(200))), b"431 ", b""),
        (b"GET / HTTP/1.1\r\n" + b"A: bbbbbbbbbb\r\n" * (MAX_HEAD // 15 + 1), b"431 ", b""),
        (
            b"GET / HTTP/1.1\r\n" + b"".join(b"A: %s\r\n" % (b"b" * 4000) for _ in range(5)),
            b"431 ",
            b"too long",
        ),
    ],
)
async def test_a_request_that_is_none_gets_a_proper_answer(
    request_: bytes, status: bytes, more: bytes
) -> None:
    async with websockets() as server:
        async with http_client(server) as client:
            got = await answer(client, request_)
            assert got.startswith(b"HTTP/1.1 " + status), got
            assert more in got
            assert b"Traceback" not in got
        assert server.handlers == []
        client_handler = await server.connect()
        assert (await client_handler.open()).is_open, "and the next one is served"


async def test_a_query_does_not_change_the_path() -> None:
    seen: list[UpgradeRequest] = []

    def look(request: UpgradeRequest) -> None:
        seen.append(request)

    async with websockets(process_request=look) as server:
        client = await server.connect(path="/?a=b", headers={"X-Token": "t"})
        await client.open()
        assert seen[0].path == "/?a=b"
        assert seen[0].headers["x-token"] == "t"
        assert seen[0].transport.get_extra_info("peername")[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (Refusal(503, "Busy, come back later.", 7), (503, "Service Unavailable", 7)),
        (Refusal(403, "Not you."), (403, "Forbidden", None)),
    ],
)
async def test_the_owner_may_refuse(refusal: Refusal, told: tuple[Any, ...]) -> None:
    async with websockets(process_request=lambda _: refusal) as server:
        client = await server.connect()
        code, reason, exc = await client.ended()
        assert code == 1006
        assert isinstance(exc, UpgradeRefused)
        assert (exc.status, exc.reason, exc.retry_after) == told
        assert reason == str(exc)
        assert not client.opened
        async with http_client(server) as raw:
            got = await answer(raw, REQUEST)
        assert (b"Retry-After: 7\r\n" in got) == (refusal.retry_after is not None)
        assert got.endswith(refusal.text.encode() + b"\n")


async def test_a_hook_that_fails_ends_its_connection_only() -> None:
    fail = [True]

    def hook(_: UpgradeRequest) -> None:
        if fail:
            fail.clear()
            raise ZeroDivisionError

    async with websockets(process_request=hook) as server:
        with loop_errors() as told:
            client = await server.connect()
            assert (await client.ended())[0] == 1006
        assert isinstance(told[0]["exception"], ZeroDivisionError)
        assert (await (await server.connect()).open()).is_open


async def test_a_request_in_single_octets() -> None:
    async with websockets() as server, http_client(server) as client:
        for octet in REQUEST[:-1]:
            await client.send(client.encrypt(bytes([octet])))
            await asyncio.sleep(0)
        assert server.handlers == []
        await client.send(client.encrypt(REQUEST[-1:]))
        assert (await client.read(12)) == b"HTTP/1.1 101"


@pytest.mark.parametrize("sent", [b"", REQUEST[:50]])
async def test_a_request_that_never_ends_is_dropped(sent: bytes) -> None:
    async with websockets(upgrade_timeout=0.05) as server, http_client(server) as client:
        if sent:
            await client.send(client.encrypt(sent))
        await eventually(lambda: server.tls.listener.stats.handshakes == 1)
        await eventually(lambda: server.tls.listener.stats.connections == 0)
        assert server.handlers == []


async def test_frames_right_behind_the_request_are_read_once_the_connection_is_open() -> None:
    async with websockets() as server, http_client(server) as client:
        await client.send(client.encrypt(REQUEST + b"\x81\x82\0\0\0\0hi"))
        assert await (await server.handler()).got() == [b"hi"]


async def test_leaving_within_the_upgrade() -> None:
    async with websockets() as server:
        async with http_client(server) as client:
            await client.send(client.encrypt(REQUEST[:30]))
            await eventually(lambda: server.tls.listener.stats.connections == 1)
        await eventually(lambda: server.tls.listener.stats.connections == 0)
        assert server.handlers == []


# The client's side, against a server that the test is


class Scripted(Recorder):
    """Answers the first octets with a script; %s is the accept value."""

    script = b""

    def data_received(self, data: bytes) -> None:
        from websockets.utils import accept_key

        super().data_received(data)
        if self.data.endswith(b"\r\n\r\n"):
            key = self.data.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0].decode()
            self.transport.write(self.script.replace(b"%s", accept_key(key).encode()))


GOOD = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: test.v1\r\n\r\n"
)


async def client_of(script: bytes, *, close: bool = False, **options: Any) -> Handler:
    """What a client makes of this answer."""

    class Server(Scripted):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if close and self.data.endswith(b"\r\n\r\n"):
                self.transport.close()

    Server.script = script
    handler = Handler()
    async with serving(Server) as server:
        await connect(
            *("127.0.0.1", server.port),
            context=certs.client_context(),
            server_hostname="localhost",
            protocol_factory=client_factory(
                f"wss://localhost:{server.port}/", handler, subprotocols=["test.v1"], **options
            ),
        )
        if script.startswith(GOOD):
            await handler.open()
            await asyncio.sleep(0.01)
            handler.connection.abort()
        await handler.ended()
    return handler


async def test_frames_in_the_same_segment_as_the_101() -> None:
    handler = await client_of(GOOD + b"\x81\x02hi\x81\x05there")
    assert handler.messages == [b"hi", b"there"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (GOOD.replace(b"%s", b"wrong"), "Sec-WebSocket-Accept"),
        (GOOD.replace(b"Sec-WebSocket-Protocol: test.v1\r\n", b""), "does not speak our subprotocol"),
        (GOOD.replace(b"test.v1", b"other.v2"), "subprotocol"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "did not receive a valid HTTP response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP 200 OK"),
        (b"HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", "HTTP 301 Moved"),
        (b"HTTP/1.1 503 Busy\r\nRetry-After: soon\r\nContent-Length: 0\r\n\r\n", "HTTP 503 Busy"),
        (
            b"HTTP/1.1 503 Busy\r\nRetry-After: 12\r\nContent-Length: 0\r\n\r\n",
            "HTTP 503 Busy, retry after 12 s",
        ),
    ],
)
async def test_an_answer_that_is_no_upgrade(script: bytes, reason: str) -> None:
    handler = await client_of(script)
    code, told, exc = handler.closed[0]
    assert code == 1006
    assert reason in told
    assert isinstance(exc, UpgradeRefused)
    assert not handler.opened


async def test_a_body_that_ends_with_the_connection() -> None:
    handler = await client_of(b"HTTP/1.1 500 Oops\r\n\r\ninternal details", close=True)
    assert handler.closed[0][1] == "HTTP 500 Oops"


async def test_an_answer_that_never_ends() -> None:
    handler = await client_of(b"HTTP/1.1 101 Switching Protocols\r\n", upgrade_timeout=0.05)
    code, reason, exc = handler.closed[0]
    assert (code, reason) == (1006, "no upgrade in 0.05 s")
    assert classify(exc) is FailureKind.TIMEOUT


async def test_an_answer_without_bound() -> None:
    handler = await client_of(
        b"HTTP/1.1 101 Switching\r\n" + b"A: bbbbbbbbbbbbbbbbbbbbbbb\r\n" * 120 + b"C" * MAX_HEAD
    )
    assert isinstance(handler.closed[0][2], UpgradeRefused)


async def test_a_server_that_closes_instead_of_answering() -> None:
    handler = await client_of(b"", close=True)
    code, _, exc = handler.closed[0]
    assert code == 1006
    assert exc is not None


def test_a_uri_that_is_none() -> None:
    with pytest.raises(ValueError, match="isn't a valid URI"):
        client_factory("http://x", Handler())


async def test_the_upgrade_head_names_the_subprotocol() -> None:
    async with websockets() as server, http_client(server) as client:
        assert b"Sec-WebSocket-Extensions" not in await upgraded(client)
