import asyncio
import contextlib
import resource
import socket
import ssl
from typing import Any

import pytest

from common.errors import ListenError
from common.transport import (
    ClientHello,
    FailureKind,
    Generation,
    Limits,
    Listener,
    classify,
)
from tests.common.transport import certs
from tests.common.transport.helpers import (
    BOUND,
    QUICK,
    BioClient,
    Echo,
    Recorder,
    Server,
    dial,
    eventually,
    loop_errors,
    refused,
    serving,
)


def limits(**changes: Any) -> Limits:
    return Limits(**{"sweep": 0.02, "linger_timeout": 0.5, "shutdown_timeout": 5.0, **changes})


async def raw(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", server.port)


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """To the end, or to the reset that a peer gets who goes on talking."""
    data = b""
    try:
        while piece := await asyncio.wait_for(reader.read(65536), BOUND):
            data += piece
    except ConnectionResetError:
        pass
    return data


@pytest.fixture(autouse=True, scope="module")
def _many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))


# Where it listens


async def test_port_taken() -> None:
    async with serving() as server:
        with pytest.raises(ListenError, match=f"port {server.port} of 127.0.0.1") as caught:
            await Listener.start(
                *("127.0.0.1", server.port),
                select=lambda _: server.generation,
                protocol_factory=Echo,
            )
        assert "stop what listens there" in str(caught.value)


async def test_all_addresses_of_both_families() -> None:
    generation = Generation("one", certs.server_context())
    listener = await Listener.start(select=lambda _: generation, protocol_factory=Echo)
    try:
        families = {sock.family for sock in listener.sockets}
        assert socket.AF_INET in families
        assert len({sock.getsockname()[1] for sock in listener.sockets}) == 1
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            if family in families:
                socket.create_connection((host, listener.port)).close()
    finally:
        listener.close()
        await listener.wait_closed(BOUND)


async def test_a_socket_that_was_made_elsewhere() -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    generation = Generation("one", certs.server_context())
    listener = await Listener.start(sockets=[sock], select=lambda _: generation, protocol_factory=Echo)
    assert listener.sockets == (sock,)
    assert listener.port == sock.getsockname()[1]
    listener.close()
    await listener.wait_closed(BOUND)
    assert sock.fileno() == -1


# The ClientHello chooses


async def test_the_generation_is_chosen_by_the_client_hello() -> None:
    generations = {
        name: Generation(name, certs.server_context(certs.server_leaf("localhost", name)))
        for name in ("old", "new")
    }
    seen: list[ClientHello] = []

    def select(hello: ClientHello) -> Generation:
        seen.append(hello)
        return generations["new" if "g-2" in hello.alpn else "old"]

    async with serving(select=select) as server:
        for name, alpn in (("old", ()), ("new", ("g-2",))):
            context = certs.client_context(trust=certs.ca(name).pem, alpn=alpn)
            transport, _ = await dial(server, context=context)
            protocol = await server.protocol(len(seen) - 1)
            assert protocol.transport.get_extra_info("generation") is generations[name]
            assert generations[name].connections == {protocol.transport}
            transport.abort()
        assert [hello.server_name for hello in seen] == ["localhost", "localhost"]
        await eventually(lambda: not any(g.connections for g in generations.values()))


async def test_equal_hellos_are_one_object() -> None:
    async with serving() as server:
        transports = [(await dial(server))[0] for _ in range(3)]
        await server.protocol(2)
        hellos = {id(p.transport.get_extra_info("client_hello")) for p in server.protocols}
        assert len(hellos) == 1
        for transport in transports:
            transport.abort()


