import ctypes
import socket
import ssl
import sys
from collections.abc import Iterator

import pytest

from common import openssl
from common.openssl import KNOWN, end_reads_at_records, send_no_root

AUTO_RETRY, NO_AUTO_CHAIN = 0x4, 0x8
CONTEXTS = [ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT]
looked_up = pytest.mark.skipif(sys.version_info[:2] not in KNOWN, reason="this Python has not been looked up")


def pointer(instance: object, offset: int = 0) -> int | None:
    return ctypes.c_void_p.from_address(id(instance) + object.__basicsize__ + offset).value


def mode(context: ssl.SSLContext) -> int:
    """What OpenSSL says of the context."""
    found: int = openssl._library().SSL_CTX_ctrl(pointer(context), 33, 0, None)
    return found


def connection_mode(tls: ssl.SSLSocket) -> int:
    found: int = openssl._library().SSL_ctrl(pointer(tls._sslobj, 8), 33, 0, None)  # type: ignore[attr-defined]
    return found


@pytest.fixture
def tls() -> Iterator[ssl.SSLSocket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        plain = socket.create_connection(server.getsockname())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        with context.wrap_socket(plain, do_handshake_on_connect=False) as connection:
            yield connection


@looked_up
@pytest.mark.parametrize("protocol", CONTEXTS)
def test_a_context_sends_no_root_and_nothing_else_changes(protocol: int) -> None:
    context, other = ssl.SSLContext(protocol), ssl.SSLContext(protocol)
    before, options = mode(context), context.options
    assert not before & NO_AUTO_CHAIN
    assert send_no_root(context)
    assert mode(context) == before | NO_AUTO_CHAIN
    assert context.options == options
    assert mode(other) == before


@looked_up
def test_reads_of_a_connection_end_at_records(tls: ssl.SSLSocket) -> None:
    before = connection_mode(tls)
    assert before & AUTO_RETRY
    assert end_reads_at_records(tls)
    assert connection_mode(tls) == before & ~AUTO_RETRY


def test_another_python_is_left_alone(tls: ssl.SSLSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    openssl._library.cache_clear()
    monkeypatch.setattr(openssl, "KNOWN", frozenset())
    assert not send_no_root(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    assert not end_reads_at_records(tls)
    openssl._library.cache_clear()


def test_what_does_not_answer_like_the_object_is_left_alone(
    tls: ssl.SSLSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere:
        def SSL_CTX_get_options(self, _: int) -> int:  # noqa: N802
            return 1

        def SSL_get_SSL_CTX(self, _: int) -> int:  # noqa: N802
            return 1

    monkeypatch.setattr(openssl, "_library", Elsewhere)
    assert not send_no_root(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    assert not end_reads_at_records(tls)
