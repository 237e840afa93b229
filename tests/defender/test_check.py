"""Every way in which a Console, or what pretends to be one, can fail to be one: each with a real socket."""

import asyncio
import random
import socket
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.certificates import P256, Authority, Role
from common.transport import Refusal
from defender.causes import Cause, Failure
from defender.check import Proof, prove
from defender.connection import Dialer
from defender.credentials import Credentials, CredentialSource
from defender.resolve import Resolver
from defender.settings import Address
from tests.defender.peer import console, tcp_server
from tests.defender.pki import DAY, Pki

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]


def credentials_of(pki: Pki, folder: Path, *, now: datetime | None = None) -> Credentials:
    pki.deploy(folder)
    return CredentialSource("", folder).load(now or datetime.now(UTC))


async def attempt(
    pki: Pki,
    folder: Path,
    port: int,
    *,
    host: str = "127.0.0.1",
    patience: float = 5.0,
    now: datetime | None = None,
    resolver: Resolver | None = None,
) -> Proof | Failure:
    dialer = Dialer(Address(host, port), resolver or Resolver(), patience=patience)
    return await prove(dialer, credentials_of(pki, folder, now=now), patience=patience)


def cause(outcome: Proof | Failure) -> Cause:
    assert isinstance(outcome, Failure), outcome
    assert outcome.detail
    return outcome.cause


async def test_both_directions_are_proved_and_nothing_is_changed(pki: Pki, tmp_path: Path) -> None:
    async with console(pki) as peer:
        outcome = await attempt(pki, tmp_path, peer.port)
        assert outcome == Proof(pki.server.certificate.fingerprint, "9.9.9")
        assert peer.defenders == {}
    assert [path.name for path in tmp_path.iterdir()] == ["certificates"]


async def test_a_name_is_looked_up_and_verified(pki: Pki, tmp_path: Path) -> None:
    async with console(pki) as peer:
        assert isinstance(await attempt(pki, tmp_path, peer.port, host="localhost"), Proof)


async def test_another_address_of_the_name_is_tried(pki: Pki, tmp_path: Path) -> None:
    resolver = Resolver(lambda host, port: ["127.0.0.2", "127.0.0.1"])
    async with console(pki) as peer:
        assert isinstance(await attempt(pki, tmp_path, peer.port, host="localhost", resolver=resolver), Proof)


# The Console is not the one we trust


async def test_a_console_of_another_ca(pki: Pki, tmp_path: Path) -> None:
    other = Pki.create()
    async with console(other) as peer:
        outcome = await attempt(pki, tmp_path, peer.port)
    assert cause(outcome) is Cause.UNKNOWN_CA


async def test_a_console_of_a_ca_with_the_same_name(pki: Pki, tmp_path: Path) -> None:
    """The name alone proves nothing: the impostor's CA calls itself as ours does."""
    now = datetime.now(UTC)
    impostor = Authority.create("Test CA", now=now - 5 * DAY, algorithm=P256)
    async with console(Pki.create(authority=impostor)) as peer:
        assert cause(await attempt(pki, tmp_path, peer.port)) is Cause.UNKNOWN_CA


async def test_a_console_whose_certificate_expired(pki: Pki, tmp_path: Path) -> None:
    expired = Pki.create(authority=pki.authority, server_ends=-timedelta(hours=1))
    async with console(expired) as peer:
        outcome = await attempt(pki, tmp_path, peer.port)
    assert cause(outcome) is Cause.CONSOLE_EXPIRED
    assert "Console's certificate has expired" in str(outcome)


async def test_a_console_of_another_name(pki: Pki, tmp_path: Path) -> None:
    other = Pki.create(authority=pki.authority, san="DNS:console.example IP:127.0.0.9")
    async with console(other) as peer:
        assert cause(await attempt(pki, tmp_path, peer.port)) is Cause.WRONG_NAME
        assert cause(await attempt(pki, tmp_path, peer.port, host="localhost")) is Cause.WRONG_NAME


async def test_another_defender_that_plays_the_console(pki: Pki, tmp_path: Path) -> None:
    """Deployed Defenders hold a certificate of our CA, but none that is a server's."""
    impostor = Pki.create(authority=pki.authority, server_role=Role.DEFENDER_CLIENT)
    async with console(impostor) as peer:
        outcome = await attempt(pki, tmp_path, peer.port)
    assert cause(outcome) is Cause.NOT_A_CONSOLE
    assert "not a server's" in str(outcome)


# The Console refuses us


async def test_our_certificate_is_of_a_ca_that_the_console_does_not_trust(pki: Pki, tmp_path: Path) -> None:
    """We trust its CA; ours is another one, that it has removed."""
    former = Pki.create()
    former.deploy(tmp_path, extra_trust=pki.authority.certificate_pem)
    credentials = CredentialSource("", tmp_path).load(datetime.now(UTC))
    async with console(pki) as peer:
        outcome = await prove(
            Dialer(Address("127.0.0.1", peer.port), Resolver(), patience=5), credentials, patience=5
        )
    assert cause(outcome) is Cause.REFUSED
    assert "does not trust the CA of this Defender's certificate" in str(outcome)


