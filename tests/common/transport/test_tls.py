import asyncio
import gc
import random
import socket
import ssl
import subprocess
import weakref
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.transport import FailureKind, TLSTransport, classify, connect
from common.transport.write_queue import RECORD
from tests.common.transport import certs
from tests.common.transport.helpers import (
    QUICK,
    BioClient,
    Recorder,
    Server,
    dial,
    eventually,
    loop_errors,
    serving,
)

MB = 2**20


def blob(count: int) -> bytes:
    return random.Random(count).randbytes(count)


async def pair(server: Server) -> tuple[Any, Any]:
    """A client's protocol and the server's."""
    _, client = await dial(server)
    return client, await server.protocol()


@pytest.mark.parametrize("count", [1, 100, RECORD - 1, RECORD, RECORD + 1, 5 * MB])
async def test_echo(count: int) -> None:
    async with serving() as server:
        transport, client = await dial(server)
        data = blob(count)
        transport.write(data)
        assert await client.received(count) == data
        transport.close()
        assert await client.ended() is None


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_any_octets_may_be_written_and_changed_afterwards(kind: Any) -> None:
    async with serving() as server:
        transport, client = await dial(server)
        mine = kind(blob(3 * RECORD + 5))
        expected = bytes(mine)
        transport.write(mine)
        if isinstance(mine, bytearray):
            mine[:] = bytes(len(mine))
        assert await client.received(len(expected)) == expected


async def test_what_is_no_octets_is_refused() -> None:
    async with serving() as server:
        transport, _ = await dial(server)
        with pytest.raises(TypeError, match="bytes-like"):
            transport.write("text")  # type: ignore[arg-type]
        transport.write(b"")
        transport.write(memoryview(b"a-b-")[::2])
        protocol = await server.protocol()
        assert await protocol.received(2) == b"ab"


async def test_writelines_is_one_write() -> None:
    async with serving(Recorder) as server:
        transport, _ = await dial(server)
        transport.writelines([b"a", bytearray(b"b"), memoryview(b"c")])
        assert await (await server.protocol()).received(3) == b"abc"


async def test_no_half_close() -> None:
    async with serving() as server:
        transport, _ = await dial(server)
        assert not transport.can_write_eof()
        with pytest.raises(NotImplementedError):
            transport.write_eof()


async def test_writes_go_out_in_order_while_earlier_ones_wait() -> None:
    async with serving(Recorder) as server:
        client, protocol = await pair(server)
        protocol.transport.pause_reading()
        expected = b""
        for size in (200_000, 1, RECORD, 3, 4_000_000, 17, 0, 200):
            data = blob(size)
            expected += data
            client.transport.write(data)
        assert client.transport.get_write_buffer_size() > 0
        protocol.transport.resume_reading()
        assert await protocol.received(len(expected)) == expected
        await eventually(lambda: client.transport.get_write_buffer_size() == 0)


# Flow control


async def test_the_writer_is_paused_above_high_water_and_resumed_at_low_water() -> None:
    async with serving(Recorder) as server:
        client, protocol = await pair(server)
        protocol.transport.pause_reading()
        assert client.transport.get_write_buffer_limits() == (16384, 65536)
        while not client.paused:
            client.transport.write(bytes(100_000))
        assert client.transport.get_write_buffer_size() > 65536
        assert client.resumed == 0
        protocol.transport.resume_reading()
        await eventually(lambda: client.resumed)
        assert client.transport.get_write_buffer_size() <= 16384
        assert (client.paused, client.resumed) == (1, 1)


async def test_write_buffer_limits() -> None:
    async with serving(Recorder) as server:
        client, protocol = await pair(server)
        limits = client.transport.set_write_buffer_limits
        limits(high=0)
        assert client.transport.get_write_buffer_limits() == (0, 0)
        limits(low=10)
        assert client.transport.get_write_buffer_limits() == (10, 40)
        limits()
        assert client.transport.get_write_buffer_limits() == (16384, 65536)
        with pytest.raises(ValueError, match="must be >="):
            limits(high=1, low=2)
        protocol.transport.pause_reading()
        limits(high=10**9)
        while client.transport.get_write_buffer_size() < 100_000:
            client.transport.write(bytes(100_000))
        assert not client.paused
        limits(high=1000)
        assert client.paused == 1, "lowering the limit counts at once"


