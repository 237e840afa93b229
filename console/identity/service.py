"""Who is it? Sign-up, passwords and tokens, for the API and the pages alike."""

import logging
from collections import OrderedDict
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
    new_password_fault,
    password_fault,
    spelled,
    username_fault,
)
from console.identity.permissions import ADMIN
from console.identity.throttle import Attempt, LoginThrottle, whole_seconds
from console.identity.tokens import LIFETIME, TokenSigner
from console.identity.turns import Turns
from console.store import UserRecord

log = logging.getLogger(__name__)

MAX_REVOKED: Final = 100_000
"""Sessions that are remembered as ended, each for as long as a token of it could be good."""


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
        self._turns = Turns()
        self._signer = TokenSigner(lifetime, start=clock.monotonic())
        self._basic = BasicCache()
        self._initialized = False
        # Session to when it was ended, the oldest first.
        self._revoked: OrderedDict[str, float] = OrderedDict()
        self._none_before = float("-inf")

    async def close(self) -> None:
        """End the threads that check passwords; nothing may be asked of the service after."""
        self._hasher.close()

    async def initialized(self) -> bool:
        """Whether the first user has signed up, which nothing undoes."""
        if not self._initialized:
            self._initialized = await self._users.count() > 0
        return self._initialized

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
        if fault := username_fault(name) or new_password_fault(password):
            return Rejected(fault)
        async with self._turns.take(address) as mine:
            return await self._sign_up(name, password, address) if mine else Busy()

    async def _sign_up(self, name: str, password: str, address: str) -> Signup:
        # Somebody may have been first while this one waited.
        if await self.initialized():
            return AlreadyInitialized()
        hashed = await self._hasher.hash(password)
        if isinstance(hashed, Busy):
            return hashed
        now = self._clock.now()
        if not await self._users.create_first(UserRecord(name, hashed, ADMIN, "basic", now, now)):
            return AlreadyInitialized()
        self._initialized = True
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
        # Whoever has to wait anyway doesn't stand in the line of those who don't.
        if throttled := self._throttled(name, address):
            return throttled
        async with self._turns.take(address) as mine:
            return await self._log_in(name, password, address) if mine else Busy()

    async def _log_in(self, name: str, password: str, address: str) -> Login:
        user = None
        if possible := not (username_fault(name) or password_fault(password)):
            user = await self._users.get(name)
        # Nothing is awaited between the look at the throttle and the count: however many come at once, each
        # is looked at after the count of the one before.
        if throttled := self._throttled(name, address):
            return throttled
        attempt = self._throttle.attempt(name, address, self._clock.monotonic())
        if not possible:
            return self._failed(name, address, known=False)
        right = await self._hasher.verify(user.password_hash if user else None, password)
        if isinstance(right, Busy):
            self._throttle.take_back(attempt)
            return right
        if user is None or not right:
            return self._failed(name, address, known=user is not None)
        return await self._succeeded(user, password, address, attempt)

    async def verify_basic(self, username: str, password: str, address: str) -> Login:
        """Check credentials that come with every request: as `authenticate`, but cheap when repeated."""
        name = spelled(username)
        if known := await self._remembered(name, password, address):
            return known
        async with self._turns.take(address) as mine:
            if not mine:
                return Busy()
            # The same credentials may just have been checked for another request of the same script.
            return await self._remembered(name, password, address) or await self._log_in(
                name, password, address
            )

    async def _remembered(self, name: str, password: str, address: str) -> Authenticated | Throttled | None:
        # First of all, or the cache would answer guesses that the throttle holds back.
        if throttled := self._throttled(name, address):
            return throttled
        if username_fault(name) or password_fault(password):
            return None
        user = await self._users.get(name)
        if user and self._basic.holds(name, password, user.password_hash, self._clock.monotonic()):
            return Authenticated(Principal(user.username, user.role))
        return None

    def issue(self, principal: Principal) -> str:
        """A token for somebody who just proved who they are: of the session they have, or of a new one."""
        return self._signer.issue(principal, self._clock.now(), self._clock.monotonic())

    def verify_token(self, token: str) -> Principal | None:
        """Whose token it is, if it is one of ours, not ended and of no session that was ended."""
        principal = self._signer.verify(token, self._clock.monotonic())
        return None if principal is None or self._ended(principal) else principal

    async def renew(self, principal: Principal) -> str | None:
        """A new token for the holder of a good one; None if the user or the session is gone since."""
        user = await self._users.get(principal.username)
        # Looked at after the wait: a token that is made after a log-out would outlive the memory of it.
        if user is None or self._ended(principal):
            return None
        return self.issue(Principal(user.username, user.role, principal.session))

    def revoke(self, principal: Principal) -> None:
        """End a session now, with all tokens that were made in it: log out."""
        if not principal.session:
            return
        now = self._clock.monotonic()
        self._revoked.setdefault(principal.session, now)
        self._forget(now - self._signer.lifetime.total_seconds())

    def due(self, principal: Principal) -> bool:
        """Whether a token is to be renewed when it is used: from half of its life on (facts §11)."""
        if principal.issued is None or principal.expires is None:
            return False
        return self._clock.monotonic() - principal.issued >= (principal.expires - principal.issued) / 2

    def remaining(self, principal: Principal) -> float:
        """Seconds until a token ends; 0 if it has ended or its session was."""
        if principal.expires is None or self._ended(principal):
            return 0.0
        return max(0.0, principal.expires - self._clock.monotonic())

    def _forget(self, before: float) -> None:
        """Drop what was ended up to then, since every token of it is over, and what is too much."""
        while self._revoked:
            session, ended = next(iter(self._revoked.items()))
            if len(self._revoked) > MAX_REVOKED:
                # Better that everybody logs in again than that one who logged out is in again.
                self._none_before = ended
            elif ended > before:
                return
            del self._revoked[session]

    def _ended(self, principal: Principal) -> bool:
        """Whether the session was ended; a password has none that could."""
        issued = principal.issued
        return principal.session in self._revoked or (issued is not None and issued <= self._none_before)

    def _throttled(self, username: str, address: str) -> Throttled | None:
        seconds = self._throttle.wait(username, address, self._clock.monotonic())
        return Throttled(whole_seconds(seconds)) if seconds > 0 else None

    def _failed(self, username: str, address: str, *, known: bool) -> Denied:
        # A password typed into the wrong field must not end up in the log: only known names do.
        log.warning("Failed login of %s from %s", username if known else "an unknown user", address)
        return Denied()

    async def _succeeded(
        self, user: UserRecord, password: str, address: str, attempt: Attempt
    ) -> Authenticated:
        self._throttle.succeeded(attempt)
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
