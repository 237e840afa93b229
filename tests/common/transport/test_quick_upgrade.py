import base64
import re
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from common.transport import Refusal, UpgradeRequest, upgrade
from common.transport.quick_upgrade import MAX_QUICK, Fields, QuickUpgrade
from tests.common.transport.helpers import eventually
from tests.common.transport.wshelpers import NAME, REQUEST, answer, http_client, upgraded, websockets

SUBPROTOCOLS = (Subprotocol(NAME), Subprotocol("test.v0"))

GORILLA = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8084\r\nUser-Agent: Go-http-client/1.1\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: test.v1\r\n"
    b"Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n\r\n"
)
AIOHTTP = (
    b"GET / HTTP/1.1\r\nHost: localhost:8084\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAccept: */*\r\n"
    b"Accept-Encoding: gzip, deflate\r\nUser-Agent: Python/3.11 aiohttp/3.9\r\n"
    b"Sec-WebSocket-Protocol: test.v1\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=15\r\n\r\n"
)


def defender() -> bytes:
    """What our own client sends."""
    client = ClientProtocol(parse_uri("wss://localhost:8084/"), subprotocols=[SUBPROTOCOLS[0]])
    client.send_request(client.connect())
    return client.data_to_send()[0]


USUAL = {"defender": defender(), "gorilla": GORILLA, "aiohttp": AIOHTTP, "test": REQUEST}


def fresh(subprotocols: Sequence[Subprotocol] = SUBPROTOCOLS) -> ServerProtocol:
    return ServerProtocol(subprotocols=list(subprotocols) or None, max_size=1000)


def state(protocol: ServerProtocol) -> dict[str, Any]:
    """All of a protocol that two of them can be compared by."""
    own = ("id", "reader", "parser", "logger")
    return {name: value for name, value in vars(protocol).items() if name not in own}


def the_quick_way(head: bytes, subprotocols: Sequence[Subprotocol], now: float) -> ServerProtocol | None:
    quick = QuickUpgrade("/", subprotocols)
    fields = quick.read(head)
    if fields is None:
        return None
    protocol = fresh(subprotocols)
    quick.accept(protocol, fields, now)
    return protocol


def the_long_way(head: bytes, subprotocols: Sequence[Subprotocol]) -> ServerProtocol:
    protocol = fresh(subprotocols)
    protocol.receive_data(head)
    for request in protocol.events_received():
        assert isinstance(request, Request)
        if request.path == "/":
            protocol.send_response(protocol.accept(request))
    return protocol


def assert_same(head: bytes, subprotocols: Sequence[Subprotocol] = SUBPROTOCOLS) -> bool:
    """Whether the quick way took it; then it did what the long way does, in the same second."""
    long = the_long_way(head, subprotocols)
    dated = re.match(rb"HTTP/1.1 101 .*\r\nDate: ([^\r]*)\r\n", b"".join(long.writes))
    now = parsedate_to_datetime(dated[1].decode()).timestamp() if dated else 0.0
    quick = the_quick_way(head, subprotocols, now)
    if quick is not None:
        assert state(quick) == state(long)
        assert quick.state is State.OPEN
        assert long.reader.buffer == b"" == quick.reader.buffer
    return quick is not None


@pytest.mark.parametrize("head", USUAL.values(), ids=USUAL.keys())
def test_usual_clients_get_what_websockets_gives_them(head: bytes) -> None:
    assert assert_same(head)


def test_a_server_without_subprotocols() -> None:
    bare = REQUEST.replace(b"Sec-WebSocket-Protocol: test.v1\r\n", b"")
    assert assert_same(bare, ())
    assert not assert_same(REQUEST, ())
    assert not assert_same(bare)


def test_the_second_subprotocol_is_chosen_by_name() -> None:
    assert assert_same(REQUEST.replace(b"test.v1", b"test.v0"))


def test_the_date_follows_the_time() -> None:
    quick = QuickUpgrade("/", SUBPROTOCOLS)
    dates = []
    for now in (0.0, 0.9, 1.0, 86400.5, 1.0):
        protocol, fields = fresh(), quick.read(REQUEST)
        assert fields is not None
        quick.accept(protocol, fields, now)
        found = re.search(rb"Date: ([^\r]*)\r\n", protocol.writes[0])
        assert found is not None
        dates.append(found[1][17:])
    assert dates == [b"00:00:00 GMT", b"00:00:00 GMT", b"00:00:01 GMT", b"00:00:00 GMT", b"00:00:01 GMT"]


def swapped(old: bytes, new: bytes) -> bytes:
    assert old in REQUEST
    return REQUEST.replace(old, new)