async def test_paused_reading_delivers_nothing_and_resuming_delivers_everything() -> None:
    async with serving(Recorder) as server:
        client, protocol = await pair(server)
        assert protocol.transport.is_reading()
        protocol.transport.pause_reading()
        protocol.transport.pause_reading()
        assert not protocol.transport.is_reading()
        client.transport.write(blob(50_000))
        await asyncio.sleep(0.05)
        assert not protocol.data
        protocol.transport.resume_reading()
        protocol.transport.resume_reading()
        assert await protocol.received(50_000) == blob(50_000)


class Sipping(Recorder):
    """Pauses after every piece that it gets."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.pause_reading()
        asyncio.get_running_loop().call_soon(self.transport.resume_reading)


async def test_pausing_within_data_received() -> None:
    async with serving(Sipping) as server:
        transport, _ = await dial(server)
        transport.write(blob(MB))
        assert await (await server.protocol()).received(MB) == blob(MB)


class Buffered(asyncio.BufferedProtocol):
    """Reads into a small buffer of its own, so that OpenSSL keeps decrypted octets between two reads."""

    size = 100

    def __init__(self) -> None:
        self.buffer = bytearray(self.size)
        self.data = bytearray()
        self.transport: TLSTransport
        self.lost: list[Exception | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, TLSTransport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.buffer[:nbytes]

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)

    async def filled(self, count: int) -> None:
        await eventually(lambda: len(self.data) == count, f"{count} octets ({len(self.data)} so far)")


async def test_a_buffered_protocol() -> None:
    async with serving(Buffered) as server:
        transport, _ = await dial(server)
        transport.write(blob(200_000))
        protocol = await server.protocol()
        await eventually(lambda: len(protocol.data) == 200_000)
        assert protocol.data == blob(200_000)


async def test_resuming_delivers_what_openssl_has_decrypted_already() -> None:
    class Pausing(Buffered):
        def buffer_updated(self, nbytes: int) -> None:
            super().buffer_updated(nbytes)
            self.transport.pause_reading()

    async with serving(Pausing) as server:
        transport, _ = await dial(server)
        transport.write(blob(1000))
        protocol = await server.protocol()
        for count in range(100, 1001, 100):
            await protocol.filled(count)
            protocol.transport.resume_reading()
        assert protocol.data == blob(1000)


async def test_an_empty_buffer_is_a_bug_and_ends_the_connection() -> None:
    class Empty(Buffered):
        size = 0

    async with serving(Empty) as server:
        with loop_errors() as told:
            transport, _ = await dial(server)
            transport.write(b"x")
            protocol = await server.protocol()
            await eventually(lambda: protocol.lost)
        assert isinstance(protocol.lost[0], RuntimeError)
        assert told[0]["exception"] is protocol.lost[0]


async def test_another_protocol_takes_over() -> None:
    async with serving() as server:
        transport, first = await dial(server)
        second = Recorder()
        transport.write(b"one")
        await first.received(3)
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        transport.write(b"two")
        assert await second.received(3) == b"two"
        transport.close()
        await second.ended()
        assert not first.lost


# Memory


async def pour(client: Recorder, total: int, piece: bytes) -> None:
    """Write so much, waiting whenever the transport says so."""
    left = total
    while left:
        client.transport.write(piece[:left])
        left -= min(left, len(piece))
        while client.paused > client.resumed:
            await asyncio.sleep(0)


class Counting(Recorder):
    """A slow reader that keeps nothing."""

    count = 0

    def data_received(self, data: bytes) -> None:
        self.count += len(data)
        if self.count % 50 == 0:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(0.0005, self.transport.resume_reading)


async def through_a_slow_reader(total: int) -> None:
    piece = blob(MB)
    async with serving(Counting) as server:
        client, protocol = await pair(server)
        await pour(client, 4 * MB, piece)
        before = psutil.Process().memory_info().rss
        await pour(client, total, piece)
        assert client.transport.get_write_buffer_size() <= 2 * MB
        await eventually(lambda: protocol.count == total + 4 * MB)
        assert psutil.Process().memory_info().rss - before < 8 * MB


async def test_64_mb_through_a_slow_reader_take_no_memory() -> None:
    await through_a_slow_reader(64 * MB)


@pytest.mark.slow
async def test_1_gb_through_a_slow_reader_takes_no_memory() -> None:
    await through_a_slow_reader(1024 * MB)


async def test_one_large_write_is_kept_once_and_not_copied() -> None:
    async with serving(Recorder) as server:
        client, protocol = await pair(server)
        protocol.transport.pause_reading()
        data = bytes(100 * MB)
        before = psutil.Process().memory_info().rss
        client.transport.write(data)
        assert client.transport.get_write_buffer_size() > 90 * MB
        assert psutil.Process().memory_info().rss - before < 16 * MB
        client.transport.abort()


async def test_a_closed_connection_leaves_nothing_for_the_collector() -> None:
    async with serving() as server:
        gc.collect()
        gc.disable()
        try:
            transport, client = await dial(server)
            transport.write(b"x")
            await client.received(1)
            gone = [weakref.ref(transport), weakref.ref(transport.get_extra_info("socket"))]
            transport.close()
            await client.ended()
            protocol = await server.protocol()
            gone.append(weakref.ref(protocol.transport))
            await protocol.ended()
            del transport, client.transport, protocol.transport
            await eventually(lambda: all(ref() is None for ref in gone), "freeing by reference counts")
        finally:
            gc.enable()


# How it ends


async def test_close_delivers_what_is_queued() -> None:
    async with serving(Recorder) as server:
        client, protocol = await pair(server)
        protocol.transport.pause_reading()
        client.transport.write(blob(4 * MB))
        client.transport.close()
        client.transport.close()
        assert client.transport.is_closing()
        client.transport.write(b"too late")
        protocol.transport.resume_reading()
        assert await protocol.ended() is None
        assert protocol.data == blob(4 * MB)
        assert protocol.calls == ["made", "eof", "lost"]
        assert await client.ended() is None
        assert client.calls == ["made", "lost"]


async def test_close_reaches_a_peer_that_is_still_sending() -> None:
    """Without draining, the kernel answers with a reset, which overtakes our last words."""
    async with serving(Recorder) as server:
        client, protocol = await pair(server)
        client.transport.set_write_buffer_limits(high=10 * MB)
        for _ in range(40):
            client.transport.write(bytes(100_000))
        await protocol.received(1)
        protocol.transport.write(b"last words")
        protocol.transport.close()
        assert await client.ended() is None
        assert client.data == b"last words"


async def test_the_peers_close_notify_flushes_what_is_queued() -> None:
    class Answering(Recorder):
        def eof_received(self) -> None:
            super().eof_received()
            self.transport.write(blob(300_000))

    async with serving(Answering) as server:
        with BioClient(server.port) as client:
            await client.handshake()
            with pytest.raises(ssl.SSLWantReadError):
                client.tls.unwrap()
            await client.send(client.take())
            protocol = await server.protocol()
            # Our own end has said close_notify, so OpenSSL reads no more: look at the socket.
            total = 0
            while piece := await asyncio.get_running_loop().sock_recv(client.sock, 65536):
                total += len(piece)
            assert total > 300_000
            assert await protocol.ended() is None
            assert protocol.calls == ["made", "eof", "lost"]


async def test_truncation_is_told_from_close_notify() -> None:
    async with serving() as server:
        with BioClient(server.port) as client:
            await client.handshake()
            protocol = await server.protocol()
            client.sock.shutdown(socket.SHUT_WR)
            exc = await protocol.ended()
        assert isinstance(exc, ssl.SSLEOFError)
        assert classify(exc) is FailureKind.RESET
        assert "eof" not in protocol.calls


async def test_abort_truncates_for_the_peer_and_calls_connection_lost_once() -> None:
    async with serving(Recorder) as server:
        client, protocol = await pair(server)
        protocol.transport.abort()
        protocol.transport.abort()
        protocol.transport.close()
        protocol.transport.write(b"x")
        assert not protocol.lost, "never from within abort()"
        assert await protocol.ended() is None
        assert isinstance(await client.ended(), ssl.SSLEOFError | ConnectionError)
        await asyncio.sleep(0.02)
        assert (protocol.calls, client.calls) == (["made", "lost"], ["made", "lost"])


async def test_reset_by_the_peer() -> None:
    async with serving(Recorder) as server:
        with BioClient(server.port) as client:
            await client.handshake()
            await client.send(client.encrypt(blob(200)))
            protocol = await server.protocol()
            client.reset()
            exc = await protocol.ended()
        assert classify(exc) is FailureKind.RESET


async def test_reset_with_unread_data_is_noticed() -> None:
    """On uvloop the poll handle dies with the reset: what is not read in that callback is never reported."""
    async with serving(Recorder) as server:
        client = BioClient(server.port)
        await client.handshake()
        protocol = await server.protocol()
        protocol.transport.pause_reading()
        await client.send(client.encrypt(blob(150_000)))
        client.reset()
        await asyncio.sleep(0.02)
        protocol.transport.resume_reading()
        assert classify(await protocol.ended()) is FailureKind.RESET


async def test_octets_that_do_not_decrypt_end_the_connection() -> None:
    async with serving(Recorder) as server:
        with BioClient(server.port) as client:
            await client.handshake()
            record = bytearray(client.encrypt(b"secret"))
            record[-1] ^= 1
            await client.send(bytes(record))
            exc = await (await server.protocol()).ended()
        assert isinstance(exc, ssl.SSLError)


async def test_writing_to_a_connection_that_is_gone() -> None:
    async with serving(Recorder) as server:
        client, protocol = await pair(server)
        protocol.transport.abort()
        await protocol.ended()
        while not client.lost:
            client.transport.write(bytes(1000))
            await asyncio.sleep(0)
        assert classify(client.lost[0]) is FailureKind.RESET
        client.transport.write(b"nobody is there")


async def test_a_peer_that_reads_nothing_does_not_hold_up_a_close() -> None:
    limits = type(QUICK)(sweep=0.02, shutdown_timeout=0.2, linger_timeout=0.2)
    async with serving(Recorder, limits=limits) as server:
        with BioClient(server.port) as client:
            await client.handshake()
            protocol = await server.protocol()
            protocol.transport.write(bytes(20 * MB))
            protocol.transport.close()
            exc = await protocol.ended()
        assert isinstance(exc, TimeoutError)


async def test_a_peer_that_never_closes_is_left_after_the_linger_time() -> None:
    limits = type(QUICK)(sweep=0.02, shutdown_timeout=5, linger_timeout=0.1)
    async with serving(Recorder, limits=limits) as server:
        with BioClient(server.port) as client:
            await client.handshake()
            protocol = await server.protocol()
            protocol.transport.close()
            assert await protocol.ended() is None
            assert await client.read(1) == b"", "close_notify came"


@pytest.mark.parametrize("method", ["data_received", "eof_received", "connection_made", "pause_writing"])
async def test_an_exception_in_the_protocol_aborts_and_is_reported(method: str) -> None:
    class Failing(Recorder):
        pass

    def fail(self: Recorder, *args: Any) -> None:
        if method == "connection_made":
            Recorder.connection_made(self, *args)
        raise ZeroDivisionError(method)

    setattr(Failing, method, fail)
    async with serving(Failing) as server:
        with loop_errors() as told:
            transport, client = await dial(server)
            protocol = await server.protocol()
            transport.write(b"x")
            if method == "pause_writing":
                await protocol.received(1)
                asyncio.get_running_loop().call_soon(protocol.transport.write, bytes(50 * MB))
            elif method == "eof_received":
                transport.close()
            assert isinstance(await protocol.ended(), ZeroDivisionError)
            await client.ended()
        assert [str(context["exception"]) for context in told] == [method]
        await server.settled()


async def test_an_exception_in_connection_lost_is_reported_and_the_socket_closed() -> None:
    class Failing(Recorder):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            raise ZeroDivisionError

    async with serving(Failing) as server:
        with loop_errors() as told:
            transport, client = await dial(server)
            protocol = await server.protocol()
            sock = protocol.transport.get_extra_info("socket")
            transport.close()
            await client.ended()
            await eventually(lambda: told)
        assert isinstance(told[0]["exception"], ZeroDivisionError)
        assert sock.fileno() == -1
        assert not server.listener.connections


# Facts


async def test_what_the_connection_tells_of_itself() -> None:
    async with serving(mutual=True) as server:
        transport, _ = await dial(server, context=certs.client_context(certs.client_leaf(), alpn=("g-1",)))
        protocol = await server.protocol()
        ours, theirs = transport.get_extra_info, protocol.transport.get_extra_info
        assert theirs("peername") == ours("sockname")
        assert theirs("sockname") == ours("peername")
        assert theirs("generation") is server.generation
        assert theirs("client_hello").alpn == ("g-1",)
        assert ours("generation") is None
        assert ours("client_hello", "none") == "none"
        assert theirs("peer_chain")[0] == certs.client_leaf().der
        assert ours("nonsense", 5) == 5
        assert repr(protocol.transport).startswith("<TLSTransport fd=")
        transport.abort()


async def test_sendfile_is_refused_in_the_way_that_makes_callers_fall_back() -> None:
    async with serving() as server:
        transport, _ = await dial(server)
        with Path(__file__).open("rb") as file, pytest.raises(NotImplementedError):
            await asyncio.get_running_loop().sendfile(transport, file)


# KeyUpdate, and any segmentation


async def test_key_updates_and_their_answers() -> None:
    """OpenSSL's s_client sends a KeyUpdate that asks for one back on a line `K` (s_client(1))."""
    async with serving() as server:
        process = await asyncio.create_subprocess_exec(
            *("openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_3"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdin
        assert process.stdout
        protocol = await server.protocol()
        for round_ in range(5):
            process.stdin.write(b"K\n")
            await process.stdin.drain()
            await asyncio.sleep(0.01)
            process.stdin.write(b"word%d\n" % round_)
            await process.stdin.drain()
            await protocol.received(6 * (round_ + 1))
        process.stdin.write(b"Q\n")
        output, _ = await asyncio.wait_for(process.communicate(), 10)
        assert b"KEYUPDATE" in output
        assert output.count(b"word") >= 5
        assert protocol.data == b"".join(b"word%d\n" % round_ for round_ in range(5))
        await protocol.ended()


CUTS = st.lists(st.one_of(st.integers(1, 20), st.integers(1, 5000)), min_size=1, max_size=15)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=CUTS, sizes=st.lists(st.integers(1, 40_000), min_size=1, max_size=4))
async def test_any_segmentation_of_the_stream(cuts: list[int], sizes: list[int]) -> None:
    """The client's octets, handshake included, arrive in pieces of any length."""
    async with serving() as server:
        with BioClient(server.port) as client:

            async def dribble(data: bytes) -> None:
                pieces = iter(cuts)
                while data:
                    cut = next(pieces, len(data))
                    await client.send(data[:cut])
                    data = data[cut:]
                    await asyncio.sleep(0)

            while not client.step():
                await dribble(client.take())
                assert await client.receive()
            stream = client.take()
            for size in sizes:
                stream += client.encrypt(blob(size))
            await dribble(stream)
            expected = b"".join(blob(size) for size in sizes)
            assert await client.read(len(expected)) == expected


async def test_small_messages_are_not_delayed_by_nagle() -> None:
    async with serving() as server:
        transport, _ = await dial(server)
        protocol = await server.protocol()
        for each in (transport, protocol.transport):
            assert each.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_one_busy_connection_does_not_starve_the_loop() -> None:
    """A writer without mercy: others get their turns in between."""
    async with serving(Counting) as server:
        client, _ = await pair(server)
        pouring = asyncio.ensure_future(pour(client, 32 * MB, blob(MB)))
        turns = 0
        while not pouring.done():
            await asyncio.sleep(0)
            turns += 1
        await pouring
        assert turns > 20
        await server.alive()


async def test_a_write_that_fails_tells_the_alert_that_came_before() -> None:
    """A server that refuses our certificate and closes at once: the write fails first, the alert says why."""
    context = certs.server_context(mutual=True)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refuse() -> None:
            sock, _ = listening.accept()
            with sock, pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN"):
                context.wrap_socket(sock, server_side=True)

        class Deaf(Recorder):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                self.transport.pause_reading()

        refusing = asyncio.ensure_future(asyncio.to_thread(refuse))
        _, client = await connect(
            *listening.getsockname(),
            context=certs.client_context(),
            server_hostname="localhost",
            protocol_factory=Deaf,
        )
        await refusing
        while not client.lost:
            client.transport.write(b"x")
            await asyncio.sleep(0.001)
        assert classify(client.lost[0]) is FailureKind.ALERT_NO_CERTIFICATE
