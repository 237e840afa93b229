import asyncio
import threading
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Literal, cast

import argon2
import pytest

from console.identity import (
    AlreadyInitialized,
    Authenticated,
    Busy,
    Denied,
    IdentityService,
    LoginThrottle,
    PasswordHasher,
    Principal,
    Rejected,
    Rule,
    SignedUp,
    Throttled,
    UserStore,
)
from console.store import Store
from tests.console.api.world import CHEAP, PASSWORD, USER, SetClock

HOME = "192.0.2.1"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with await Store.open(tmp_path / "data") as opened:
        yield opened


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def identity(store: Store, clock: SetClock) -> AsyncIterator[IdentityService]:
    service = IdentityService(
        store.users,
        clock,
        hasher=PasswordHasher(CHEAP, waiting=60),
        throttle=LoginThrottle(by_user=Rule(free=3, first=4.0)),
    )
    yield service
    await service.close()


async def test_the_first_user_is_the_administrator(store: Store, identity: IdentityService) -> None:
    assert not await identity.initialized()
    assert await identity.signup(USER, PASSWORD, HOME) == SignedUp(Principal(USER, "admin"))
    assert await identity.initialized()
    user = await store.users.get(USER)
    assert user is not None
    assert (user.role, user.auth_type) == ("admin", "basic")
    assert PASSWORD not in repr(user)
    assert await identity.signup("other", PASSWORD, HOME) == AlreadyInitialized()


async def test_of_many_at_once_one_succeeds(store: Store, identity: IdentityService) -> None:
    outcomes = await asyncio.gather(*(identity.signup(f"u{n}", PASSWORD, HOME) for n in range(20)))
    assert sum(isinstance(outcome, SignedUp) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, AlreadyInitialized) for outcome in outcomes) == 19
    assert await store.users.count() == 1


@pytest.mark.parametrize(
    ("name", "password"),
    [("", PASSWORD), ("u", ""), ("a:b", PASSWORD), ("u", "x" * 1025), ("u", "x"), ("u", "1234567")],
)
async def test_sign_up_refuses(identity: IdentityService, name: str, password: str) -> None:
    assert isinstance(await identity.signup(name, password, HOME), Rejected)
    assert not await identity.initialized()


async def test_names_and_passwords_have_one_spelling(identity: IdentityService) -> None:
    await identity.signup("zoë", "pässword", HOME)
    outcome = await identity.authenticate("zoe\u0308", "pa\u0308ssword", HOME)
    assert outcome == Authenticated(Principal("zoë", "admin"))


async def test_wrong_is_denied_whoever_it_is(identity: IdentityService) -> None:
    await identity.signup(USER, PASSWORD, HOME)
    for name, password in [
        (USER, "wrong"),
        ("nobody", PASSWORD),
        ("", ""),
        (USER, ""),
        (USER.upper(), PASSWORD),
    ]:
        assert await identity.authenticate(name, password, HOME) == Denied()
        assert await identity.verify_basic(name, password, "192.0.2.2") == Denied()


async def test_failures_wait_and_success_resets(identity: IdentityService, clock: SetClock) -> None:
    await identity.signup(USER, PASSWORD, HOME)
    for _ in range(4):
        assert await identity.authenticate(USER, "wrong", HOME) == Denied()
    assert await identity.authenticate(USER, PASSWORD, HOME) == Throttled(4)
    assert isinstance(await identity.authenticate(USER, PASSWORD, "192.0.2.9"), Authenticated)
    clock.advance(4)
    assert isinstance(await identity.authenticate(USER, PASSWORD, HOME), Authenticated)
    assert await identity.authenticate(USER, "wrong", HOME) == Denied()
    assert isinstance(await identity.authenticate(USER, PASSWORD, HOME), Authenticated)


async def test_the_cache_answers_no_guess_that_has_to_wait(identity: IdentityService) -> None:
    await identity.signup(USER, PASSWORD, HOME)
    assert isinstance(await identity.verify_basic(USER, PASSWORD, HOME), Authenticated)
    for _ in range(4):
        await identity.verify_basic(USER, "wrong", HOME)
    assert isinstance(await identity.verify_basic(USER, PASSWORD, HOME), Throttled)


