"""A swap of the HTTPS certificates: every request is answered, and every connection moves on."""

import asyncio
import socket
import ssl

import pytest

from common.certificates import CertificateSet, Role
from common.errors import CertificateSetError
from console.https import HTTPSServer
from tests.console.raw_http import RawClient
from tests.console.swapping import Work, anyio_backend, dropped, looks, pki, server, swap, until_gone, work
from tests.console.test_https import trusting
from tests.pki import PKI

__all__ = ["anyio_backend", "looks", "pki", "server", "work"]


async def test_the_same_set_again_changes_nothing(server: HTTPSServer, pki: PKI) -> None:
    issued = pki.issue(Role.HTTPS_SERVER)
    server.use(pki.set(Role.HTTPS_SERVER, issued))
    client = await RawClient.open(server.port, trusting(pki))
    with dropped(client):
        again = pki.set(Role.HTTPS_SERVER, issued)
        server.use(again)
        assert server.certificates is again
        assert server.draining == 0
        for _ in range(2):
            assert not (await client.ask()).last


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_the_next_answer_is_the_last_of_its_connection(
    server: HTTPSServer, pki: PKI, version: ssl.TLSVersion
) -> None:
    client = await RawClient.open(server.port, trusting(pki, version))
    assert not (await client.ask()).last
    new = swap(server, pki)
    assert server.certificates is new
    assert server.draining == 1
    answer = await client.ask()
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.last
    assert await client.ended()
    await until_gone(server)
    client = await RawClient.open(server.port, trusting(pki, version))
    with dropped(client):
        assert client.shown == new.leaf.der
        assert not (await client.ask()).last


@pytest.mark.parametrize(
    ("path", "method", "headers", "status"),
    [
        ("/", "HEAD", (), 200),
        ("/missing", "GET", (), 404),
        ("/slow", "POST", (), 405),
        ("/", "GET", ("Expect: nothing",), 417),
        ("/", "GET", ("Connection: keep-alive",), 200),
    ],
)
async def test_whatever_the_answer_is(
    server: HTTPSServer, pki: PKI, path: str, method: str, headers: tuple[str, ...], status: int
) -> None:
    client = await RawClient.open(server.port, trusting(pki))
    assert not (await client.ask(path, method, *headers)).last
    swap(server, pki)
    answer = await client.ask(path, method, *headers)
    assert (answer.status, answer.last) == (status, True)
    assert await client.ended()


async def test_an_old_client_is_told_too(server: HTTPSServer, pki: PKI) -> None:
    client = await RawClient.open(server.port, trusting(pki))
    client.send("/", "GET", "Connection: keep-alive", version="1.0")
    assert (await client.answer()).headers["connection"] == "keep-alive"
    swap(server, pki)
    client.send("/", "GET", "Connection: keep-alive", version="1.0")
    assert (await client.answer()).last
    assert await client.ended()


async def test_a_connection_that_has_asked_nothing_yet_is_answered(server: HTTPSServer, pki: PKI) -> None:
    client = await RawClient.open(server.port, trusting(pki))
    client.writer.write(b"GET / HTTP/1.1\r\nHo")
    swap(server, pki)
    client.writer.write(b"st: localhost\r\n\r\n")
    answer = await client.answer()
    assert (answer.status, answer.last) == (200, True)
    assert await client.ended()


async def test_a_request_that_waits_in_its_handler_is_answered(
    server: HTTPSServer, pki: PKI, work: Work
) -> None:
    client = await RawClient.open(server.port, trusting(pki))
    client.send("/slow")
    await work.arrived.wait()
    swap(server, pki)
    work.may_go_on.set()
    answer = await client.answer()
    assert (answer.body, answer.last) == (b"done", True)
    assert await client.ended()


