import asyncio
import gc
import ssl
import weakref
from collections import Counter
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode

from common.transport import (
    FailureKind,
    PeerTooSlow,
    UpgradeRefused,
    WebSocketConnection,
    classify,
    resting,
)
from common.transport.idle_frames import TooManyFrames
from tests.common.transport import certs
from tests.common.transport.helpers import BioClient, eventually, loop_errors, serving
from tests.common.transport.wshelpers import Handler, http_client, upgraded, websockets


def frame(opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> bytes:
    """As a client sends it."""
    return Frame(opcode, data, fin).serialize(mask=True)


async def close_frame(client: BioClient) -> Close:
    """The server's close frame, after whatever came before it is skipped by its length."""
    while True:
        head = await client.read(2)
        assert len(head) == 2, "the stream ended without a close frame"
        length = head[1] & 127
        if length == 126:
            length = int.from_bytes(await client.read(2), "big")
        body = await client.read(length)
        if head[0] & 15 == Opcode.CLOSE:
            return Close.parse(body)


class Greeting(Handler):
    def on_open(self, connection: WebSocketConnection) -> None:
        super().on_open(connection)
        connection.send("welcome")


class Echoing(Handler):
    def on_message(self, data: bytes) -> None:
        super().on_message(data)
        self.connection.send(data)


async def test_messages_both_ways() -> None:
    async with websockets(Echoing) as server:
        client = await server.connect()
        connection = await client.open()
        assert connection.is_open
        assert connection.subprotocol == "test.v1"
        assert connection.send("text")
        assert connection.send(b"octets")
        assert connection.send(b"\xff\x00", binary=True)
        assert connection.send("ä" * 100_000)
        handler = await server.handler()
        assert (await handler.got(4))[:3] == [b"text", b"octets", b"\xff\x00"]
        connection.close()
        await client.ended()


async def test_an_orderly_close_from_either_side() -> None:
    async with websockets() as server:
        for number, ours in enumerate(("client", "server")):
            client = await server.connect()
            handler = await server.handler(number)
            connections = {"client": await client.open(), "server": await handler.open()}
            connections[ours].close(4001, "enough")
            connections[ours].close(1000)
            assert not connections[ours].is_open
            assert not connections[ours].send("too late")
            assert await client.ended() == (4001, "enough", None)
            assert await handler.ended() == (4001, "enough", None)
            connections[ours].close()
            assert connections[ours].subprotocol is None
            assert (client.closed, handler.closed) == ([(4001, "enough", None)],) * 2


async def test_a_long_reason_is_cut_where_a_character_ends() -> None:
    async with websockets() as server:
        client = await server.connect()
        (await client.open()).close(4000, "ä" * 100)
        handler = await server.handler()
        assert await handler.ended() == (4000, "ä" * 61, None)


async def test_what_on_open_sends_leaves_with_the_101() -> None:
    async with websockets(Greeting) as server, http_client(server) as client:
        head = await upgraded(client)
        assert b"Sec-WebSocket-Protocol: test.v1\r\n" in head
        assert client.tls.pending(), "the same record carries the first message"
        assert await client.read(9) == b"\x81\x07welcome"


async def test_pings_are_answered_in_the_same_write_as_messages() -> None:
    async with websockets(Echoing) as server, http_client(server) as client:
        await upgraded(client)
        await client.send(
            client.encrypt(frame(Opcode.PING, b"p") + frame(Opcode.TEXT, b"m") + frame(Opcode.PONG))
        )
        assert await client.read(6) == b"\x8a\x01p\x81\x01m"


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=4), min_size=1, max_size=4),
    st.lists(st.integers(1, 200), max_size=8),
)
async def test_fragments_in_any_segmentation(messages: list[list[bytes]], cuts: list[int]) -> None:
    async with websockets() as server, http_client(server) as client:
        await upgraded(client)
        stream = b""
        for fragments in messages:
            for index, fragment in enumerate(fragments):
                opcode = Opcode.CONT if index else Opcode.BINARY
                stream += frame(opcode, fragment, fin=index == len(fragments) - 1) + frame(Opcode.PING)
        for cut in cuts:
            if stream:
                await client.send(client.encrypt(stream[:cut]))
                stream = stream[cut:]
                await asyncio.sleep(0)
        if stream:
            await client.send(client.encrypt(stream))
        handler = await server.handler()
        assert await handler.got(len(messages)) == [b"".join(fragments) for fragments in messages]


# Faults of the peer: each gets its code, and so does the owner


