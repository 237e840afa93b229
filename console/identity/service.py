"""Who is it? Sign-up, passwords and tokens, for the API and the pages alike."""

import logging
from datetime import datetime, timedelta
from typing import Final, Protocol

from common.clock import Clock
from console.identity.basic_cache import BasicCache
from console.identity.outcomes import (
    AlreadyInitialized,
    Authenticated,
    Busy,
    Denied,
    Login,
    Principal,
    Rejected,
    SignedUp,
    Signup,
    Throttled,
)
from console.identity.passwords import (
    PasswordHasher,
    password_fault,
    spelled,
    username_fault,
)
from console.identity.permissions import ADMIN
from console.identity.throttle import LoginThrottle, whole_seconds
from console.identity.tokens import LIFETIME, TokenSigner
from console.store import UserRecord

log = logging.getLogger(__name__)

MAX_REVOKED: Final = 100_000
"""Revoked tokens that are remembered; each ends by itself within the lifetime."""


class UserStore(Protocol):
    """What identity needs of the store."""

    async def count(self) -> int:
        """How many users there are."""
        ...

    async def get(self, username: str) -> UserRecord | None:
        """The user of exactly this name."""
        ...

    async def create_first(self, user: UserRecord) -> bool:
        """Add a user if there is none, in one step; False if there was one."""
        ...

    async def update_password_hash(
        self, username: str, *, expected: str, replacement: str, now: datetime
    ) -> bool:
        """Replace a user's hash if it is still `expected`."""
        ...


class IdentityService:
    """Knows the users.

    Args:
        users: Where they are kept.
        clock: The host's clocks.
        hasher: How passwords are hashed; closed with the service.
        throttle: How long failures keep somebody waiting.
        lifetime: Of a token.
    """

    def __init__(
        self,
        users: UserStore,
        clock: Clock,
        *,
        hasher: PasswordHasher | None = None,
        throttle: LoginThrottle | None = None,
        lifetime: timedelta = LIFETIME,
    ) -> None:
        self._users = users
        self._clock = clock
        self._hasher = hasher or PasswordHasher()
        self._throttle = LoginThrottle() if throttle is None else throttle
        self._signer = TokenSigner(lifetime)
        self._basic = BasicCache()
        self._revoked: dict[str, datetime] = {}

    async def close(self) -> None:
        """End the threads that check passwords; nothing may be asked of the service after."""
        self._hasher.close()

    async def initialized(self) -> bool:
        """Whether the first user has signed up."""
        return await self._users.count() > 0

    async def signup(self, username: str, password: str, address: str) -> Signup:
        """Make the first user, an administrator; of several at once, one succeeds.

        Args:
            username: What to be called.
            password: What to prove it with.
            address: Where the request comes from, for the log.
        """
        # Asked before anything is hashed, so that it costs an outsider nothing to us.
        if await self.initialized():
            return AlreadyInitialized()
        name = spelled(username)
        if fault := username_fault(name) or password_fault(password):
            return Rejected(fault)
        hashed = await self._hasher.hash(password)
        if isinstance(hashed, Busy):
            return hashed
        now = self._clock.now()
        if not await self._users.create_first(UserRecord(name, hashed, ADMIN, "basic", now, now)):
            return AlreadyInitialized()
        log.info("User %s signed up from %s as the first administrator", name, address)
        return SignedUp(Principal(name, ADMIN))

    async def authenticate(self, username: str, password: str, address: str) -> Login:
        """Check a user name and password by Argon2.

        Args:
            username: Whom they say they are.
            password: Their proof.
            address: Where the connection comes from; failures count for it.
        """
        name = spelled(username)
        if throttled := self._throttled(name, address):
            return throttled
        if username_fault(name) or password_fault(password):
            return self._failed(name, address, known=False)
        user = await self._users.get(name)
        right = await self._hasher.verify(user.password_hash if user else None, password)
        if isinstance(right, Busy):
            return right
        if user is None or not right:
            return self._failed(name, address, known=user is not None)
        return await self._succeeded(user, password, address)

    async def verify_basic(self, username: str, password: str, address: str) -> Login:
        """Check credentials that come with every request: as `authenticate`, but cheap when repeated."""
        name = spelled(username)
        # First of all, or the cache would answer guesses that the throttle holds back.
        if throttled := self._throttled(name, address):
            return throttled
        if not (username_fault(name) or password_fault(password)):
            user = await self._users.get(name)
            if user and self._basic.holds(name, password, user.password_hash, self._clock.monotonic()):
                return Authenticated(Principal(user.username, user.role))
        return await self.authenticate(username, password, address)

    def issue(self, principal: Principal) -> str:
        """A token for somebody who just proved who they are."""
        return self._signer.issue(principal.username, principal.role, self._clock.now())

    def verify_token(self, token: str) -> Principal | None:
        """Whose token it is, if it is one of ours, not ended and not revoked."""
        principal = self._signer.verify(token, self._clock.now())
        return None if principal is None or principal.token_id in self._revoked else principal

    async def renew(self, principal: Principal) -> str | None:
        """A new token for the holder of a good one; None if the user is gone since."""
        user = await self._users.get(principal.username)
        return None if user is None else self.issue(Principal(user.username, user.role))

    def revoke(self, principal: Principal) -> None:
        """End a token now: log out."""
        if principal.expires is None:
            return
        now = self._clock.now()
        if len(self._revoked) >= MAX_REVOKED:
            self._revoked = {key: ends for key, ends in self._revoked.items() if ends > now}
        self._revoked[principal.token_id] = principal.expires

    def due(self, principal: Principal) -> bool:
        """Whether a token is to be renewed when it is used: from half of its life on (facts §11)."""
        if principal.issued is None or principal.expires is None:
            return False
        return self._clock.now() - principal.issued >= (principal.expires - principal.issued) / 2

    def remaining(self, principal: Principal) -> float:
        """Seconds until a token ends; 0 if it has ended or was revoked."""
        if principal.expires is None or principal.token_id in self._revoked:
            return 0.0
        return max(0.0, (principal.expires - self._clock.now()).total_seconds())

    def _throttled(self, username: str, address: str) -> Throttled | None:
        seconds = self._throttle.wait(username, address, self._clock.monotonic())
        return Throttled(whole_seconds(seconds)) if seconds > 0 else None

    def _failed(self, username: str, address: str, *, known: bool) -> Denied:
        self._throttle.failed(username, address, self._clock.monotonic())
        # A password typed into the wrong field must not end up in the log: only known names do.
        log.warning("Failed login of %s from %s", username if known else "an unknown user", address)
        return Denied()

    async def _succeeded(self, user: UserRecord, password: str, address: str) -> Authenticated:
        self._throttle.succeeded(user.username, address)
        stored = await self._rehashed(user, password)
        self._basic.add(user.username, password, stored, self._clock.monotonic())
        log.info("User %s logged in from %s", user.username, address)
        return Authenticated(Principal(user.username, user.role))

    async def _rehashed(self, user: UserRecord, password: str) -> str:
        """The stored hash, made anew if it is of another cost than today's."""
        if not self._hasher.outdated(user.password_hash):
            return user.password_hash
        replacement = await self._hasher.hash(password)
        if isinstance(replacement, Busy):
            return user.password_hash
        done = await self._users.update_password_hash(
            user.username, expected=user.password_hash, replacement=replacement, now=self._clock.now()
        )
        return replacement if done else user.password_hash