async def test_swaps_while_500_connect_lose_nobody() -> None:
    """A swap is one assignment: everybody gets the old or the new one, in full."""
    names = [f"ca{number}" for number in range(2)]
    trust = b"".join(certs.ca(name).pem for name in names)
    contexts = [certs.server_context(certs.server_leaf("localhost", name)) for name in names]
    client = certs.client_context(trust=trust)
    current = [Generation("0", contexts[0])]
    gate = asyncio.Semaphore(50)
    done = 0

    async with serving(select=lambda _hello: current[0]) as server:

        async def one() -> str:
            nonlocal done
            async with gate:
                transport, protocol = await dial(server, context=client)
                transport.write(b"hello")
                await protocol.received(5)
                transport.close()
                assert await protocol.ended() is None
                done += 1
                current[0] = Generation(str(done), contexts[done % 2])
                return "served"

        assert await asyncio.gather(*(one() for _ in range(500))) == ["served"] * 500
        assert server.failures == []
        assert server.listener.stats.handshakes == 500
        used = {p.transport.get_extra_info("generation").name for p in server.protocols}
        assert len(used) > 50


async def test_a_select_that_fails_fails_its_connection_only() -> None:
    def select(hello: ClientHello) -> Generation:
        if "boom" in hello.alpn:
            raise KeyError("boom")
        return good

    good = Generation("good", certs.server_context())
    async with serving(select=select) as server:
        with loop_errors() as told:
            failure = await refused(server, context=certs.client_context(alpn=("boom",)))
            assert failure.kind is FailureKind.RESET
            await eventually(lambda: told)
        assert isinstance(told[0]["exception"], KeyError)
        assert (await server.failure()).kind is FailureKind.OTHER
        await server.alive()


async def test_a_protocol_factory_that_fails_fails_its_connection_only() -> None:
    fail = [True]

    def factory() -> Recorder:
        if fail.pop() if fail else False:
            raise KeyError("factory")
        return Echo()

    async with serving(factory) as server:
        with loop_errors() as told:
            _, client = await dial(server)
            await client.ended()
        assert isinstance(told[0]["exception"], KeyError)
        await server.alive()


async def test_an_on_failure_that_fails_harms_nobody() -> None:
    async with serving() as server:

        def fail(_: object) -> None:
            raise KeyError("on_failure")

        server.listener._on_failure = fail
        with loop_errors() as told:
            reader, writer = await raw(server)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert (await read_all(reader)).startswith(b"HTTP/1.1 400")
            writer.close()
            await eventually(lambda: told)
        assert isinstance(told[0]["exception"], KeyError)
        await server.settled()
        await server.alive()


# Refusals, each with the alert that tells the client why

EXPIRED = certs.ca().issue("client", certs.CLIENT, starts=-2 * certs.DAY, ends=-certs.DAY)
FUTURE = certs.ca().issue("client", certs.CLIENT, starts=certs.DAY, ends=2 * certs.DAY)
SERVERS = certs.ca().issue("client", certs.SERVER)


@pytest.mark.parametrize(
    ("leaf", "kind", "alert"),
    [
        (None, FailureKind.NO_CERTIFICATE, FailureKind.ALERT_NO_CERTIFICATE),
        (certs.client_leaf("Other CA"), FailureKind.UNKNOWN_CA, FailureKind.ALERT_UNKNOWN_CA),
        (EXPIRED, FailureKind.EXPIRED, FailureKind.ALERT_EXPIRED),
        (FUTURE, FailureKind.NOT_YET_VALID, FailureKind.ALERT_BAD_CERTIFICATE),
        (SERVERS, FailureKind.WRONG_PURPOSE, FailureKind.ALERT_WRONG_PURPOSE),
    ],
    ids=["none", "other CA", "expired", "future", "server's"],
)
async def test_a_refused_client_certificate_is_told_to_the_client(
    leaf: certs.Leaf | None, kind: FailureKind, alert: FailureKind
) -> None:
    async with serving(mutual=True) as server:
        transport, client = await dial(server, context=certs.client_context(leaf))
        # What the client sends meanwhile must not cost it the alert.
        transport.write(bytes(100_000))
        assert classify(await client.ended()) is alert
        failure = await server.failure()
        assert failure.kind is kind
        assert failure.generation == "one"
        assert failure.peer.startswith("127.0.0.1:")
        assert str(failure) == f"{failure.peer}: {kind}: {failure.detail}"
        assert server.protocols == []
        await server.settled()
        await server.alive()