@pytest.mark.parametrize(
    ("octets", "code", "reason"),
    [
        (frame(Opcode.BINARY, bytes(1001)), 1009, "exceeds limit of 1000 bytes"),
        (
            frame(Opcode.BINARY, bytes(600), fin=False) + frame(Opcode.CONT, bytes(600)),
            1009,
            "after reading 600 bytes exceeds limit",
        ),
        (frame(Opcode.TEXT, b"\xff\xff"), 1007, "invalid start byte at position 0"),
        (
            frame(Opcode.TEXT, "ä".encode()[:1], fin=False) + frame(Opcode.CONT, b"x"),
            1007,
            "invalid continuation",
        ),
        (frame(Opcode.CONT, b"x"), 1002, "unexpected continuation frame"),
        (
            frame(Opcode.TEXT, b"a", fin=False) + frame(Opcode.TEXT, b"b"),
            1002,
            "expected a continuation frame",
        ),
        (b"\xf1\x80\0\0\0\0", 1002, "reserved bits must be 0"),
        (b"\x83\x80\0\0\0\0", 1002, "invalid opcode"),
        (b"\x81\x01x", 1002, "incorrect masking"),
        (b"\x89\xfe\x00\x7e" + bytes(130), 1002, "control frame too long"),
        (b"\x88\x82\0\0\0\0\x03\xed", 1002, "invalid status code"),
    ],
)
async def test_a_faulty_frame_ends_the_connection_with_its_code(
    octets: bytes, code: int, reason: str
) -> None:
    async with websockets(max_size=1000) as server, http_client(server) as client:
        await upgraded(client)
        good = frame(Opcode.TEXT, b"before")
        await client.send(client.encrypt(good + octets + frame(Opcode.TEXT, b"after")))
        close = await close_frame(client)
        assert close.code == code
        assert reason in close.reason
        assert await client.read(1) == b"", "and then close_notify"
        handler = await server.handler()
        told = await handler.ended()
        assert told[:2] == (code, close.reason)
        assert isinstance(told[2], Exception)
        assert handler.messages == [b"before"]


async def test_fragments_of_no_length_are_not_kept() -> None:
    async with websockets(max_size=1000) as server, http_client(server) as client:
        await upgraded(client)
        await client.send(client.encrypt(frame(Opcode.TEXT, b"a", fin=False)))
        await client.send(client.encrypt(frame(Opcode.CONT, b"", fin=False) * 400))
        await client.send(client.encrypt(frame(Opcode.PING, b"!")))
        assert await client.read(3) == b"\x8a\x01!"
        handler = await server.handler()
        assert len(handler.connection._fragments) == 1
        await client.send(client.encrypt(frame(Opcode.CONT, b"b")))
        assert await handler.got() == [b"ab"]


async def test_truncation_and_loss_are_1006_with_their_cause() -> None:
    async with websockets() as server:
        client = await server.connect()
        handler = await server.handler()
        (await client.open()).abort()
        code, reason, exc = await handler.ended()
        assert code == 1006
        assert reason
        assert classify(exc) is FailureKind.RESET
        assert (await client.ended())[0] == 1006


async def test_close_notify_without_a_close_frame_is_1006() -> None:
    async with websockets() as server, http_client(server) as client:
        await upgraded(client)
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.unwrap()
        await client.send(client.take())
        handler = await server.handler()
        code, reason, exc = await handler.ended()
        assert (code, reason) == (1006, "the peer closed the connection without a word")
        assert isinstance(exc, EOFError)


async def test_a_peer_that_does_not_answer_a_close_is_left() -> None:
    async with websockets(close_timeout=0.05) as server, http_client(server) as client:
        await upgraded(client)
        handler = await server.handler()
        handler.connection.close(1001, "going")
        assert (await close_frame(client)).code == 1001
        code, reason, exc = await handler.ended()
        assert code == 1006
        assert "closing handshake" in reason
        assert isinstance(exc, TimeoutError)


async def test_an_exception_in_the_handler_ends_its_connection_only() -> None:
    class Failing(Handler):
        def on_message(self, data: bytes) -> None:
            raise ZeroDivisionError

    async with websockets(Failing) as server:
        with loop_errors() as told:
            client = await server.connect()
            (await client.open()).send("x")
            handler = await server.handler()
            assert isinstance((await handler.ended())[2], ZeroDivisionError)
            await client.ended()
        assert isinstance(told[0]["exception"], ZeroDivisionError)
        assert (await (await server.connect()).open()).is_open


# Flow control


async def test_writable_follows_the_peer() -> None:
    async with websockets(max_buffered=50 * 2**20) as server:
        client = await server.connect()
        connection = await client.open()
        handler = await server.handler()
        handler.connection.pause_reading()
        assert connection.writable
        while connection.writable:
            assert connection.send(bytes(100_000), binary=True)
        assert connection.buffered > 65536
        assert client.writable == 0
        assert connection.send("queued"), "not writable, but taken"
        handler.connection.resume_reading()
        await eventually(lambda: client.writable == 1)
        assert connection.writable
        await eventually(lambda: handler.messages[-1] == b"queued")