async def test_our_certificate_expired_while_we_ran(pki: Pki, tmp_path: Path) -> None:
    ending = Pki.create(authority=pki.authority, client_ends=-timedelta(hours=1))
    async with console(pki) as peer:
        outcome = await attempt(ending, tmp_path, peer.port, now=datetime.now(UTC) - DAY)
    assert cause(outcome) is Cause.OWN_EXPIRED
    assert "this Defender's certificate has expired" in str(outcome)


async def test_the_console_has_no_room(pki: Pki, tmp_path: Path) -> None:
    async with console(pki) as peer:
        peer.refusal = Refusal(503, "full", retry_after=7)
        outcome = await attempt(pki, tmp_path, peer.port)
    assert cause(outcome) is Cause.BUSY
    assert isinstance(outcome, Failure)
    assert outcome.retry_after == 7


async def test_the_console_forbids(pki: Pki, tmp_path: Path) -> None:
    async with console(pki) as peer:
        peer.refusal = Refusal(403, "no")
        assert cause(await attempt(pki, tmp_path, peer.port)) is Cause.REFUSED


# Nothing, or something else, is there


async def test_a_closed_port(pki: Pki, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        outcome = await attempt(pki, tmp_path, free.getsockname()[1])
    assert cause(outcome) is Cause.UNREACHABLE


async def test_a_name_that_nobody_knows(pki: Pki, tmp_path: Path) -> None:
    outcome = await attempt(pki, tmp_path, 1, host="no-such-host.invalid", patience=20)
    assert cause(outcome) is Cause.UNREACHABLE
    assert "no-such-host.invalid" in str(outcome)


async def test_a_resolver_that_hangs(pki: Pki, tmp_path: Path) -> None:
    released = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(host: str, port: int) -> list[str]:
        asyncio.run_coroutine_threadsafe(released.wait(), loop).result(10)
        return []

    outcome = await attempt(pki, tmp_path, 1, host="slow.example", patience=0.1, resolver=Resolver(hang))
    released.set()
    assert cause(outcome) is Cause.UNREACHABLE
    assert "slow.example cannot be looked up" in str(outcome)


async def test_a_full_backlog_is_bounded(pki: Pki, tmp_path: Path) -> None:
    """TCP connects, nobody ever accepts."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(1)
        outcome = await attempt(pki, tmp_path, deaf.getsockname()[1], patience=0.3)
    assert cause(outcome) is Cause.UNREACHABLE
    assert "no answer in time" in str(outcome)


def serving(serve: Serve, context: ssl.SSLContext | None = None) -> AbstractAsyncContextManager[int]:
    return tcp_server(serve, context)


def says(answer: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        await writer.drain()

    return serve


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)


async def test_plain_http(pki: Pki, tmp_path: Path) -> None:
    async with serving(says(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        assert cause(await attempt(pki, tmp_path, port)) is Cause.NOT_A_CONSOLE


async def test_an_ssh_server(pki: Pki, tmp_path: Path) -> None:
    async with serving(says(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n")) as port:
        assert cause(await attempt(pki, tmp_path, port)) is Cause.NOT_A_CONSOLE


async def test_plain_tcp_that_says_nothing(pki: Pki, tmp_path: Path) -> None:
    async with serving(silence) as port:
        assert cause(await attempt(pki, tmp_path, port, patience=0.3)) is Cause.UNREACHABLE


async def test_plain_tcp_that_hangs_up(pki: Pki, tmp_path: Path) -> None:
    async with serving(hang_up) as port:
        assert cause(await attempt(pki, tmp_path, port)) is Cause.UNREACHABLE


BAD_ACCEPT = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: wrong\r\n\r\n"
)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        BAD_ACCEPT,
        b"SMTP ready\r\n\r\n",
    ],
    ids=["200", "404", "bad accept", "no HTTP"],
)
async def test_https_without_websocket(pki: Pki, tmp_path: Path, answer: bytes) -> None:
    async with serving(says(answer), pki.bare_context()) as port:
        assert cause(await attempt(pki, tmp_path, port)) is Cause.NOT_A_CONSOLE


async def test_https_that_says_nothing(pki: Pki, tmp_path: Path) -> None:
    async with serving(silence, pki.bare_context()) as port:
        assert cause(await attempt(pki, tmp_path, port, patience=0.5)) is Cause.NOT_A_CONSOLE


async def test_a_websocket_of_another_subprotocol(pki: Pki, tmp_path: Path) -> None:
    async with console(pki) as peer:
        await peer.stop()
        peer.subprotocols = ("chat",)
        await peer.start()
        assert cause(await attempt(pki, tmp_path, peer.port)) is Cause.NOT_A_CONSOLE


async def test_a_websocket_that_does_not_challenge(pki: Pki, tmp_path: Path) -> None:
    async with console(pki) as peer:
        peer.silent = True
        assert cause(await attempt(pki, tmp_path, peer.port, patience=0.5)) is Cause.NOT_A_CONSOLE


async def test_random_bytes_never_break_us(pki: Pki, tmp_path: Path) -> None:
    rng = random.Random(1)
    credentials = credentials_of(pki, tmp_path)
    for context in (None, pki.bare_context()):
        for _ in range(15):
            async with serving(says(rng.randbytes(rng.randrange(1, 400))), context) as port:
                dialer = Dialer(Address("127.0.0.1", port), Resolver(), patience=0.5)
                assert cause(await prove(dialer, credentials, patience=0.5)) in (
                    Cause.NOT_A_CONSOLE,
                    Cause.UNREACHABLE,
                )
