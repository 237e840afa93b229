"""Tokens: a JWT (RFC 7519) signed with HS256 under a key that only this process has.

A Console's restart ends every session (product facts §11), which is what a key that is never stored gives.
"""

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import jwt

from console.identity.outcomes import Principal

LIFETIME: Final = timedelta(minutes=30)
"""Product facts §0, token lifetime."""

ALGORITHM: Final = "HS256"
AUDIENCE: Final = "garrison-console"
MAX_TOKEN_CHARACTERS: Final = 2048
"""Ours have about 300; more isn't worth decoding."""

# Dates are judged by our own clock, which is a parameter; PyJWT would look at the host's.
_OPTIONS: Final[Any] = {
    "require": ["sub", "role", "jti", "iat", "exp", "aud"],
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}


class TokenSigner:
    """Makes tokens, and knows its own again.

    Args:
        lifetime: From a token's making to its end.
    """

    def __init__(self, lifetime: timedelta = LIFETIME) -> None:
        self._key = secrets.token_bytes(32)
        self.lifetime = lifetime

    def issue(self, username: str, role: str, now: datetime) -> str:
        """A token for a user, valid from `now` for the lifetime."""
        claims = {
            "sub": username,
            "role": role,
            "jti": secrets.token_urlsafe(16),
            "iat": int(now.timestamp()),
            "exp": int((now + self.lifetime).timestamp()),
            "aud": AUDIENCE,
        }
        return jwt.encode(claims, self._key, algorithm=ALGORITHM)

    def verify(self, token: str, now: datetime) -> Principal | None:
        """Whose token it is; None if it isn't one of ours, or not valid at `now`."""
        if len(token) > MAX_TOKEN_CHARACTERS:
            return None
        try:
            claims = jwt.decode(token, self._key, algorithms=[ALGORITHM], audience=AUDIENCE, options=_OPTIONS)
        except jwt.InvalidTokenError:
            return None
        # Signed by us, so the types are those of `issue`.
        issued, expires = (datetime.fromtimestamp(claims[name], UTC) for name in ("iat", "exp"))
        if now >= expires:
            return None
        return Principal(claims["sub"], claims["role"], claims["jti"], issued, expires)
