import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Literal

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
    outcomes = await asyncio.gather(*(identity.signup(f"u{n}", "p", HOME) for n in range(20)))
    assert sum(isinstance(outcome, SignedUp) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, AlreadyInitialized) for outcome in outcomes) == 19
    assert await store.users.count() == 1


@pytest.mark.parametrize(("name", "password"), [("", "p"), ("u", ""), ("a:b", "p"), ("u", "x" * 1025)])
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
    outcomes = await asyncio.gather(*(identity.authenticate(f"u{n}", "p", HOME) for n in range(10)))
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
    assert renewed.expires == clock.now() + timedelta(minutes=30)
    assert renewed.token_id != principal.token_id


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


async def test_revocations_are_forgotten_once_their_tokens_have_ended(
    identity: IdentityService, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("console.identity.service.MAX_REVOKED", 5)
    for _ in range(20):
        principal = identity.verify_token(identity.issue(Principal(USER, "admin")))
        assert principal is not None
        identity.revoke(principal)
        clock.advance(600)
    assert len(identity._revoked) <= 6


async def test_a_principal_without_a_token_has_no_session(identity: IdentityService) -> None:
    assert not identity.due(Principal(USER, "admin"))
    assert identity.remaining(Principal(USER, "admin")) == 0
