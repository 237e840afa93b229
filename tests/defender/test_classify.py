import errno
import os
import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.protocol import REFUSALS, CloseCode
from common.transport import ConnectionFailed, FailureKind, UpgradeRefused
from defender.causes import Cause
from defender.classify import REFUSED_WAIT, attempt_failure, close_failure


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (FailureKind.UNKNOWN_CA, Cause.UNKNOWN_CA),
        (FailureKind.EXPIRED, Cause.CONSOLE_EXPIRED),
        (FailureKind.NOT_YET_VALID, Cause.CONSOLE_EXPIRED),
        (FailureKind.WRONG_NAME, Cause.WRONG_NAME),
        (FailureKind.WRONG_PURPOSE, Cause.NOT_A_CONSOLE),
        (FailureKind.NOT_TLS, Cause.NOT_A_CONSOLE),
        (FailureKind.PROTOCOL_VERSION, Cause.NOT_A_CONSOLE),
        (FailureKind.ALERT_EXPIRED, Cause.OWN_EXPIRED),
        (FailureKind.ALERT_UNKNOWN_CA, Cause.REFUSED),
        (FailureKind.ALERT_REVOKED, Cause.REFUSED),
        (FailureKind.ALERT_NO_CERTIFICATE, Cause.REFUSED),
        (FailureKind.ALERT_WRONG_PURPOSE, Cause.REFUSED),
        (FailureKind.REFUSED, Cause.UNREACHABLE),
        (FailureKind.UNREACHABLE, Cause.UNREACHABLE),
        (FailureKind.TIMEOUT, Cause.UNREACHABLE),
        (FailureKind.RESET, Cause.UNREACHABLE),
        (FailureKind.OTHER, Cause.UNREACHABLE),
    ],
)
def test_each_kind_has_its_cause(kind: FailureKind, cause: Cause) -> None:
    failure = attempt_failure(ConnectionFailed(kind, "words"), "host:1")
    assert failure.cause is cause


@pytest.mark.parametrize("kind", FailureKind)
def test_no_kind_is_forgotten(kind: FailureKind) -> None:
    assert attempt_failure(ConnectionFailed(kind, "words"), "host:1").detail


def test_repeated_timeouts_read_the_same() -> None:
    """Whatever part of the time was left for an address."""
    details = {
        attempt_failure(ConnectionFailed(FailureKind.TIMEOUT, f"no connection in {s} s"), "host:1").detail
        for s in (1.0, 1.01)
    }
    assert details == {"host:1: no answer in time"}


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (503, Cause.BUSY), (429, Cause.BUSY), (403, Cause.REFUSED), (401, Cause.REFUSED),
        (502, Cause.UNREACHABLE), (500, Cause.UNREACHABLE), (404, Cause.NOT_A_CONSOLE),
        (200, Cause.NOT_A_CONSOLE), (426, Cause.NOT_A_CONSOLE), (0, Cause.NOT_A_CONSOLE),
    ],
)  # fmt: skip
def test_each_status_of_an_upgrade_has_its_cause(status: int, cause: Cause) -> None:
    refused = UpgradeRefused(status, "words", 7)
    failure = close_failure(1006, "", refused, welcomed=False)
    assert failure.cause is cause
    if cause is Cause.BUSY:
        assert failure.retry_after == 7


@pytest.mark.parametrize("code", sorted(REFUSALS))
def test_a_refusal_keeps_us_away(code: CloseCode) -> None:
    failure = close_failure(code, "why", None, welcomed=False)
    assert failure.cause is Cause.REFUSED
    assert failure.retry_after == REFUSED_WAIT
    assert "why" in failure.detail
    assert failure.code == code


@pytest.mark.parametrize(
    ("code", "welcomed", "cause"),
    [
        (CloseCode.RESTARTING, True, Cause.CLOSED),
        (CloseCode.RESTARTING, False, Cause.BUSY),
        (CloseCode.TRY_AGAIN, False, Cause.BUSY),
        (CloseCode.NOT_MOVED, True, Cause.CLOSED),
        (CloseCode.TRUST_REMOVED, True, Cause.REFUSED),
        (CloseCode.CERTIFICATE_EXPIRED, True, Cause.OWN_EXPIRED),
        (CloseCode.SILENT, True, Cause.LOST),
        (CloseCode.SUPERSEDED, True, Cause.CLOSED),
        (CloseCode.POLICY, True, Cause.PROTOCOL),
        (CloseCode.INVALID_DATA, False, Cause.PROTOCOL),
        (CloseCode.HELLO_TIMEOUT, False, Cause.PROTOCOL),
    ],
)
def test_each_close_has_its_cause(code: CloseCode, *, welcomed: bool, cause: Cause) -> None:
    assert close_failure(code, "", None, welcomed=welcomed).cause is cause


@pytest.mark.parametrize("code", [CloseCode.TRUST_REMOVED, CloseCode.CERTIFICATE_EXPIRED])
def test_what_new_files_mend_waits_for_no_operator(code: CloseCode) -> None:
    """They may lie here before the Console has theirs, or come at any moment."""
    assert close_failure(code, "", None, welcomed=True).retry_after is None


def test_trust_that_we_removed_is_told_from_trust_that_the_console_removed() -> None:
    ours = close_failure(CloseCode.TRUST_REMOVED, "our words", None, welcomed=True, ours=True)
    assert (ours.cause, ours.detail) == (
        Cause.UNKNOWN_CA,
        "this Defender closed the connection: trust removed (our words)",
    )
    theirs = close_failure(CloseCode.TRUST_REMOVED, "their words", None, welcomed=True)
    assert theirs.detail == "the Console refuses this Defender: trust removed (their words)"


def test_a_twin_is_explained() -> None:
    failure = close_failure(CloseCode.SUPERSEDED, "", None, welcomed=True)
    assert "instance-key.pem from the copy" in failure.detail
    assert failure.retry_after == REFUSED_WAIT


@pytest.mark.parametrize("welcomed", [False, True])
def test_an_alert_counts_whenever_it_comes(*, welcomed: bool) -> None:
    alert = ssl.SSLError(1, "[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED] words (_ssl.c:1)")
    alert.reason = "SSLV3_ALERT_CERTIFICATE_EXPIRED"
    assert close_failure(1006, "", alert, welcomed=welcomed).cause is Cause.OWN_EXPIRED


@pytest.mark.parametrize(
    "error",
    [
        None,
        ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)),
        TimeoutError(),
        socket.gaierror(),
    ],
)
def test_a_connection_that_stood_and_broke_is_lost(error: Exception | None) -> None:
    assert close_failure(1006, "", error, welcomed=True).cause is Cause.LOST


def test_an_upgrade_that_never_comes_is_no_consoles() -> None:
    assert close_failure(1006, "", TimeoutError(), welcomed=False).cause is Cause.NOT_A_CONSOLE


@given(code=st.integers(0, 65535), reason=st.text(max_size=50), welcomed=st.booleans())
def test_any_close_is_a_failure_in_words(code: int, reason: str, welcomed: bool) -> None:
    failure = close_failure(code, reason, None, welcomed=welcomed)
    assert failure.detail
    assert failure.cause.exit_code >= 10
