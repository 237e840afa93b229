from hypothesis import given, settings
from hypothesis import strategies as st

from common.protocol import MAX_REASON_BYTES, REFUSALS, CloseCode, close_reason
from common.protocol.codes import printable


def test_codes_of_our_own_are_private_use_and_documented() -> None:
    for code in CloseCode:
        assert 1000 <= code < 2000 or 4000 <= code < 5000
        assert f"{code.name}:" in (CloseCode.__doc__ or "")


def test_codes_do_not_change_unnoticed() -> None:
    assert {code.name: int(code) for code in CloseCode} == {
        "NORMAL": 1000,
        "GOING_AWAY": 1001,
        "INVALID_DATA": 1007,
        "POLICY": 1008,
        "TOO_BIG": 1009,
        "INTERNAL_ERROR": 1011,
        "TRY_AGAIN": 1013,
        "HELLO_TIMEOUT": 4001,
        "IDENTITY_REFUSED": 4002,
        "SUPERSEDED": 4003,
        "LOCKED": 4004,
        "RESTARTING": 4005,
        "AWAITING_APPROVAL": 4006,
        "SILENT": 4007,
        "NOT_MOVED": 4008,
        "TRUST_REMOVED": 4009,
        "VERSION_REFUSED": 4010,
        "CERTIFICATE_EXPIRED": 4011,
    }


def test_refusals_are_what_only_an_operator_changes() -> None:
    assert CloseCode.LOCKED in REFUSALS
    assert CloseCode.SUPERSEDED not in REFUSALS
    assert CloseCode.TRY_AGAIN not in REFUSALS


def test_a_reason_is_cut_between_characters() -> None:
    assert close_reason("no Hello in time") == "no Hello in time"
    assert close_reason("ü" * 100) == "ü" * 61
    assert close_reason("a\r\nb\x00c\ud800") == "a??b?c?"


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet=st.characters(), max_size=300))
def test_any_reason_fits_a_close_frame(text: str) -> None:
    reason = close_reason(text)
    assert len(reason.encode()) <= MAX_REASON_BYTES
    assert reason.isprintable()


def test_printable_text_is_left_alone() -> None:
    text = "größer"
    assert printable(text) is text
