"""Why a connection failed, by kind: one vocabulary for both ends, logs, metrics and exit codes.

Two directions are kept apart. `UNKNOWN_CA` says that *we* do not know who signed the peer's certificate;
`ALERT_UNKNOWN_CA` says that *the peer* told us so of ours. An operator mends the one in our files and the
other in theirs.
"""

import errno
import socket
import ssl
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class FailureKind(StrEnum):
    """What went wrong with a connection."""

    # We refuse the peer.
    NO_CERTIFICATE = "no certificate"
    UNKNOWN_CA = "unknown CA"
    EXPIRED = "certificate expired"
    NOT_YET_VALID = "certificate not yet valid"
    REVOKED = "certificate revoked"
    WRONG_PURPOSE = "certificate of another purpose"
    WRONG_NAME = "certificate for another name"
    BAD_CERTIFICATE = "bad certificate"
    PROTOCOL_VERSION = "TLS version"
    NOT_TLS = "not TLS"
    RESUMED = "resumed session"
    # The peer refuses us, by its alert.
    ALERT_NO_CERTIFICATE = "peer requires a certificate"
    ALERT_UNKNOWN_CA = "peer does not know our CA"
    ALERT_EXPIRED = "peer says our certificate expired"
    ALERT_REVOKED = "peer says our certificate is revoked"
    ALERT_WRONG_PURPOSE = "peer says our certificate is of another purpose"
    ALERT_BAD_CERTIFICATE = "peer says our certificate is bad"
    ALERT_PROTOCOL_VERSION = "peer refuses our TLS version"
    ALERT = "peer sent an alert"
    # The network, or time.
    REFUSED = "connection refused"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    RESET = "connection reset"
    EVICTED = "evicted"
    TOO_MANY = "too many connections"
    OTHER = "other"

    @property
    def is_alert(self) -> bool:
        """Whether the peer said it, in an alert."""
        return self.name.startswith("ALERT")


@dataclass(frozen=True, slots=True)
class HandshakeFailure:
    """A connection that a listener accepted and that did not become one.

    Attributes:
        kind: Why.
        peer: Who, as `address:port`.
        detail: Why, in words for a log line; never a secret.
        generation: The listener generation that was chosen for it; None if it did not come so far.
    """

    kind: FailureKind
    peer: str
    detail: str
    generation: str | None = None

    def __str__(self) -> str:
        return f"{self.peer}: {self.kind}: {self.detail}"


class ConnectionFailed(Exception):  # noqa: N818 - a name of the product's vocabulary, like ConnectionRefused
    """An attempt to connect that failed.

    Args:
        kind: Why.
        detail: Why, in words: whom we tried, and what OpenSSL, the resolver or the kernel said.
    """

    def __init__(self, kind: FailureKind, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


# X509_V_ERR_… of OpenSSL's x509_vfy.h.
_VERIFY_CODES: Final = {
    2: FailureKind.UNKNOWN_CA,  # unable to get issuer certificate
    7: FailureKind.UNKNOWN_CA,  # signature failure: a CA of the same name with another key
    9: FailureKind.NOT_YET_VALID,
    10: FailureKind.EXPIRED,
    18: FailureKind.UNKNOWN_CA,  # self-signed
    19: FailureKind.UNKNOWN_CA,  # self-signed in chain
    20: FailureKind.UNKNOWN_CA,  # unable to get local issuer certificate
    21: FailureKind.UNKNOWN_CA,  # unable to verify leaf signature
    23: FailureKind.REVOKED,
    26: FailureKind.WRONG_PURPOSE,
    27: FailureKind.UNKNOWN_CA,  # not trusted
    28: FailureKind.WRONG_PURPOSE,  # rejected for this purpose
    29: FailureKind.UNKNOWN_CA,  # subject issuer mismatch
    30: FailureKind.UNKNOWN_CA,  # AKID does not match the issuer's SKID
    62: FailureKind.WRONG_NAME,
    64: FailureKind.WRONG_NAME,  # IP address mismatch
}

_REASONS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": FailureKind.NO_CERTIFICATE,
    "UNSUPPORTED_PROTOCOL": FailureKind.PROTOCOL_VERSION,
    "NO_PROTOCOLS_AVAILABLE": FailureKind.PROTOCOL_VERSION,
    "WRONG_SSL_VERSION": FailureKind.PROTOCOL_VERSION,
    "VERSION_TOO_LOW": FailureKind.PROTOCOL_VERSION,
    "WRONG_VERSION_NUMBER": FailureKind.NOT_TLS,
    "HTTP_REQUEST": FailureKind.NOT_TLS,
    "HTTPS_PROXY_REQUEST": FailureKind.NOT_TLS,
    "UNKNOWN_PROTOCOL": FailureKind.NOT_TLS,
    "PACKET_LENGTH_TOO_LONG": FailureKind.NOT_TLS,
    "RECORD_LAYER_FAILURE": FailureKind.NOT_TLS,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": FailureKind.ALERT_NO_CERTIFICATE,
    "TLSV1_ALERT_UNKNOWN_CA": FailureKind.ALERT_UNKNOWN_CA,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": FailureKind.ALERT_EXPIRED,
    "SSLV3_ALERT_CERTIFICATE_REVOKED": FailureKind.ALERT_REVOKED,
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": FailureKind.ALERT_WRONG_PURPOSE,
    "SSLV3_ALERT_BAD_CERTIFICATE": FailureKind.ALERT_BAD_CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": FailureKind.ALERT_BAD_CERTIFICATE,
    "TLSV1_ALERT_DECRYPT_ERROR": FailureKind.ALERT_BAD_CERTIFICATE,
    "TLSV1_ALERT_PROTOCOL_VERSION": FailureKind.ALERT_PROTOCOL_VERSION,
    "TLSV1_UNRECOGNIZED_NAME": FailureKind.ALERT,
}

