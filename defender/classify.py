"""From what the transport and the WebSocket say to a cause that an operator can act on. Pure."""

from collections.abc import Mapping
from typing import Final

from common.protocol import REFUSALS, CloseCode
from common.transport import ConnectionFailed, FailureKind, UpgradeRefused, classify, describe
from defender.causes import Cause, Failure

REFUSED_WAIT: Final = 30.0
"""Seconds to stay away from a Console that refused this Defender: only an operator changes that."""

_KINDS: Final = {
    FailureKind.UNKNOWN_CA: Cause.UNKNOWN_CA,
    FailureKind.EXPIRED: Cause.CONSOLE_EXPIRED,
    FailureKind.NOT_YET_VALID: Cause.CONSOLE_EXPIRED,
    FailureKind.WRONG_NAME: Cause.WRONG_NAME,
    # A certificate of our CA that is none of a Console's, such as another Defender's.
    FailureKind.WRONG_PURPOSE: Cause.NOT_A_CONSOLE,
    FailureKind.BAD_CERTIFICATE: Cause.NOT_A_CONSOLE,
    FailureKind.REVOKED: Cause.NOT_A_CONSOLE,
    FailureKind.NO_CERTIFICATE: Cause.NOT_A_CONSOLE,
    FailureKind.PROTOCOL_VERSION: Cause.NOT_A_CONSOLE,
    FailureKind.NOT_TLS: Cause.NOT_A_CONSOLE,
    FailureKind.RESUMED: Cause.NOT_A_CONSOLE,
    FailureKind.ALERT_EXPIRED: Cause.OWN_EXPIRED,
    FailureKind.ALERT_UNKNOWN_CA: Cause.REFUSED,
    FailureKind.ALERT_NO_CERTIFICATE: Cause.REFUSED,
    FailureKind.ALERT_REVOKED: Cause.REFUSED,
    FailureKind.ALERT_WRONG_PURPOSE: Cause.REFUSED,
    FailureKind.ALERT_BAD_CERTIFICATE: Cause.REFUSED,
    FailureKind.ALERT_PROTOCOL_VERSION: Cause.NOT_A_CONSOLE,
    FailureKind.ALERT: Cause.NOT_A_CONSOLE,
}
_SENTENCES: Final = {
    FailureKind.UNKNOWN_CA: "the Console's certificate is of a CA that is not trusted here",
    FailureKind.EXPIRED: "the Console's certificate has expired",
    FailureKind.NOT_YET_VALID: "the Console's certificate is not valid yet",
    FailureKind.WRONG_NAME: "the Console's certificate does not name this address",
    FailureKind.WRONG_PURPOSE: "the certificate that answered is not a server's",
    FailureKind.NOT_TLS: "what answered does not speak TLS",
    FailureKind.ALERT_EXPIRED: "the Console says that this Defender's certificate has expired",
    FailureKind.ALERT_UNKNOWN_CA: "the Console does not trust the CA of this Defender's certificate",
    FailureKind.ALERT_NO_CERTIFICATE: "the Console requires a certificate of another CA than this Defender's",
    FailureKind.ALERT_REVOKED: "the Console says that this Defender's certificate is revoked",
    FailureKind.ALERT_WRONG_PURPOSE: "the Console says that this Defender's certificate is not a client's",
    FailureKind.ALERT_BAD_CERTIFICATE: "the Console refuses this Defender's certificate",
}

_MOVES: Final = frozenset(
    {
        CloseCode.NORMAL,
        CloseCode.GOING_AWAY,
        CloseCode.RESTARTING,
        CloseCode.TRY_AGAIN,
        CloseCode.NOT_MOVED,
    }
)
_TWIN: Final = (
    "another process with this Defender's instance key took over (if this data folder was copied, remove "
    "instance-key.pem from the copy)"
)
# A wait where only an operator can change what is wrong. Files are the exception: they may come at any time.
_CODES: Final[Mapping[int, tuple[Cause, str, float | None]]] = {
    **dict.fromkeys(REFUSALS, (Cause.REFUSED, "the Console refuses this Defender", REFUSED_WAIT)),
    CloseCode.TRUST_REMOVED: (Cause.REFUSED, "the Console refuses this Defender", None),
    CloseCode.CERTIFICATE_EXPIRED: (Cause.OWN_EXPIRED, "this Defender's certificate has expired", None),
    CloseCode.SILENT: (Cause.LOST, "the Console is no longer heard", None),
    CloseCode.SUPERSEDED: (Cause.CLOSED, _TWIN, REFUSED_WAIT),
}
_ABNORMAL: Final = 1006
"""No close frame came (RFC 6455 §7.1.5)."""


