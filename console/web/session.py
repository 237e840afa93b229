"""The browser's side of a login: the session's cookie, and the tokens that our own forms carry.

Both cookies have the prefix `__Host-` (RFC 6265bis §4.1.3.2): a browser takes them only over TLS, for this
host and every path, so that no neighbour can plant one.
"""

import hashlib
import hmac
import re
import secrets
from typing import Final

from aiohttp import web

SESSION_COOKIE: Final = "__Host-garrison-session"
FORM_COOKIE: Final = "__Host-garrison-form"
FORM_FIELD: Final = "form_token"
_FORM_TEXT: Final = re.compile(r"[A-Za-z0-9_-]{16,64}")


def set_session(response: web.StreamResponse, token: str) -> None:
    """Keep a token in the browser until it is closed, out of every script's reach."""
    _set(response, SESSION_COOKIE, token)


def clear_session(response: web.StreamResponse) -> None:
    """Make the browser forget the session."""
    response.del_cookie(SESSION_COOKIE, path="/", secure=True, httponly=True, samesite="Strict")


def session_token(request: web.Request) -> str:
    """The token that the browser keeps, or an empty text."""
    return request.cookies.get(SESSION_COOKIE, "")


class FormTokens:
    """Proves that a form that is posted came from a page of ours, in the browser that posts it.

    The browser keeps a random text in a cookie; the form carries that text's MAC under a key of this process.
    Another site can make the browser send the cookie, at worst, but neither read nor make the MAC.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def issue(self, request: web.Request) -> tuple[str, str]:
        """The text to keep in the cookie (the one that is there, if any) and what the form carries."""
        text = request.cookies.get(FORM_COOKIE, "")
        # Nothing is sent back that isn't of the form that we send.
        if not _FORM_TEXT.fullmatch(text):
            text = secrets.token_urlsafe(16)
        return text, self._mac(text)

    def keep(self, response: web.StreamResponse, text: str) -> None:
        """Put the cookie's text into the browser."""
        _set(response, FORM_COOKIE, text)

    def valid(self, request: web.Request, carried: str) -> bool:
        """Whether the form carries what belongs to the browser's cookie."""
        text = request.cookies.get(FORM_COOKIE, "")
        return bool(text) and hmac.compare_digest(self._mac(text).encode(), carried.encode(errors="replace"))

    def _mac(self, text: str) -> str:
        return hmac.new(self._key, text.encode(errors="replace"), hashlib.sha256).hexdigest()


def _set(response: web.StreamResponse, name: str, value: str) -> None:
    response.set_cookie(name, value, path="/", secure=True, httponly=True, samesite="Strict")