_UNREACHABLE: Final = {
    *(errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL),
    *(errno.EAFNOSUPPORT, errno.EACCES, errno.EPERM),
}


def classify(exc: BaseException | None) -> FailureKind:  # noqa: PLR0911 - a table by type
    """The kind of a failure, from what a handshake, a read, a write or a connect raised.

    Args:
        exc: The exception, or what `connection_lost` got.
    """
    match exc:
        case ConnectionFailed():
            return exc.kind
        case ssl.SSLCertVerificationError():
            return _VERIFY_CODES.get(exc.verify_code, FailureKind.BAD_CERTIFICATE)
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return FailureKind.RESET
        case ssl.SSLError():
            return _classify_reason(_reason(exc))
        case TimeoutError():
            return FailureKind.TIMEOUT
        case ConnectionRefusedError():
            return FailureKind.REFUSED
        case ConnectionError():
            return FailureKind.RESET
        case socket.gaierror():
            return FailureKind.UNREACHABLE
        case OSError() if exc.errno in _UNREACHABLE:
            return FailureKind.UNREACHABLE
    return FailureKind.OTHER


def _reason(exc: ssl.SSLError) -> str:
    # Only what OpenSSL itself raised has the attribute.
    return getattr(exc, "reason", None) or ""


def _classify_reason(reason: str) -> FailureKind:
    return _REASONS.get(reason, FailureKind.ALERT if "_ALERT_" in reason else FailureKind.OTHER)


def describe(exc: BaseException | None) -> str:  # noqa: PLR0911 - a table by type
    """A failure in words for a log line: what OpenSSL or the kernel said, without places in their source."""
    match exc:
        case None:
            return "closed"
        case ConnectionFailed():
            return exc.detail
        case ssl.SSLCertVerificationError():
            return exc.verify_message.rstrip(".")
        case ssl.SSLEOFError():
            return "the peer closed the connection without close_notify"
        case ssl.SSLError() if _reason(exc):
            return _words(_reason(exc))
        case OSError() if exc.strerror:
            return exc.strerror
    return str(exc) or type(exc).__name__


def bare(exc: OSError) -> OSError:
    """Without its frames: whoever keeps it would keep the connection."""
    exc.__traceback__ = exc.__context__ = None
    return exc


def _words(reason: str) -> str:
    _, alert, name = reason.rpartition("_ALERT_")
    if alert:
        return f"alert {name.lower().replace('_', ' ')}"
    return reason.lower().replace("_", " ")
