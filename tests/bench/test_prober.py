"""The prober tells apart what can become of a connection: each outcome by a server that brings it about."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.certificates import Role, server_context
from tests.bench.lean import serving
from tests.bench.prober import Prober, Target, attempt, attempts, ping, target_of
from tests.bench.probes import Channel, Outcome
from tests.pki import PKI

Serve = Callable[[socket.socket], None]


@pytest.fixture(scope="module")
def pki() -> PKI:
    return PKI()


@contextlib.contextmanager
def serving_one(serve: Serve) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            sock, _ = listener.accept()
            with sock, contextlib.suppress(OSError):
                serve(sock)

        thread = threading.Thread(target=run)
        thread.start()
        yield int(listener.getsockname()[1])
        thread.join()


def target(pki: PKI, port: int) -> Target:
    context = ssl.create_default_context(cadata=pki.authority.certificate_pem.decode())
    return Target(Channel.HTTPS, port, context, ping)


def over_tls(pki: PKI, answer: bytes, *, orderly: bool = True) -> Serve:
    context = server_context(pki.set(Role.HTTPS_SERVER))

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as tls:
            tls.recv(65536)
            tls.sendall(answer)
            if orderly:
                tls.unwrap()

    return serve


def test_an_answer_and_an_orderly_end(pki: PKI) -> None:
    with serving_one(over_tls(pki, b"HTTP/1.1 200 OK\r\n\r\n")) as port:
        found = attempt(target(pki, port))
    assert (found.outcome, found.detail, len(found.leaf)) == (Outcome.OK, "", 64)
    assert found.began < found.shaken < found.ended


def test_a_handshake_begins_after_the_pause(pki: PKI) -> None:
    before = time.monotonic()
    with serving_one(over_tls(pki, b"HTTP/1.1 200 OK\r\n\r\n")) as port:
        found = attempt(target(pki, port), pause=0.2)
    assert found.outcome is Outcome.OK
    assert found.began >= before + 0.2


def test_an_end_without_a_word(pki: PKI) -> None:
    with serving_one(over_tls(pki, b"HTTP/1.1 200 OK\r\n\r\n", orderly=False)) as port:
        assert attempt(target(pki, port)).outcome is Outcome.RESET


def test_another_answer(pki: PKI) -> None:
    with serving_one(over_tls(pki, b"HTTP/1.1 503 Service Unavailable\r\n\r\n")) as port:
        assert attempt(target(pki, port)).outcome is Outcome.WRONG_ANSWER


def test_a_server_of_another_ca(pki: PKI) -> None:
    with serving_one(over_tls(PKI(), b"")) as port:
        assert attempt(target(pki, port)).outcome is Outcome.UNTRUSTED


def test_a_reset_in_the_handshake(pki: PKI) -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with serving_one(serve) as port:
        assert attempt(target(pki, port)).outcome is Outcome.RESET


def test_a_server_that_hangs(pki: PKI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.prober.HUNG_SECONDS", 0.1)

    def serve(sock: socket.socket) -> None:
        while sock.recv(65536):
            pass

    with serving_one(serve) as port:
        assert attempt(target(pki, port)).outcome is Outcome.HUNG


def test_nobody_listens(pki: PKI) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert attempt(target(pki, port)).outcome is Outcome.REFUSED


async def test_a_defenders_port_challenges_and_ends_in_order(certificates: Path, tmp_path: Path) -> None:
    record = tmp_path / "record"
    async with serving(certificates) as (server, port):
        to = target_of(Channel.WEBSOCKET, port, certificates / "defender-ca.pem", certificates)
        prober = Prober([to], 2, record, pause=0.1)
        await asyncio.to_thread(prober.start)
        stopped = time.monotonic()
        await asyncio.to_thread(prober.stop)
        found = attempts(record)
        assert {each.outcome for each in found} == {Outcome.OK}, found
        assert {each.leaf for each in found} == {server.generation.leaf.hex()}
        # Whoever stops it has something seen of what is there by then.
        assert sum(each.began > stopped for each in found) >= 3
        summary = prober.summary()[Channel.WEBSOCKET]
        assert summary["outcomes"] == {"ok": len(found)}


async def test_a_stranger_gets_an_alert(certificates: Path, tmp_path: Path, pki: PKI) -> None:
    for name, data in pki.files(Role.DEFENDER_CLIENT).items():
        (tmp_path / name).write_bytes(data)
    async with serving(certificates) as (_, port):
        to = target_of(Channel.WEBSOCKET, port, certificates / "defender-ca.pem", tmp_path)
        found = await asyncio.to_thread(attempt, to)
    assert found.outcome is Outcome.ALERT
    assert "UNKNOWN_CA" in found.detail
