import ctypes
import ssl
import sys

import pytest

from common.certificates import openssl
from common.certificates.openssl import KNOWN, prepare

CONTEXTS = [ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT]


@pytest.fixture
def fresh() -> None:
    openssl._library.cache_clear()


def mode(context: ssl.SSLContext) -> int:
    """What OpenSSL says of the context."""
    library = openssl._library()
    address = ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value
    found: int = library.SSL_CTX_ctrl(address, 33, 0, None)
    return found


@pytest.mark.skipif(sys.version_info[:2] not in KNOWN, reason="this Python has not been looked up")
@pytest.mark.parametrize("protocol", CONTEXTS)
def test_both_modes_are_set_and_nothing_else_changes(protocol: int) -> None:
    context, other = ssl.SSLContext(protocol), ssl.SSLContext(protocol)
    before, options = mode(context), context.options
    assert before & 0x4
    assert not before & 0x8
    assert prepare(context)
    assert mode(context) == (before & ~0x4) | 0x8
    assert context.options == options
    assert mode(other) == before


def test_another_python_is_left_alone(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssl, "KNOWN", frozenset())
    assert not prepare(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    openssl._library.cache_clear()


def test_what_does_not_answer_like_the_context_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        def SSL_CTX_get_options(self, _: int) -> int:  # noqa: N802
            return 1

    monkeypatch.setattr(openssl, "_library", Elsewhere)
    assert not prepare(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
