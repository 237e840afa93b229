import asyncio
import threading
from typing import Literal

import argon2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console.identity.outcomes import Busy
from console.identity.passwords import (
    MAX_PASSWORD_BYTES,
    PasswordHasher,
    new_password_fault,
    password_fault,
    spelled,
    username_fault,
    utf8_size,
)
from tests.console.api.world import CHEAP


@pytest.mark.parametrize(
    "name", ["a", "admin", "DOMAIN\\user", "user@example", "Zoë", "名前", "a b", "x" * 128]
)
def test_user_names(name: str) -> None:
    assert username_fault(name) is None


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "empty"),
        ("  ", "empty"),
        (" a", "space"),
        ("a ", "space"),
        ("a:b", "colon"),
        ("a\nb", "printed"),
        ("a\x00", "printed"),
        ("\u202eadmin", "printed"),
        ("\ud800", "printed"),
        ("x" * 129, "too long"),
    ],
)
def test_what_is_no_user_name(name: str, fault: str) -> None:
    said = username_fault(name)
    assert said is not None
    assert fault in said


@pytest.mark.parametrize(
    ("password", "fault"),
    [
        ("", "empty"),
        ("\ud800", "pair"),
        ("x" * (MAX_PASSWORD_BYTES + 1), "too long"),
        ("é" * 513, "too long"),
    ],
)
def test_what_is_no_password(password: str, fault: str) -> None:
    said = password_fault(password)
    assert said is not None
    assert fault in said


@pytest.mark.parametrize("password", ["", "x", "1234567", "e\u0301" * 7, "x" * 1025, "\ud800" * 9])
def test_what_is_not_chosen_as_a_password(password: str) -> None:
    said = new_password_fault(password)
    assert said is not None
    assert new_password_fault("12345678") is None
    assert new_password_fault("é" * 8) is None


def test_a_short_one_is_told_how_long() -> None:
    assert new_password_fault("1234567") == "password is too short; use at least 8 characters"
    assert password_fault("1234567") is None


@given(st.text(min_size=1, max_size=300))
@settings(deadline=None, max_examples=50)
def test_a_fault_never_shows_the_password(password: str) -> None:
    said = password_fault("secret" + password)
    assert said is None or "secret" not in said
    assert (said is None) == (utf8_size("secret" + password) is not None)


def test_long_names_are_cut_before_they_are_normalised() -> None:
    assert len(spelled("a" + "\u0316\u0301" * 100_000)) <= 512
    assert username_fault(spelled("x" * 100_000)) is not None


async def test_right_and_wrong() -> None:
    hasher = PasswordHasher(CHEAP)
    stored = await hasher.hash("zoë")
    assert isinstance(stored, str)
    assert stored.startswith("$argon2id$")
    assert await hasher.verify(stored, "zoë") is True
    assert await hasher.verify(stored, "zoe\u0308") is True
    assert await hasher.verify(stored, "zoe") is False
    assert await hasher.verify("not a hash", "zoë") is False
    hasher.close()


async def test_nobody_costs_what_somebody_costs() -> None:
    argon = argon2.PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
    seen: list[tuple[int, int, int]] = []

    class Watching(argon2.PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002
            found = argon2.extract_parameters(str(hash))
            seen.append((found.memory_cost, found.time_cost, found.parallelism))
            return super().verify(hash, password)

    hasher = PasswordHasher(Watching(time_cost=2, memory_cost=16, parallelism=1))
    stored = argon.hash("p")
    assert await hasher.verify(stored, "x") is False
    assert await hasher.verify(None, "x") is False
    assert seen == [(16, 2, 1), (16, 2, 1)]
    hasher.close()


async def test_beyond_the_bound_is_busy_and_places_come_back() -> None:
    go = threading.Event()

    class Slow(argon2.PasswordHasher):
        def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
            go.wait(10)
            return "done"

    hasher = PasswordHasher(Slow(), threads=1, waiting=1)
    running = [asyncio.ensure_future(hasher.hash("a")), asyncio.ensure_future(hasher.hash("b"))]
    await asyncio.sleep(0)
    assert await hasher.hash("c") == Busy()
    # Whoever stops waiting doesn't free the thread that still works for them, but one that never began.
    running[1].cancel()
    await asyncio.wait([running[1]])
    third = asyncio.ensure_future(hasher.hash("d"))
    await asyncio.sleep(0)
    go.set()
    assert await running[0] == "done"
    assert await third == "done"
    assert await hasher.hash("e") == "done"
    hasher.close()


def test_outdated_cost() -> None:
    hasher = PasswordHasher()
    assert hasher.outdated(CHEAP.hash("p"))
    assert not hasher.outdated(argon2.PasswordHasher().hash("p"))
    hasher.close()