@pytest.mark.parametrize(
    "head",
    [
        REQUEST[:-1],
        REQUEST[:-2],
        REQUEST + b"x",
        REQUEST + b"\r\n",
        REQUEST + REQUEST,
        b"\r\n" + REQUEST,
        REQUEST.replace(b"\r\n", b"\n"),
        b"",
        b"\r\n\r\n",
        swapped(b"GET", b"POST"),
        swapped(b"GET", b"get"),
        swapped(b" / ", b" /?a=b "),
        swapped(b" / ", b" /other "),
        swapped(b"HTTP/1.1", b"HTTP/1.0"),
        swapped(b"Host: localhost\r\n", b""),
        swapped(b"Host:", b"Host :"),
        swapped(b"localhost", b"local\thost"),
        swapped(b"localhost", b"local\0host"),
        swapped(b"localhost", b"local\rhost"),
        swapped(b"localhost", b"local\nhost"),
        swapped(b"localhost", b"local\r \nhost"),
        swapped(b"localhost", b"local\xffhost"),
        swapped(b"localhost", b"localhost\r\n folded"),
        swapped(b"localhost", b"x" * MAX_QUICK),
        swapped(b"localhost", b"localhost\r\nHost: localhost"),
        swapped(b"localhost", b"localhost\r\nTransfer-Encoding: chunked"),
        swapped(b"localhost", b"localhost\r\nContent-Length: 1"),
        swapped(b"localhost", b"localhost\r\nOrigin: https://evil.example"),
        swapped(b"localhost", b"localhost\r\n: nameless"),
        swapped(b"localhost", b"localhost\r\nwordless"),
        swapped(b"Upgrade: websocket", b"Upgrade: WebSocket"),
        swapped(b"Upgrade: websocket", b"Upgrade: websocket, h2c"),
        swapped(b"Upgrade: websocket\r\n", b""),
        swapped(b"Connection: Upgrade", b"Connection: keep-alive, Upgrade"),
        swapped(b"Connection: Upgrade", b"Connection: close"),
        swapped(b"Connection: Upgrade\r\n", b""),
        swapped(b"Version: 13", b"Version: 8"),
        swapped(b"Version: 13", b"Version: 13\r\nsec-websocket-version: 13"),
        swapped(b"Sec-WebSocket-Version: 13\r\n", b""),
        swapped(b"AAAA==", b"AAAA="),
        swapped(b"AAAA==", b"AAAB=="),
        swapped(b"AAAA==", b"AA!A=="),
        swapped(b"AAAA==", b"AAAA==AAAA"),
        swapped(b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", b""),
        swapped(b"AAAA==", b"AAAA==\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="),
        swapped(b"test.v1", b"test.v1, test.v0"),
        swapped(b"test.v1", b"other"),
        swapped(b"test.v1", b""),
        swapped(b"test.v1", b"test.v1\r\nSec-WebSocket-Protocol: test.v0"),
        swapped(b"Sec-WebSocket-Protocol: test.v1\r\n", b""),
    ],
)
def test_what_is_unusual_goes_the_long_way(head: bytes) -> None:
    assert QuickUpgrade("/", SUBPROTOCOLS).read(head) is None


@pytest.mark.parametrize("path", ["", "x", "/a b", "/a?b", "/\u00e4", "/a\r\nb", "*"])
def test_a_path_that_no_request_line_names_goes_the_long_way(path: str) -> None:
    line = b"GET %b HTTP/1.1" % path.encode()
    assert QuickUpgrade(path, SUBPROTOCOLS).read(swapped(b"GET / HTTP/1.1", line)) is None


def test_a_subprotocol_that_is_no_token_goes_the_long_way() -> None:
    odd = Subprotocol("a, b")
    assert QuickUpgrade("/", [odd]).read(swapped(b"test.v1", b"a, b")) is None


def edits(head: bytes) -> st.SearchStrategy[bytes]:
    """This request with pieces replaced, doubled, cut out, or in another order."""
    lines = head[:-4].split(b"\r\n")
    line = st.sampled_from(
        [
            *lines[1:],
            *(
                b"Origin: x",
                b"Accept:*/*",
                b"Connection: upgrade",
                b"Upgrade: WEBSOCKET",
                b"X: y",
                b"Host: \t ",
            ),
            *(b"SEC-WEBSOCKET-VERSION: 13", b"User-Agent:   a b ", b"Content-Length: 0", b"accept: \x7f"),
        ]
    )
    whole = st.lists(line, max_size=10).map(lambda chosen: [lines[0], *chosen])
    shuffled = st.permutations(lines[1:]).map(lambda order: [lines[0], *order])
    more = st.tuples(shuffled, line, st.integers(1, 12)).map(lambda t: [*t[0][: t[2]], t[1], *t[0][t[2] :]])
    octets = st.tuples(st.integers(0, len(head) - 1), st.binary(max_size=2), st.integers(0, 2)).map(
        lambda t: head[: t[0]] + t[1] + head[t[0] + t[2] :]
    )
    joined: Callable[[list[bytes]], bytes] = lambda parts: b"\r\n".join(parts) + b"\r\n\r\n"  # noqa: E731
    return st.one_of(st.one_of(whole, shuffled, more).map(joined), octets)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_whatever_the_quick_way_takes_it_answers_as_websockets_does(data: st.DataObject) -> None:
    for head in USUAL.values():
        for edited in data.draw(st.lists(edits(head), min_size=4, max_size=4)):
            # What follows the head's end is no part of it, and the long way alone would read it as frames.
            if edited.find(b"\r\n\r\n") in (-1, len(edited) - 4):
                assert_same(edited)


@settings(deadline=None, max_examples=100)
@given(st.binary(min_size=16, max_size=16), st.permutations(AIOHTTP[:-4].split(b"\r\n")[1:]))
def test_any_key_and_any_order(key: bytes, order: list[bytes]) -> None:
    head = b"\r\n".join([b"GET / HTTP/1.1", *order]) + b"\r\n\r\n"
    assert assert_same(head.replace(b"dGhlIHNhbXBsZSBub25jZQ==", base64.b64encode(key)))


@pytest.mark.parametrize("head", USUAL.values(), ids=USUAL.keys())
def test_the_headers_read_as_those_of_websockets(head: bytes) -> None:
    fields = QuickUpgrade("/", SUBPROTOCOLS).read(head)
    assert fields is not None
    protocol = fresh()
    protocol.receive_data(head)
    request = protocol.events_received()[0]
    assert isinstance(request, Request)
    assert dict(fields) == dict(request.headers)
    assert (len(fields), list(fields)) == (len(request.headers), list(request.headers))
    for name in ("host", "HOST", "Sec-WebSocket-Key", "nothing"):
        assert fields.get(name) == request.headers.get(name)
        assert (name in fields) == (name in request.headers)
    odd: Any = 7
    assert odd not in fields
    with pytest.raises(LookupError):
        fields["nothing"]


# In a server


class Watched(QuickUpgrade):
    """Counts what it took."""

    __slots__ = ()
    taken: list[bytes] = []  # noqa: RUF012 - cleared by each test that looks

    def read(self, head: bytes) -> Fields | None:
        fields = super().read(head)
        if fields is not None:
            self.taken.append(head)
        return fields


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    monkeypatch.setattr(upgrade, "QuickUpgrade", Watched)
    Watched.taken.clear()
    return Watched.taken


async def test_our_own_client_is_upgraded_the_quick_way(watched: list[bytes]) -> None:
    async with websockets() as server:
        client = await server.connect()
        connection = await client.open()
        assert len(watched) == 1
        peer = await server.handler()
        connection.send("to you")
        assert await peer.got() == [b"to you"]
        peer.connection.send("and back")
        assert await client.got() == [b"and back"]
        assert peer.connection.subprotocol == connection.subprotocol == NAME


async def test_the_negative_control_goes_the_long_way(watched: list[bytes]) -> None:
    async with websockets() as server:
        client = await server.connect(headers={"X-More": "y"})
        assert (await client.open()).is_open
        assert watched == []


async def test_both_ways_send_the_same_octets(watched: list[bytes]) -> None:
    async with websockets() as server:
        async with http_client(server) as client:
            quick = await upgraded(client)
        async with http_client(server) as client:
            await client.send(client.encrypt(REQUEST[:-4] + b"\r\nX: y\r\n\r\n"))
            long = await client.read(len(quick))
        assert len(watched) == 1
        date = re.compile(rb"Date: [^\r]*")
        assert date.sub(b"", quick) == date.sub(b"", long)
        assert len(quick) == len(long)


async def test_the_owner_is_asked_and_may_refuse(watched: list[bytes]) -> None:
    seen: list[UpgradeRequest] = []

    def refuse(request: UpgradeRequest) -> Refusal:
        seen.append(request)
        return Refusal(503, "Busy.", 7)

    async with websockets(process_request=refuse) as server:
        answers = []
        for head in (REQUEST, REQUEST[:-4] + b"\r\nX: y\r\n\r\n"):
            async with http_client(server) as client:
                answers.append(await answer(client, head))
        assert len(watched) == 1, "the other one went the long way"
        date = re.compile(rb"Date: [^\r]*")
        assert date.sub(b"", answers[0]) == date.sub(b"", answers[1])
        assert b"Retry-After: 7\r\n" in answers[0]
        assert [(request.path, request.headers["HOST"]) for request in seen] == [("/", "localhost")] * 2
        assert server.handlers == []
        await eventually(lambda: server.tls.listener.stats.connections == 0)


async def test_who_debugs_websockets_sees_its_parser_at_work(
    watched: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG", "websockets.server"):
        async with websockets() as server:
            client = await server.connect()
            assert (await client.open()).is_open
    assert watched == []
    assert any("Sec-WebSocket-Key" in record.getMessage() for record in caplog.records)