@pytest.mark.parametrize("count", [3, 200], ids=["few", "more than are taken at a time"])
async def test_all_requests_that_came_together_are_answered(
    server: HTTPSServer, pki: PKI, work: Work, count: int
) -> None:
    client = await RawClient.open(server.port, trusting(pki))
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    client.writer.write(request.replace(b"/ ", b"/slow ", 1) + request * (count - 1))
    await work.arrived.wait()
    swap(server, pki)
    work.may_go_on.set()
    answers = [await client.answer() for _ in range(count)]
    assert [answer.last for answer in answers] == [False] * (count - 1) + [True]
    assert {answer.status for answer in answers} == {200}
    assert await client.ended()


@pytest.mark.parametrize("path", ["slow", "slow-stream"])
async def test_a_request_behind_one_that_would_speak_something_else(
    server: HTTPSServer, pki: PKI, work: Work, path: str
) -> None:
    client = await RawClient.open(server.port, trusting(pki))
    client.writer.write(
        f"GET /{path} HTTP/1.1\r\nHost: localhost\r\n".encode()
        + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    await work.arrived.wait()
    swap(server, pki)
    work.may_go_on.set()
    first, second = await client.answer(), await client.answer()
    assert (first.body, first.last) == (b"done", False)
    assert (second.body, second.last) == (b"hello", True)
    assert await client.ended()


async def test_a_handshake_under_way_is_on_the_replaced_set_and_told_so(
    server: HTTPSServer, pki: PKI
) -> None:
    old = server.certificates
    assert old is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting(pki).wrap_bio(incoming, outgoing, server_hostname="localhost")

    async def run(step: str, *arguments: int) -> bytes:
        async with asyncio.timeout(20):
            while True:
                try:
                    return getattr(tls, step)(*arguments)  # type: ignore[no-any-return]
                except ssl.SSLWantReadError:
                    writer.write(outgoing.read())
                    incoming.write(await reader.read(65536))

    await run("do_handshake")
    # The server has answered our ClientHello; our last flight isn't sent yet.
    new = swap(server, pki)
    assert new.leaf.der != old.leaf.der
    assert tls.getpeercert(binary_form=True) == old.leaf.der
    tls.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = await run("read", 65536)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    writer.transport.abort()


async def test_swaps_in_a_row_are_all_followed(server: HTTPSServer, pki: PKI) -> None:
    first = server.certificates
    assert first is not None
    clients = []
    for _ in range(4):
        clients.append(await RawClient.open(server.port, trusting(pki)))
        await clients[-1].ask()
        swap(server, pki)
    # Back to the first: who was on it then has been replaced all the same.
    server.use(first)
    assert server.draining == 4
    for client in clients:
        assert (await client.ask()).last
        assert await client.ended()
    await until_gone(server)


async def test_a_set_that_openssl_refuses_changes_nothing(
    server: HTTPSServer, pki: PKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = server.certificates
    client = await RawClient.open(server.port, trusting(pki))

    def refuse(_: CertificateSet) -> ssl.SSLContext:
        raise CertificateSetError("the set", ["it is refused"])

    monkeypatch.setattr("console.https.server_context", refuse)
    with dropped(client), pytest.raises(CertificateSetError):
        swap(server, pki)
    assert (server.certificates, server.draining) == (before, 0)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_no_saved_session_brings_the_old_certificate_back(
    server: HTTPSServer, pki: PKI, version: ssl.TLSVersion
) -> None:
    context = trusting(pki, version)
    client = await RawClient.open(server.port, context)
    await client.ask()
    session = client.writer.get_extra_info("ssl_object").session
    client.writer.close()
    await client.writer.wait_closed()
    # The control: without a swap the session is good for another connection, where there are any (TLS 1.2).
    _, reused = await asyncio.to_thread(_resume, server.port, context, session)
    assert reused == (version is ssl.TLSVersion.TLSv1_2)
    new = swap(server, pki)
    assert await asyncio.to_thread(_resume, server.port, context, session) == (new.leaf.der, False)


def _resume(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None) -> tuple[bytes | None, bool]:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost", session=session) as tls,
    ):
        shown, reused = tls.getpeercert(binary_form=True), bool(tls.session_reused)
        tls.unwrap()
        return shown, reused
