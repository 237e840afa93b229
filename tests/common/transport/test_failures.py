import errno
import socket
import ssl

import pytest

from common.transport import ConnectionFailed, FailureKind, HandshakeFailure, classify, describe
from tests.common.transport import certs

K = FailureKind
EXPIRED = {"starts": -2 * certs.DAY, "ends": -certs.DAY}
FUTURE = {"starts": certs.DAY, "ends": 2 * certs.DAY}


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, BaseException | None]:
    """A handshake in memory and what each side raised; the client reads on: TLS 1.3 refuses it later."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = {
        "client": client.wrap_bio(to_client, to_server, server_hostname="localhost"),
        "server": server.wrap_bio(to_server, to_client, server_side=True),
    }
    raised: dict[str, BaseException | None] = {"client": None, "server": None}
    done = set()
    for _ in range(10):
        for name, end in ends.items():
            if raised[name] is not None:
                continue
            try:
                if name in done:
                    end.read(1)
                else:
                    end.do_handshake()
                    done.add(name)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as exc:
                raised[name] = exc
    return raised


@pytest.mark.parametrize("maximum", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("leaf", "kind", "alert"),
    [
        (certs.client_leaf("Other CA"), K.UNKNOWN_CA, K.ALERT_UNKNOWN_CA),
        (certs.ca().issue("c", certs.CLIENT, **EXPIRED), K.EXPIRED, K.ALERT_EXPIRED),
        (certs.ca().issue("c", certs.CLIENT, **FUTURE), K.NOT_YET_VALID, K.ALERT_BAD_CERTIFICATE),
        (certs.ca().issue("c", certs.SERVER), K.WRONG_PURPOSE, K.ALERT_WRONG_PURPOSE),
        (certs.CA("Test CA").issue("c", certs.CLIENT), K.UNKNOWN_CA, K.ALERT_BAD_CERTIFICATE),
        (certs.client_leaf(), None, None),
    ],
    ids=["other CA", "expired", "future", "server's", "CA of the same name", "good"],
)
def test_a_client_certificate_judged_by_the_server(
    leaf: certs.Leaf, kind: K | None, alert: K | None, maximum: ssl.TLSVersion
) -> None:
    server = certs.server_context(mutual=True, minimum=ssl.TLSVersion.TLSv1_2)
    raised = shake(server, certs.client_context(leaf, maximum=maximum))
    assert (raised["server"] and classify(raised["server"])) == kind
    assert (raised["client"] and classify(raised["client"])) == alert


@pytest.mark.parametrize(
    ("leaf", "kind", "alert"),
    [
        (certs.server_leaf("localhost", "Other CA"), K.UNKNOWN_CA, K.ALERT_UNKNOWN_CA),
        (certs.ca().issue("localhost", certs.SERVER, **EXPIRED), K.EXPIRED, K.ALERT_EXPIRED),
        (certs.ca().issue("localhost", certs.CLIENT), K.WRONG_PURPOSE, K.ALERT_WRONG_PURPOSE),
        (certs.server_leaf("elsewhere"), K.WRONG_NAME, K.ALERT_BAD_CERTIFICATE),
    ],
)
def test_a_server_certificate_judged_by_the_client(leaf: certs.Leaf, kind: K, alert: K) -> None:
    raised = shake(certs.server_context(leaf), certs.client_context())
    assert raised["client"]
    assert classify(raised["client"]) is kind
    assert raised["server"]
    assert classify(raised["server"]) is alert


def client_step(end: ssl.SSLObject, incoming: ssl.MemoryBIO, octets: bytes) -> None:
    if octets:
        incoming.write(octets)
    end.do_handshake()


def test_no_certificate() -> None:
    raised = shake(certs.server_context(mutual=True), certs.client_context())
    assert classify(raised["server"]) is K.NO_CERTIFICATE
    assert classify(raised["client"]) is K.ALERT_NO_CERTIFICATE
    assert describe(raised["server"]) == "peer did not return a certificate"
    assert describe(raised["client"]) == "alert certificate required"


def test_versions_that_do_not_meet() -> None:
    raised = shake(certs.server_context(), certs.client_context(maximum=ssl.TLSVersion.TLSv1_2))
    assert classify(raised["server"]) is K.PROTOCOL_VERSION
    assert classify(raised["client"]) is K.ALERT_PROTOCOL_VERSION


@pytest.mark.parametrize(
    ("octets", "kind"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", K.NOT_TLS),
        (b"\x15\x03\x03\x00\x02\x02\x28", K.ALERT),
        (b"\x15\x03\x03\x00\x02\x02\x46", K.ALERT_PROTOCOL_VERSION),
        (b"\x15\x03\x03\x00\x02\x02\x2c", K.ALERT_REVOKED),
    ],
)
def test_what_a_server_says_instead_of_a_hello(octets: bytes, kind: K) -> None:
    incoming = ssl.MemoryBIO()
    end = certs.client_context().wrap_bio(incoming, ssl.MemoryBIO(), server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client_step(end, incoming, b"")
    with pytest.raises(ssl.SSLError) as caught:
        client_step(end, incoming, octets)
    assert classify(caught.value) is kind


@pytest.mark.parametrize(
    ("exc", "kind", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), K.REFUSED, "Connection refused"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), K.RESET, "reset"),
        (BrokenPipeError(), K.RESET, "BrokenPipeError"),
        (TimeoutError("too long"), K.TIMEOUT, "too long"),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), K.TIMEOUT, "Connection timed out"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), K.UNREACHABLE, "No route to host"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), K.UNREACHABLE, "Network is unreachable"),
        (socket.gaierror(-2, "Name or service not known"), K.UNREACHABLE, "Name or service not known"),
        (ssl.SSLZeroReturnError(6, "closed"), K.RESET, "closed"),
        (OSError(errno.EIO, "I/O error"), K.OTHER, "I/O error"),
        (ValueError("odd"), K.OTHER, "odd"),
        (None, K.OTHER, "closed"),
        (ConnectionFailed(K.EXPIRED, "long ago"), K.EXPIRED, "long ago"),
    ],
)
def test_what_the_network_says(exc: BaseException | None, kind: K, words: str) -> None:
    assert classify(exc) is kind
    assert describe(exc) == words


def test_a_truncation() -> None:
    incoming = ssl.MemoryBIO()
    end = certs.client_context().wrap_bio(incoming, ssl.MemoryBIO(), server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client_step(end, incoming, b"")
    incoming.write_eof()
    with pytest.raises(ssl.SSLEOFError) as caught:
        client_step(end, incoming, b"")
    assert classify(caught.value) is K.RESET
    assert describe(caught.value) == "the peer closed the connection without close_notify"


def test_the_two_directions_are_kept_apart() -> None:
    alerts = {kind for kind in K if kind.is_alert}
    assert {K.ALERT, K.ALERT_UNKNOWN_CA, K.ALERT_EXPIRED} <= alerts
    assert not {K.UNKNOWN_CA, K.EXPIRED, K.RESET, K.NOT_TLS} & alerts
    assert len({str(kind) for kind in K}) == len(K)


def test_sentences() -> None:
    assert str(ConnectionFailed(K.REFUSED, "h:1: no")) == "connection refused: h:1: no"
    failure = HandshakeFailure(K.EXPIRED, "[::1]:5", "certificate has expired", "g-1")
    assert str(failure) == "[::1]:5: certificate expired: certificate has expired"