async def test_basic_credentials_are_cheap_the_second_time_and_end_with_the_password(
    store: Store, clock: SetClock
) -> None:
    checks = 0

    class Counting(argon2.PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002
            nonlocal checks
            checks += 1
            return super().verify(hash, password)

    hasher = PasswordHasher(Counting(time_cost=1, memory_cost=8, parallelism=1))
    identity = IdentityService(store.users, clock, hasher=hasher)
    await identity.signup(USER, PASSWORD, HOME)
    for _ in range(5):
        assert isinstance(await identity.verify_basic(USER, PASSWORD, HOME), Authenticated)
    assert checks == 1
    clock.advance(61)
    assert isinstance(await identity.verify_basic(USER, PASSWORD, HOME), Authenticated)
    assert checks == 2
    user = await store.users.get(USER)
    assert user is not None
    assert await store.users.update_password_hash(
        USER, expected=user.password_hash, replacement=CHEAP.hash("new"), now=clock.now()
    )
    assert await identity.verify_basic(USER, PASSWORD, HOME) == Denied()
    await identity.close()


async def test_an_outdated_hash_is_made_anew_at_login(store: Store, clock: SetClock) -> None:
    old = IdentityService(store.users, clock, hasher=PasswordHasher(CHEAP))
    await old.signup(USER, PASSWORD, HOME)
    await old.close()
    dearer = argon2.PasswordHasher(time_cost=2, memory_cost=8, parallelism=1)
    new = IdentityService(store.users, clock, hasher=PasswordHasher(dearer))
    assert isinstance(await new.authenticate(USER, PASSWORD, HOME), Authenticated)
    user = await store.users.get(USER)
    assert user is not None
    assert not dearer.check_needs_rehash(user.password_hash)
    assert isinstance(await new.authenticate(USER, PASSWORD, HOME), Authenticated)
    await new.close()


async def test_too_many_at_once_are_told_to_come_back(store: Store, clock: SetClock) -> None:
    identity = IdentityService(store.users, clock, hasher=PasswordHasher(threads=1, waiting=1))
    outcomes = await asyncio.gather(*(identity.authenticate(f"u{n}", "p", f"192.0.2.{n}") for n in range(10)))
    assert outcomes.count(Busy()) == 8
    assert outcomes.count(Denied()) == 2
    await identity.close()


async def test_tokens(identity: IdentityService, clock: SetClock) -> None:
    await identity.signup(USER, PASSWORD, HOME)
    principal = identity.verify_token(identity.issue(Principal(USER, "admin")))
    assert principal is not None
    assert (principal.username, principal.role) == (USER, "admin")
    assert identity.remaining(principal) == 1800
    assert not identity.due(principal)
    clock.advance(900)
    assert identity.due(principal)
    assert identity.remaining(principal) == 900
    token = await identity.renew(principal)
    assert token is not None
    renewed = identity.verify_token(token)
    assert renewed is not None
    assert renewed.expires == clock.monotonic() + 1800
    assert renewed.session == principal.session


def sessions_of(identity: IdentityService, *tokens: str | None) -> list[bool]:
    return [token is not None and identity.verify_token(token) is not None for token in tokens]


async def test_log_out_ends_every_token_of_the_session(identity: IdentityService) -> None:
    await identity.signup(USER, PASSWORD, HOME)
    first = identity.issue(Principal(USER, "admin"))
    another_login = identity.issue(Principal(USER, "admin"))
    principal = identity.verify_token(first)
    assert principal is not None
    second = await identity.renew(principal)
    assert second is not None
    renewed = identity.verify_token(second)
    assert renewed is not None
    third = await identity.renew(renewed)
    assert sessions_of(identity, first, second, third, another_login) == [True] * 4
    identity.revoke(renewed)
    assert sessions_of(identity, first, second, third, another_login) == [False] * 3 + [True]
    assert identity.remaining(principal) == identity.remaining(renewed) == 0
    assert await identity.renew(principal) is None


async def test_a_step_of_the_wall_clock_moves_no_end(identity: IdentityService, clock: SetClock) -> None:
    token = identity.issue(Principal(USER, "admin"))
    clock.advance(1799)
    clock.step(timedelta(days=1))
    assert sessions_of(identity, token) == [True]
    clock.advance(1)
    clock.step(timedelta(days=-2))
    assert sessions_of(identity, token) == [False]


class Watched(argon2.PasswordHasher):
    """Counts the checks, and how many ran at once."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.checks = self.running = self.most = 0
        self._lock = threading.Lock()

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002
        with self._lock:
            self.checks += 1
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            time.sleep(0.01)
            return super().verify(hash, password)
        finally:
            with self._lock:
                self.running -= 1


@pytest.fixture
async def watched(store: Store, clock: SetClock) -> AsyncIterator[tuple[IdentityService, Watched]]:
    argon = Watched()
    service = IdentityService(store.users, clock, hasher=PasswordHasher(argon, threads=8))
    await service.signup(USER, PASSWORD, HOME)
    yield service, argon
    await service.close()


@pytest.mark.parametrize("how", ["authenticate", "verify_basic"])
async def test_guesses_at_once_are_held_back_as_one_by_one(
    watched: tuple[IdentityService, Watched], how: str
) -> None:
    identity, argon = watched
    ask = getattr(identity, how)
    outcomes = await asyncio.gather(*(ask(USER, f"guess {n}", "192.0.2.2") for n in range(40)))
    # Five are free, the sixth is looked at and begins the wait (BY_USER).
    assert argon.checks == 6
    assert outcomes.count(Denied()) == 6
    assert outcomes.count(Throttled(1)) == 28
    assert outcomes.count(Busy()) == 6
    assert isinstance(await identity.authenticate(USER, PASSWORD, HOME), Authenticated)


async def test_one_address_has_two_checks_at_a_time(watched: tuple[IdentityService, Watched]) -> None:
    identity, argon = watched
    await asyncio.gather(*(identity.authenticate(f"u{n}", "guess", "192.0.2.2") for n in range(12)))
    assert (argon.checks, argon.most) == (12, 2)
    await asyncio.gather(*(identity.authenticate(f"u{n}", "guess", f"192.0.2.{n}") for n in range(12)))
    assert argon.most > 2


async def test_right_credentials_at_once_cost_two_checks(watched: tuple[IdentityService, Watched]) -> None:
    identity, argon = watched
    outcomes = await asyncio.gather(*(identity.verify_basic(USER, PASSWORD, HOME) for _ in range(20)))
    assert all(isinstance(outcome, Authenticated) for outcome in outcomes)
    assert argon.checks <= 2


async def test_who_was_told_to_come_back_has_not_failed(store: Store, clock: SetClock) -> None:
    identity = IdentityService(store.users, clock, hasher=PasswordHasher(CHEAP, threads=1, waiting=0))
    await identity.signup(USER, PASSWORD, HOME)
    for n in range(20):
        outcomes = await asyncio.gather(
            identity.authenticate("other", "wrong", f"198.51.100.{n}"),
            identity.authenticate(USER, PASSWORD, HOME),
        )
        assert outcomes[1] in (Busy(), Authenticated(Principal(USER, "admin")))
    assert isinstance(await identity.authenticate(USER, PASSWORD, HOME), Authenticated)
    await identity.close()


async def test_sign_up_is_looked_up_until_it_is_done(store: Store, clock: SetClock) -> None:
    class Counting:
        asked = 0

        async def count(self) -> int:
            self.asked += 1
            return await store.users.count()

    users = Counting()
    for name in ("get", "create_first", "update_password_hash"):
        setattr(users, name, getattr(store.users, name))
    identity = IdentityService(cast("UserStore", users), clock, hasher=PasswordHasher(CHEAP))
    assert not await identity.initialized()
    await identity.signup(USER, PASSWORD, HOME)
    asked = users.asked
    for _ in range(5):
        assert await identity.initialized()
    assert users.asked == asked
    await identity.close()


async def test_nothing_is_renewed_for_who_is_gone(identity: IdentityService) -> None:
    assert await identity.renew(Principal("gone", "admin")) is None


async def test_a_revoked_token_is_worth_nothing(identity: IdentityService, clock: SetClock) -> None:
    token = identity.issue(Principal(USER, "admin"))
    other = identity.issue(Principal(USER, "admin"))
    principal = identity.verify_token(token)
    assert principal is not None
    identity.revoke(principal)
    assert identity.verify_token(token) is None
    assert identity.remaining(principal) == 0
    assert identity.verify_token(other) is not None
    identity.revoke(Principal(USER, "admin"))


def log_in_and_out(identity: IdentityService) -> str:
    token = identity.issue(Principal(USER, "admin"))
    principal = identity.verify_token(token)
    assert principal is not None
    identity.revoke(principal)
    return token


async def test_revocations_are_forgotten_once_their_tokens_have_ended(
    identity: IdentityService, clock: SetClock
) -> None:
    for _ in range(20):
        log_in_and_out(identity)
        clock.advance(600)
    assert len(identity._revoked) == 3


async def test_revocations_are_bounded_and_none_is_undone(
    identity: IdentityService, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("console.identity.service.MAX_REVOKED", 5)
    ended = []
    for _ in range(20):
        ended.append(log_in_and_out(identity))
        clock.advance(1)
        assert len(identity._revoked) <= 5
    assert not any(sessions_of(identity, *ended))
    assert sessions_of(identity, identity.issue(Principal(USER, "admin"))) == [True]


async def test_a_principal_without_a_token_has_no_session(identity: IdentityService) -> None:
    assert not identity.due(Principal(USER, "admin"))
    assert identity.remaining(Principal(USER, "admin")) == 0
