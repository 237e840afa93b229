"""Tokens: a JWT (RFC 7519) signed with HS256 under a key that only this process has.

A Console's restart ends every session (product facts §11), which is what a key that is never stored gives.
Since no other process can judge a token, its end is told by this one's monotonic clock: a host's wall clock
that is set back brings no token back to life. The claims `iat` and `exp` are for clients to read.
"""

import secrets
from datetime import datetime, timedelta
from typing import Any, Final

import jwt

from console.identity.outcomes import Principal

LIFETIME: Final = timedelta(minutes=30)
"""Product facts §0, token lifetime."""

ALGORITHM: Final = "HS256"
AUDIENCE: Final = "garrison-console"
SESSION: Final = "sid"
"""The claim that all tokens of one login share (OpenID Connect Front-Channel Logout §3)."""
MADE: Final = "made"
"""The claim of when a token was made: seconds of the monotonic clock since the signer was."""
MAX_TOKEN_CHARACTERS: Final = 2048
"""Ours have about 350; more isn't worth decoding."""

# PyJWT would look at the host's wall clock.
_OPTIONS: Final[Any] = {
    "require": ["sub", "role", "jti", "iat", "exp", "aud", SESSION, MADE],
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}


class TokenSigner:
    """Makes tokens, and knows its own again.

    Args:
        lifetime: From a token's making to its end.
        start: The monotonic clock now; tokens count from it, so that none tells how long the host is up.
    """

    def __init__(self, lifetime: timedelta = LIFETIME, *, start: float = 0.0) -> None:
        self._key = secrets.token_bytes(32)
        self._start = start
        self.lifetime = lifetime
        self._header = jwt.encode({}, self._key, algorithm=ALGORITHM).partition(".")[0]

    def issue(self, principal: Principal, now: datetime, ticks: float) -> str:
        """A token for somebody, valid from now for the lifetime, in their session or a new one.

        Args:
            principal: Whose it is.
            now: The wall clock, for clients.
            ticks: The monotonic clock.
        """
        claims = {
            "sub": principal.username,
            "role": principal.role,
            "jti": secrets.token_urlsafe(16),
            "iat": int(now.timestamp()),
            "exp": int((now + self.lifetime).timestamp()),
            "aud": AUDIENCE,
            SESSION: principal.session or secrets.token_urlsafe(16),
            MADE: ticks - self._start,
        }
        return jwt.encode(claims, self._key, algorithm=ALGORITHM)

    def verify(self, token: str, ticks: float) -> Principal | None:
        """Whose token it is; None if it isn't one of ours, or has ended by the monotonic clock."""
        # Ours all begin alike: nothing of a stranger's is taken apart before its signature is checked.
        if (
            len(token) > MAX_TOKEN_CHARACTERS
            or not token.isascii()
            or token.partition(".")[0] != self._header
        ):
            return None
        try:
            claims = jwt.decode(token, self._key, algorithms=[ALGORITHM], audience=AUDIENCE, options=_OPTIONS)
        except jwt.InvalidTokenError:
            return None
        # Signed by us, so the types are those of `issue`.
        issued = self._start + claims[MADE]
        expires = issued + self.lifetime.total_seconds()
        if ticks >= expires:
            return None
        return Principal(claims["sub"], claims["role"], claims[SESSION], issued, expires)