def attempt_failure(error: ConnectionFailed, place: str) -> Failure:
    """Why TCP or TLS didn't come about with the host and port that `place` names."""
    if error.kind is FailureKind.TIMEOUT:
        # Its own words hold the seconds, which differ each time: repeats would not be seen as such.
        return Failure(Cause.UNREACHABLE, f"{place}: no answer in time")
    return _by_kind(error.kind, error.detail)


def close_failure(
    code: int, reason: str, error: Exception | None, *, welcomed: bool, ours: bool = False
) -> Failure:
    """Why a WebSocket didn't come about, or ended.

    Args:
        code: The close code, 1006 without a close frame.
        reason: The peer's words, or ours if we closed.
        error: What the transport or the upgrade ended with, if with an error.
        welcomed: Whether the connection had stood.
        ours: Whether we closed it.
    """
    if isinstance(error, UpgradeRefused):
        return _upgrade_failure(error)
    if code == _ABNORMAL:
        return _broken(reason, error, welcomed=welcomed)
    cause, sentence, retry_after = _closed(code, welcomed=welcomed, ours=ours)
    return Failure(cause, f"{sentence}: {_named(code, reason)}", retry_after, code)


def _closed(code: int, *, welcomed: bool, ours: bool) -> tuple[Cause, str, float | None]:
    """What a close code means: cause, sentence, seconds to stay away."""
    if code in _MOVES:
        return Cause.CLOSED if welcomed else Cause.BUSY, "the Console closed the connection", None
    if code == CloseCode.TRUST_REMOVED and ours:
        return Cause.UNKNOWN_CA, "this Defender closed the connection", None
    return _CODES.get(code, (Cause.PROTOCOL, "the connection was closed", None))


def _broken(reason: str, error: Exception | None, *, welcomed: bool) -> Failure:
    kind = classify(error)
    if kind.is_alert:
        return _by_kind(kind, describe(error))
    if welcomed:
        return Failure(
            Cause.LOST, f"the connection broke: {describe(error) if error else reason or 'closed'}"
        )
    if isinstance(error, TimeoutError):
        return Failure(
            Cause.NOT_A_CONSOLE, "what answered speaks TLS, but does not answer a WebSocket's upgrade"
        )
    if error is not None:
        return _by_kind(kind, describe(error))
    return Failure(Cause.UNREACHABLE, f"the connection ended before it stood: {reason or 'closed'}")


def _by_kind(kind: FailureKind, detail: str) -> Failure:
    cause = _KINDS.get(kind, Cause.UNREACHABLE)
    sentence = _SENTENCES.get(kind)
    return Failure(cause, f"{sentence} ({detail})" if sentence else detail)


def _upgrade_failure(error: UpgradeRefused) -> Failure:
    said = f"(HTTP {error.status})"
    match error.status:
        case 503 | 429:
            return Failure(Cause.BUSY, f"the Console has no room now {said}", error.retry_after)
        case 401 | 403:
            return Failure(Cause.REFUSED, f"the Console refuses this Defender {said}", REFUSED_WAIT)
        case 500 | 502 | 504:
            return Failure(Cause.UNREACHABLE, f"the Console is in trouble {said}", error.retry_after)
    return Failure(Cause.NOT_A_CONSOLE, f"what answered is no Defender channel ({error})")


def _named(code: int, reason: str) -> str:
    try:
        name = CloseCode(code).name.lower().replace("_", " ")
    except ValueError:
        name = f"code {code}"
    return f"{name} ({reason})" if reason else name