async def test_a_good_client_certificate_is_accepted() -> None:
    async with serving(mutual=True) as server:
        await server.alive()
        assert server.failures == []


@pytest.mark.parametrize("leaf", [None, certs.client_leaf("Other CA")], ids=["none", "other CA"])
async def test_tls_1_2_clients_learn_it_within_the_handshake(leaf: certs.Leaf | None) -> None:
    context = certs.server_context(mutual=True, minimum=ssl.TLSVersion.TLSv1_2)
    async with serving(context=context, mutual=True) as server:
        client = certs.client_context(leaf, maximum=ssl.TLSVersion.TLSv1_2)
        failure = await refused(server, context=client)
        assert failure.kind is (FailureKind.ALERT_UNKNOWN_CA if leaf else FailureKind.ALERT)


async def test_an_old_client_is_told_that_its_version_is_refused() -> None:
    async with serving() as server:
        failure = await refused(server, context=certs.client_context(maximum=ssl.TLSVersion.TLSv1_2))
        assert failure.kind is FailureKind.ALERT_PROTOCOL_VERSION
        assert (await server.failure()).kind is FailureKind.PROTOCOL_VERSION


def resume(server: Server, context: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSocket:
    sock = socket.create_connection(("127.0.0.1", server.port))
    return context.wrap_socket(sock, server_hostname="localhost", session=session)


@pytest.mark.parametrize("mutual", [True, False], ids=["mutual", "one-way"])
async def test_a_resumed_session_is_refused_on_a_mutual_channel_only(mutual: bool) -> None:
    """TLS 1.2 resumes by session ID, whatever is done about tickets, and skips the check of the client."""
    context = certs.server_context(mutual=True, minimum=ssl.TLSVersion.TLSv1_2)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    client = certs.client_context(certs.client_leaf(), maximum=ssl.TLSVersion.TLSv1_2)
    async with serving(context=context, mutual=mutual) as server:
        first = await asyncio.to_thread(resume, server, client, None)
        await asyncio.to_thread(first.sendall, b"x")
        assert await asyncio.to_thread(first.recv, 1) == b"x"
        session = first.session
        await asyncio.to_thread(first.unwrap)
        first.close()
        second = await asyncio.to_thread(resume, server, client, session)
        assert second.session_reused, "the test needs a session that OpenSSL would resume"
        with second:
            if not mutual:
                await asyncio.to_thread(second.sendall, b"y")
                assert await asyncio.to_thread(second.recv, 1) == b"y"
                return
            assert (await server.failure()).kind is FailureKind.RESUMED
        assert len(server.protocols) == 1


# What is not TLS, or not finished


@pytest.mark.parametrize(
    "request_", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /api HTTP/1.1\r\n\r\n" + bytes(9999)]
)
async def test_http_gets_a_line_of_http(request_: bytes) -> None:
    async with serving() as server:
        reader, writer = await raw(server)
        writer.write(request_)
        answer = await read_all(reader)
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"This port speaks TLS" in answer
        writer.close()
        failure = await server.failure()
        assert (failure.kind, failure.detail) == (FailureKind.NOT_TLS, "HTTP spoken to a TLS port")
        await server.settled()


@pytest.mark.parametrize("words", [b"SSH-2.0-OpenSSH_9\r\n", b"\0\0\0\0", b"hello\n"])
async def test_other_words_are_refused_at_once(words: bytes) -> None:
    async with serving() as server:
        reader, writer = await raw(server)
        writer.write(words)
        assert await read_all(reader) == b""
        assert (await server.failure()).kind is FailureKind.NOT_TLS
        writer.close()
        await server.alive()


async def test_malformed_tls_gets_an_alert() -> None:
    async with serving() as server:
        reader, writer = await raw(server)
        writer.write(b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00")
        assert await read_all(reader) == bytes([21, 3, 3, 0, 2, 2, 50])
        assert "handshake message of type 2" in (await server.failure()).detail
        writer.close()


async def test_a_hello_that_openssl_refuses_gets_its_alert() -> None:
    async with serving() as server:
        with BioClient(server.port) as client:
            client.step()
            hello = bytearray(client.take())
            suites = 5 + 4 + 2 + 32 + 1 + hello[5 + 4 + 2 + 32]
            count = int.from_bytes(hello[suites : suites + 2], "big")
            hello[suites + 2 : suites + 2 + count] = bytes(count)  # none that exists
            await client.send(bytes(hello))
            failure = await server.failure()
            assert (failure.kind, failure.detail) == (FailureKind.OTHER, "no shared cipher")
        await server.alive()


async def test_silence_ends_at_the_deadline() -> None:
    async with serving(limits=limits(hello_timeout=0.1)) as server:
        reader, writer = await raw(server)
        assert await read_all(reader) == b""
        failure = await server.failure()
        assert (failure.kind, failure.detail) == (FailureKind.TIMEOUT, "no ClientHello in 0.1 s")
        writer.close()


async def test_a_dribbled_hello_ends_at_the_deadline() -> None:
    async with serving(limits=limits(hello_timeout=0.2)) as server:
        with BioClient(server.port) as client:
            client.step()
            hello = client.take()
            for octet in hello[:-1]:
                if server.failures:
                    break
                with contextlib.suppress(ConnectionError):
                    await client.send(bytes([octet]))
                await asyncio.sleep(0.002)
            assert (await server.failure()).kind is FailureKind.TIMEOUT


async def test_a_handshake_that_stalls_ends_at_the_deadline() -> None:
    async with serving(limits=limits(handshake_timeout=0.1)) as server:
        with BioClient(server.port) as client:
            client.step()
            await client.send(client.take())
            failure = await server.failure()
            assert (failure.kind, failure.detail) == (FailureKind.TIMEOUT, "no handshake in 0.1 s")
            assert failure.generation == "one"


async def test_a_hello_in_pieces_wakes_the_loop_no_oftener_than_it_must(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SO_RCVLOWAT: plain peeking would be woken for every piece, or spin on the first."""
    looks = 0
    peek = Listener._peek

    def counted(self: Listener, key: int) -> None:
        nonlocal looks
        looks += 1
        peek(self, key)

    monkeypatch.setattr(Listener, "_peek", counted)
    async with serving() as server:
        with BioClient(server.port) as client:
            client.step()
            hello = client.take()
            for start in range(0, len(hello), 7):
                await client.send(hello[start : start + 7])
                await asyncio.sleep(0.001)
            assert await client.receive()
            assert looks <= 4, "accept, first octets, header, all"
            await client.handshake()
        await server.settled()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("sent", [0, 1, 5, 100, -1, 10_000])
async def test_leaving_at_every_step_of_the_handshake(sent: int, how: str) -> None:
    """Before, within and after the ClientHello, and after the server's answer."""
    async with serving() as server:
        client = BioClient(server.port)
        client.step()
        hello = client.take()
        await client.send(hello[:sent])
        if sent > len(hello):
            await client.receive()
        else:
            await eventually(lambda: server.listener.stats.accepted == 1)
            await asyncio.sleep(0.01)
        getattr(client, how)()
        failure = await server.failure()
        assert failure.kind is FailureKind.RESET
        await server.settled()
        await server.alive()


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_leaving_right_after_the_handshake(how: str) -> None:
    async with serving() as server:
        client = BioClient(server.port)
        await client.handshake()
        getattr(client, how)()
        await eventually(lambda: server.failures or any(p.lost for p in server.protocols))
        await server.settled()
        await server.alive()


async def test_a_client_that_refuses_us_says_so() -> None:
    async with serving() as server:
        failure = await refused(server, context=certs.client_context(trust=certs.ca("Other CA").pem))
        assert failure.kind is FailureKind.UNKNOWN_CA
        assert (await server.failure()).kind is FailureKind.ALERT_UNKNOWN_CA


# Admission


async def crowd(server: Server, count: int, *, hello: bool) -> list[BioClient]:
    """Connections that never finish: silent, or stalled after their ClientHello."""
    context = certs.client_context()
    clients = []
    for _ in range(count):
        clients.append(BioClient(server.port, context))
        if hello:
            clients[-1].step()
            await clients[-1].send(clients[-1].take())
        if len(clients) % 50 == 0:
            await asyncio.sleep(0)
    return clients


async def serve_honest(server: Server, count: int) -> None:
    for _ in range(count):
        await server.alive()


@pytest.mark.parametrize(("silent", "stalled"), [(1000, 0), (0, 400), (600, 400)])
async def test_a_crowd_that_never_finishes_does_not_stop_honest_clients(silent: int, stalled: int) -> None:
    async with serving() as server:
        clients = await crowd(server, silent, hello=False) + await crowd(server, stalled, hello=True)
        await serve_honest(server, 10)
        stats = server.listener.stats
        assert stats.handshakes == 10
        assert stats.evicted == 0
        assert stats.pending >= silent + stalled - 1
        for client in clients:
            client.close()
        await server.settled()


async def test_beyond_the_bound_the_oldest_waiting_are_evicted_and_honest_clients_served() -> None:
    async with serving(limits=limits(max_pending=100)) as server:
        clients = await crowd(server, 300, hello=False)
        await eventually(lambda: server.listener.stats.evicted >= 200)
        await serve_honest(server, 10)
        stats = server.listener.stats
        assert (stats.handshakes, stats.accepted) == (10, 310)
        assert stats.evicted + stats.pending == 300
        assert 200 <= stats.evicted <= 210
        assert stats.failures == {FailureKind.EVICTED: stats.evicted}
        gone = [await asyncio.get_running_loop().sock_recv(client.sock, 1) for client in clients[:200]]
        assert gone == [b""] * 200, "the first ones were the ones to go"
        for client in clients:
            client.close()


async def test_an_address_over_its_limit_makes_room_for_itself() -> None:
    async with serving(limits=limits(per_address=20)) as server:
        clients = await crowd(server, 50, hello=False)
        await eventually(lambda: server.listener.stats.evicted == 30)
        await serve_honest(server, 3)
        for client in clients:
            client.close()


async def test_few_slots_and_many_stalled_handshakes() -> None:
    """A slot limit alone let forty of them block everybody."""
    async with serving(limits=limits(max_concurrent=2, stall=0.01)) as server:
        clients = await crowd(server, 60, hello=True)
        await serve_honest(server, 5)
        for client in clients:
            client.close()


async def test_a_storm_of_honest_clients_is_served_without_eviction() -> None:
    """More at once than may be pending: they wait in the kernel's backlog."""
    async with serving(limits=limits(max_pending=20, max_concurrent=4)) as server:
        gate = asyncio.Semaphore(15)

        async def one() -> None:
            async with gate:
                await server.alive()

        await asyncio.gather(*(one() for _ in range(150)))
        assert server.listener.stats.handshakes == 150
        assert server.listener.stats.evicted == 0


async def test_full_of_work_the_rest_waits_in_the_kernel() -> None:
    """All that is pending has its ClientHello there, and none may be lost for a newer one."""
    async with serving(limits=limits(max_pending=5, stall=BOUND)) as server:
        clients = []
        context = certs.client_context()
        for _ in range(30):
            # All of this without a turn of the loop: the accept callback finds 30 complete ClientHellos.
            client = BioClient(server.port, context)
            client.step()
            client.sock.send(client.take())
            clients.append(client)
        for client in clients:
            while not client.step():
                assert await client.receive()
            await client.send(client.take())
        await server.protocol(29)
        assert server.listener.stats.evicted == 0
        for client in clients:
            client.close()


async def test_running_out_of_file_descriptors(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server:
        await server.alive()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        waiting = [socket.socket() for _ in range(5)]
        spare = socket.socket()
        limit = spare.fileno()
        spare.close()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            for sock in waiting:
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", server.port))
            await eventually(lambda: caplog.records)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await server.alive()
        await eventually(lambda: server.listener.stats.accepted == 7)
        assert len(caplog.records) == 1, "once, not once for each try"
        assert "ulimit -n" in caplog.text
        for sock in waiting:
            sock.close()


async def test_a_silent_crowd_that_uses_up_the_file_descriptors_makes_room_for_honest_clients() -> None:
    async with serving() as server:
        await server.alive()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        crowd_ = [socket.socket() for _ in range(60)]
        room = [socket.socket() for _ in range(20)]
        limit = room[-1].fileno() + 1
        for sock in room:
            sock.close()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            for sock in crowd_:
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", server.port))
            await eventually(lambda: server.listener.stats.evicted >= 30)
            # The client lives in this process, too: give it the descriptor that it needs.
            crowd_.pop().close()
            crowd_.pop().close()
            await server.alive()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for sock in crowd_:
            sock.close()


# Closing


async def test_close_refuses_new_ones_drops_unfinished_ones_and_keeps_live_ones() -> None:
    async with serving() as server:
        transport, client = await dial(server)
        unfinished = BioClient(server.port)
        await eventually(lambda: server.listener.stats.accepted == 2)
        server.listener.close()
        server.listener.close()
        assert await asyncio.get_running_loop().sock_recv(unfinished.sock, 1) == b""
        unfinished.close()
        assert (await refused(server)).kind is FailureKind.REFUSED
        transport.write(b"still there")
        assert await client.received(11) == b"still there"
        waiting = asyncio.ensure_future(server.listener.wait_closed())
        await asyncio.sleep(0.02)
        assert not waiting.done()
        transport.close()
        await waiting


async def test_wait_closed_aborts_what_is_left() -> None:
    async with serving() as server:
        _, client = await dial(server)
        server.listener.close()
        await asyncio.wait_for(server.listener.wait_closed(0.05), BOUND)
        assert server.listener.stats.connections == 0
        await client.ended()


async def test_stats() -> None:
    async with serving(limits=QUICK) as server:
        transport, _ = await dial(server)
        await server.protocol()
        reader, writer = await raw(server)
        writer.write(b"GET /")
        await read_all(reader)
        writer.close()
        await server.settled()
        stats = server.listener.stats
        assert (stats.accepted, stats.handshakes, stats.connections) == (2, 1, 1)
        assert stats.failures == {FailureKind.NOT_TLS: 1}
        transport.abort()


async def test_a_full_server_flight_waits_until_the_client_reads() -> None:
    """A tiny receive window: the handshake has to wait until it can write."""
    async with serving() as server:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        sock.connect(("127.0.0.1", server.port))
        sock.settimeout(BOUND)
        context = certs.client_context()
        tls = await asyncio.to_thread(context.wrap_socket, sock, server_hostname="localhost")
        with tls:
            await asyncio.to_thread(tls.sendall, b"x")
            assert await asyncio.to_thread(tls.recv, 1) == b"x"


@pytest.mark.parametrize("limit", ["max_connections", "max_per_address"])
async def test_beyond_the_limit_of_connections_the_newest_is_refused(limit: str) -> None:
    limits = Limits(sweep=0.02, linger_timeout=0.5, **{limit: 2})
    async with serving(limits=limits) as server:
        first, protocol = await dial(server)
        second, _ = await dial(server)
        # A TLS 1.3 client is done before the server is.
        await eventually(lambda: len(server.listener.connections) == 2)
        await refused(server)
        failure = await server.failure()
        assert failure.kind is FailureKind.TOO_MANY
        assert failure.detail.startswith("there are 2 connections")
        assert server.listener.stats.failures == {FailureKind.TOO_MANY: 1}
        first.close()
        assert await protocol.ended() is None
        await eventually(lambda: len(server.listener.connections) == 1)
        await server.alive()
        second.abort()


async def test_connections_that_were_on_their_way_count_when_they_are_established() -> None:
    async with serving(limits=Limits(sweep=0.02, linger_timeout=0.5, max_connections=1)) as server:
        with BioClient(server.port) as early, BioClient(server.port) as late:
            await eventually(lambda: server.listener.stats.accepted == 2)
            await early.handshake()
            await server.protocol()
            await late.handshake()
            assert (await server.failure()).kind is FailureKind.TOO_MANY
            assert len(server.listener.connections) == 1
