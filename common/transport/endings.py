"""How a WebSocket connection ended, as its owner is told."""

import ssl
from typing import Final

from websockets.frames import CloseCode
from websockets.protocol import Protocol as WSProtocol

from common.transport.idle_frames import TooManyFrames

_MAX_REASON: Final = 123
"""Octets of a close frame's reason (RFC 6455 §5.5, §5.5.1)."""


class PeerTooSlow(Exception):  # noqa: N818 - says what is the matter
    """The peer did not read what was queued for it."""


def clip(reason: str) -> str:
    """What fits into a close frame, cut where a character ends."""
    return reason.encode()[:_MAX_REASON].decode(errors="ignore")


def outcome(protocol: WSProtocol, exc: Exception | None) -> tuple[int, str]:
    """The code and the reason that tell how it ended."""
    if isinstance(exc, PeerTooSlow):
        return CloseCode.TRY_AGAIN_LATER, str(exc)
    sent, received = protocol.close_sent, protocol.close_rcvd
    if received is not None:
        return received.code, received.reason
    fault = isinstance(exc, UnicodeDecodeError | TooManyFrames) or protocol.parser_exc is not None
    if sent is not None and fault and not isinstance(protocol.parser_exc, EOFError):
        return sent.code, sent.reason
    return CloseCode.ABNORMAL_CLOSURE, _why(exc)


def _why(exc: Exception | None) -> str:
    if isinstance(exc, ssl.SSLError | OSError):
        from common.transport.failures import describe

        return describe(exc)
    return str(exc) if exc else "the peer closed the connection without a word"