async def test_a_peer_that_does_not_read_is_dropped_at_the_bound() -> None:
    async with websockets(max_buffered=200_000) as server, http_client(server) as client:
        await upgraded(client)
        handler = await server.handler()
        count = 0
        while handler.connection.send(bytes(50_000), binary=True):
            count += 1
            assert handler.connection.buffered <= 210_000
        assert count > 3
        code, reason, exc = await handler.ended()
        assert code == 1013
        assert reason == "more than 200000 octets are not read by the peer"
        assert isinstance(exc, PeerTooSlow)


class OneAtATime(Handler):
    def on_message(self, data: bytes) -> None:
        super().on_message(data)
        self.connection.pause_reading()


async def test_after_pausing_not_one_more_message_is_delivered() -> None:
    async with websockets(OneAtATime) as server:
        client = await server.connect()
        connection = await client.open()
        for number in range(20):
            connection.send(str(number))
        handler = await server.handler()
        for number in range(20):
            assert await handler.got(number + 1) == [str(n).encode() for n in range(number + 1)]
            await asyncio.sleep(0.001)
            assert len(handler.messages) == number + 1
            handler.connection.resume_reading()
            handler.connection.resume_reading()


async def test_messages_that_waited_come_before_on_close() -> None:
    async with websockets(OneAtATime) as server, http_client(server) as client:
        await upgraded(client)
        texts = b"".join(frame(Opcode.TEXT, b"%d" % number) for number in range(5))
        await client.send(client.encrypt(texts + frame(Opcode.CLOSE, b"\x03\xe8")))
        handler = await server.handler()
        assert (await handler.ended())[0] == 1000
        assert handler.messages == [b"0", b"1", b"2", b"3", b"4"]


# What is kept


async def test_an_open_connection_keeps_nothing_of_its_upgrade_nor_of_its_last_message() -> None:
    async with websockets(Echoing) as server:
        client = await server.connect()
        connection = await client.open()
        connection.send("m" * 60_000)
        await client.got()
        await eventually(lambda: connection.buffered == 0)
        handler = await server.handler()
        handler.messages.clear()
        client.messages.clear()
        gc.collect()
        kinds = [type(each).__name__ for each in gc.get_objects()]
        assert kinds.count("Request") == kinds.count("Response") == 0
        kept = [each for each in gc.get_objects() if isinstance(each, Frame)]
        assert all(not each.data for each in kept)


def parser(connection: WebSocketConnection) -> Any:
    assert connection._protocol is not None
    return connection._protocol.parser


def rests_or_not(connection: WebSocketConnection, rests: bool) -> bool:
    return (parser(connection) is resting.RESTING) == rests


async def test_between_two_frames_there_is_no_parser() -> None:
    async with websockets() as server, http_client(server) as client:
        await upgraded(client)
        handler = await server.handler()
        connection = await handler.open()
        assert parser(connection) is resting.RESTING
        octets = frame(Opcode.TEXT, b"one", fin=False) + frame(Opcode.CONT, b"+two")
        for place, octet in enumerate(octets, 1):
            await client.send(client.encrypt(bytes([octet])))
            within = place not in (len(frame(Opcode.TEXT, b"one")), len(octets))
            # Segments may arrive together: at the end of a frame it rests, within one it never does.
            await eventually(partial(rests_or_not, connection, not within))
        assert handler.messages == [b"one+two"], "what belongs to the message outlives the parser"
        await client.send(client.encrypt(frame(Opcode.CONT, b"no message")))
        assert (await close_frame(client)).code == 1002, "and so does what is a fault"


async def test_a_resting_connection_hears_the_end_of_the_stream() -> None:
    async with websockets() as server:
        client = await server.connect()
        connection = await client.open()
        handler = await server.handler()
        assert parser(connection) is parser(await handler.open()) is resting.RESTING
        connection.transport.close()  # close_notify without a close frame
        assert (await handler.ended())[0] == 1006
        assert (await client.ended())[0] == 1006


async def test_a_closed_connection_leaves_nothing_for_the_collector() -> None:
    async with websockets() as server:
        gc.collect()
        gc.disable()
        try:
            client = await server.connect()
            refs = [weakref.ref((await client.open()).transport)]
            handler = await server.handler()
            refs.append(weakref.ref(handler.connection.transport))
            refs += [weakref.ref(each.connection._protocol) for each in (client, handler)]
            client.connection.close()
            await client.ended()
            await handler.ended()
            del client.connection, handler.connection
            server.tls.protocols.clear()
            await eventually(lambda: not any(ref() for ref in refs))
        finally:
            gc.enable()


