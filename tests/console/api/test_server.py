"""What comes over the wire and is no HTTP, or not ours to understand: the answer, and what the log says."""

import asyncio
import base64
import contextlib
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from console.api.server import SECURITY_HEADERS, make_runner
from tests.console.api.world import SetClock, World, contexts, running_world

SECRET = "U0VDUkVUUEFTUw"
VERSION = b"/api/v1/version"
LOGIN = b"/api/v1/authenticate"
FORM = b"Content-Type: application/x-www-form-urlencoded"
DEEP = base64.urlsafe_b64encode(b"[" * 1500).rstrip(b"=")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path) as running:
        await running.sign_up()
        yield running


def get(path: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join((b"GET " + path + b" HTTP/1.1", b"Host: a", *headers, b"", b""))


def post(path: bytes, body: bytes, *headers: bytes) -> bytes:
    length = b"Content-Length: %d" % len(body)
    return get(path, *headers, length).replace(b"GET", b"POST", 1) + body


def whole(answer: bytes) -> bool:
    """Whether an answer has come to its end, as far as its length says."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    return bool(end) and length is not None and len(body) >= int(length[1])


async def exchange(port: int, *parts: bytes, tls: bool = True) -> bytes:
    """All that is answered to some bytes, sent in parts."""
    reader, writer = await asyncio.open_connection("localhost", port, ssl=contexts()[1] if tls else None)
    for part in parts:
        writer.write(part)
        await writer.drain()
        # Two segments, so that the head is taken before the body comes.
        await asyncio.sleep(0.02)
    answer = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(5):
            while not whole(answer) and (piece := await reader.read(65536)):
                answer += piece
    writer.transport.abort()
    return answer


def port_of(world: World) -> int:
    return int(world.runner.addresses[0][1])


# What aiohttp's parser refuses, before there is a request.
UNREADABLE = {
    "garbage": b"\x00\x01\x02garbage\r\n\r\n",
    "header": b"GET / HTTP/1.1\r\nHost: a\r\nFoo\x00: b\r\n\r\n",
    "long header": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 2000 + b"\r\n",
    "path": b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    "address": b"GET http://[::1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "chunk": b"POST /api/v1/authenticate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "credential": f"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {SECRET}==\x01\r\n\r\n".encode(),
}


@pytest.mark.parametrize("head", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_what_cannot_be_read_is_refused_in_our_form(
    world: World, head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await exchange(port_of(world), head)
    head_, _, body = answer.partition(b"\r\n\r\n")
    assert head_.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert body == b'{"err":"bad request"}'
    sent = dict(line.split(": ", 1) for line in head_.decode().split("\r\n")[1:])
    assert sent["Server"] == "Garrison"
    assert sent.items() >= SECURITY_HEADERS.items()
    assert sent["Cache-Control"] == "no-store"
    assert b"aiohttp" not in answer
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.exc_info is None
    assert re.fullmatch(r"A request from 127\.0\.0\.1 cannot be read: \w+", record.getMessage())


# What is read, and was answered 500 or is odd enough that it might be.
ODD = {
    "bearer": (401, get(VERSION, b"Authorization: Bearer \xff.a.b")),
    "deep": (401, get(VERSION, b"Authorization: Bearer " + DEEP + b".e30.AAAA")),
    "basic": (401, get(VERSION, b"Authorization: Basic \xff")),
    "cookie": (303, get(b"/", b"Cookie: __Host-garrison-session=\xff.a.b")),
    "form cookie": (200, get(b"/login", b"Cookie: __Host-garrison-form=" + b"\xff" * 20)),
    "origin": (403, post(LOGIN, b"{}", b"Origin: http://[")),
    "page origin": (403, post(b"/login", b"a=b", FORM, b"Origin: http://[")),
    "no host": (403, post(LOGIN, b"{}", b"Origin: https://x").replace(b"1.1\r\nHost: a", b"1.0\r\nX: a")),
    "host": (200, get(b"/login").replace(b"Host: a", b"Host: [\xff")),
    "charset": (400, post(b"/login", b"username=\\ud800", FORM + b"; charset=unicode_escape")),
    "charset of seven bits": (400, post(b"/login", b"a=b", FORM + b"; charset=utf-7")),
    "charset of nothing": (400, post(b"/login", b"a=b", FORM + b"; charset=a\x80b")),
    "surrogate": (403, post(b"/login", b"username=%ED%A0%80", FORM)),
    "utf-8": (403, post(b"/login", b"a=b", FORM + b"; charset=UTF-8")),
    "json": (401, post(LOGIN, b'{"username":"\xc2\x80","password":"a b c"}')),
    "expect": (417, get(b"/login", b"Expect: <foo>")),
    "path": (404, get(b"/%ff%00%0a")),
    "star": (404, get(b"*").replace(b"GET", b"OPTIONS")),
    "upgrade": (303, get(b"/", b"Connection: upgrade", b"Upgrade: websocket")),
    "packed": (400, post(LOGIN, b"a=b", b"Content-Encoding: gzip")),
}


@pytest.mark.parametrize(("status", "head"), ODD.values(), ids=ODD.keys())
async def test_what_is_odd_is_answered_and_no_error_of_ours(
    world: World, status: int, head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await exchange(port_of(world), head)
    assert re.match(rb"HTTP/1\.[01] %d " % status, answer)
    assert b"\r\nServer: Garrison\r\n" in answer
    assert b"\r\nX-Content-Type-Options: nosniff\r\n" in answer
    assert b"foo" not in answer
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert all(record.exc_info is None for record in caplog.records)


CHUNKED = b"Host: a\r\nTransfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"POST /api/v1/authenticate HTTP/1.1\r\n" + CHUNKED + b"\r\n",
        b"POST /login HTTP/1.1\r\n" + CHUNKED + FORM + b"\r\n\r\n",
    ],
)
async def test_a_body_that_breaks_off_into_garbage(
    world: World, head: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("console.api.calls.BODY_TIMEOUT", 0.2)
    monkeypatch.setattr("console.web.pages.BODY_TIMEOUT", 0.2)
    answer = await exchange(port_of(world), head, b"5\r\nabcde\r\n", f"{SECRET}\r\n".encode())
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 408 "))
    assert b"Python" not in answer
    assert SECRET not in caplog.text
    assert all(record.exc_info is None for record in caplog.records)


@pytest.mark.parametrize("kind", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
async def test_who_goes_away_in_the_middle_is_no_news(
    world: World, kind: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (b"/api/v1/authenticate", b"/login"):
        _, writer = await asyncio.open_connection("localhost", port_of(world), ssl=contexts()[1])
        writer.write(
            b"POST " + path + b" HTTP/1.1\r\nHost: a\r\n" + FORM + b"\r\n" + kind + b"\r\n\r\n5\r\nab"
        )
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.abort()
    server = world.runner.server
    assert server is not None
    async with asyncio.timeout(10):
        while server.connections:
            await asyncio.sleep(0.01)
    assert [record.getMessage() for record in caplog.records] == []


async def test_a_flood_of_garbage_is_a_line_a_minute(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await asyncio.gather(*(exchange(port_of(world), UNREADABLE["credential"]) for _ in range(30)))
    assert len(caplog.records) == 1
    assert SECRET not in caplog.text
    world.clock.advance(61)
    await exchange(port_of(world), UNREADABLE["credential"])
    assert caplog.records[1].getMessage().endswith("(and 29 more like it)")


@contextlib.asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[int]:
    runner = make_runner(app, SetClock())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def test_what_nobody_caught_is_said_once_and_answered_in_our_form(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def break_(_: web.Request) -> web.Response:
        raise RuntimeError("the inside")

    app = web.Application()
    app.router.add_get("/", break_)
    async with serving(app) as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        for _ in range(10):
            response = await http.get("/")
            assert (response.status, await response.json()) == (500, {"err": "internal error"})
            assert response.headers["Server"] == "Garrison"
    (record,) = caplog.records
    assert record.getMessage() == "A request failed"
    assert "the inside" in caplog.text


async def test_an_answer_that_cannot_be_sent_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def newline(_: web.Request) -> web.Response:
        return web.Response(headers={"X": "a\nb"})

    app = web.Application()
    app.router.add_get("/", newline)
    async with serving(app) as port:
        for _ in range(5):
            assert await exchange(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", tls=False) == b""
    (record,) = caplog.records
    assert record.getMessage() == "A connection failed"


async def test_an_answer_that_had_begun_is_broken_off(caplog: pytest.LogCaptureFixture) -> None:
    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        raise RuntimeError("the inside")

    app = web.Application()
    app.router.add_get("/", half)
    async with serving(app) as port:
        answer = await exchange(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", tls=False)
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.endswith(b"half\r\n")
    assert len(caplog.records) == 1