async def test_a_refused_client_certificate_is_told_to_the_owner() -> None:
    from common.transport import client_factory, connect, server_factory

    factory = server_factory(Handler, subprotocols=["test.v1"])
    async with serving(factory, mutual=True) as server:
        handler: Any = Handler()
        await connect(
            *("127.0.0.1", server.port),
            context=certs.client_context(certs.client_leaf("Other CA")),
            server_hostname="localhost",
            protocol_factory=client_factory(
                f"wss://localhost:{server.port}/", handler, subprotocols=["test.v1"]
            ),
        )
        code, reason, exc = await handler.ended()
        assert (code, reason) == (1006, "alert unknown ca")
        assert classify(exc) is FailureKind.ALERT_UNKNOWN_CA
        assert not handler.opened


def test_sentences() -> None:
    assert (
        str(UpgradeRefused(503, "Service Unavailable", 7)) == "HTTP 503 Service Unavailable, retry after 7 s"
    )
    assert str(UpgradeRefused(404, "Not Found")) == "HTTP 404 Not Found"
    assert str(UpgradeRefused(0, "no HTTP")) == "no HTTP"
    assert str(PeerTooSlow("slow")) == "slow"


async def test_many_messages_in_a_row_keep_their_order() -> None:
    async with websockets(Echoing) as server:
        client = await server.connect()
        connection = await client.open()
        for number in range(2000):
            connection.send(str(number))
        assert await client.got(2000) == [str(number).encode() for number in range(2000)]


# Frames that carry next to nothing


@pytest.mark.parametrize(
    "flood",
    [
        frame(Opcode.PING) * 1000,
        frame(Opcode.PONG, b"x") * 1000,
        frame(Opcode.TEXT, b"a", fin=False) + frame(Opcode.CONT, fin=False) * 1000,
        frame(Opcode.TEXT, b"a", fin=False) + frame(Opcode.CONT, b"b" * 20, fin=False) * 1000,
    ],
    ids=["pings", "pongs", "empty fragments", "tiny fragments"],
)
async def test_a_flood_of_frames_without_data_ends_the_connection(flood: bytes) -> None:
    async with websockets() as server, http_client(server) as client:
        await upgraded(client)
        await client.send(client.encrypt(flood))
        close = await close_frame(client)
        assert (close.code, close.reason) == (1008, "too many frames without data")
        handler = await server.handler()
        code, reason, exc = await handler.ended()
        assert (code, reason) == (1008, "too many frames without data")
        assert isinstance(exc, TooManyFrames)


async def test_a_burst_of_pings_within_the_bound_is_answered() -> None:
    async with websockets() as server, http_client(server) as client:
        await upgraded(client)
        await client.send(client.encrypt(frame(Opcode.PING, b"p") * 400))
        assert await client.read(3 * 400) == b"\x8a\x01p" * 400
        assert (await server.handler()).connection.is_open


async def test_pongs_that_nobody_reads_are_bounded() -> None:
    async with websockets(max_buffered=200_000) as server, http_client(server) as client:
        await upgraded(client)
        handler = await server.handler()
        connection = handler.connection
        while connection.buffered < 170_000:
            assert connection.send(bytes(20_000), binary=True)
        await client.send(client.encrypt(frame(Opcode.PING, bytes(125)) * 400))
        code, _, exc = await handler.ended()
        assert code == 1013
        assert isinstance(exc, PeerTooSlow)


async def test_a_turn_takes_no_more_than_a_record_of_tiny_messages() -> None:
    turn, turns = 0, Counter[int]()

    class Counting(Handler):
        def on_message(self, data: bytes) -> None:
            super().on_message(data)
            turns[turn] += 1

    async with websockets(Counting) as server, http_client(server) as client:
        await upgraded(client)
        handler = await server.handler()
        transport = (await handler.open()).transport
        transport.pause_reading()
        stream = frame(Opcode.BINARY, b"x") * 9000
        await client.send(client.encrypt(stream))
        await asyncio.sleep(0.02)
        transport.resume_reading()
        while len(handler.messages) < 9000:
            turn += 1
            await asyncio.sleep(0)
        assert max(turns.values()) <= 16384 // 7 + 1


async def test_pausing_within_a_large_read_keeps_the_order() -> None:
    async with websockets(OneAtATime) as server, http_client(server) as client:
        await upgraded(client)
        count = 600
        stream = b"".join(frame(Opcode.TEXT, b"%08d" % number) for number in range(count))
        await client.send(client.encrypt(stream))
        handler = await server.handler()
        while len(handler.messages) < count:
            seen = len(handler.messages)
            await asyncio.sleep(0)
            assert len(handler.messages) <= seen + 1
            handler.connection.resume_reading()
        assert handler.messages == [b"%08d" % number for number in range(count)]
