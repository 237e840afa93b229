"""Passwords: what one may be, and Argon2id off the event loop, bounded.

One check costs tens of milliseconds and tens of megabytes on purpose, so that whoever steals the store cannot
try many. That makes each check a lever for whoever wants to stop the Console: a fixed number run at a time, a
fixed number wait, the next is told to come back.
"""

import base64
import threading
import unicodedata
from asyncio import wrap_future
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import argon2
import argon2.low_level
from argon2.exceptions import InvalidHashError, VerificationError

from console.identity.outcomes import Busy

MAX_PASSWORD_BYTES: Final = 1024
"""Of UTF-8. Argon2 would take 4 GiB; nobody types this much."""
MIN_PASSWORD_CHARACTERS: Final = 8
"""Of a password that is chosen now (NIST SP 800-63B §5.1.1.2); one that was chosen before may be shorter."""
MAX_USERNAME_CHARACTERS: Final = 128

_T = TypeVar("_T")


def normal(text: str) -> str:
    """One spelling of what can be typed in several (NFC; RFC 8265 §4.2.2 asks the same of passwords)."""
    return unicodedata.normalize("NFC", text)


def spelled(username: str) -> str:
    """A user name in its one spelling; what is too long for one is cut, to something still too long."""
    # Putting combining characters in order takes quadratic time: never over a text of any length.
    return normal(username[: 4 * MAX_USERNAME_CHARACTERS])


def username_fault(username: str) -> str | None:
    """What keeps this from being a user's name, or None."""
    if not username.strip():
        return "user name is empty; choose one"
    if username != username.strip():
        return "user name begins or ends with a space; leave it out"
    if len(username) > MAX_USERNAME_CHARACTERS:
        return f"user name is too long; use at most {MAX_USERNAME_CHARACTERS} characters"
    # RFC 7617 §2: a colon ends the name in basic authentication.
    if ":" in username or not username.isprintable():
        return "user name holds a colon or a character that cannot be printed; leave it out"
    return None


def password_fault(password: str) -> str | None:
    """What keeps this from being a password, or None. Never holds any of it."""
    if not password:
        return "password is empty; choose one"
    size = utf8_size(password)
    if size is None:
        return "password holds half of a character pair; leave it out"
    if size > MAX_PASSWORD_BYTES:
        return f"password is too long; use at most {MAX_PASSWORD_BYTES} bytes"
    return None


def new_password_fault(password: str) -> str | None:
    """What keeps this from being chosen as a password, or None. Never holds any of it."""
    if fault := password_fault(password):
        return fault
    if len(normal(password)) < MIN_PASSWORD_CHARACTERS:
        return f"password is too short; use at least {MIN_PASSWORD_CHARACTERS} characters"
    return None


def utf8_size(text: str) -> int | None:
    """How many bytes `text` has, or None if it has no UTF-8 form (a lone surrogate out of a JSON escape)."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return None


class PasswordHasher:
    """Argon2id in threads of its own.

    Args:
        argon: Its cost; by default RFC 9106's second recommendation (64 MiB, 3 passes, 4 lanes).
        threads: How many run at a time.
        waiting: How many more may wait.
    """

    def __init__(
        self, argon: argon2.PasswordHasher | None = None, *, threads: int = 2, waiting: int = 30
    ) -> None:
        self._argon = argon or argon2.PasswordHasher()
        self._places = threading.BoundedSemaphore(threads + waiting)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._nobody = _hash_of_nothing(self._argon)

    async def hash(self, password: str) -> str | Busy:
        """The hash to store for `password`."""
        return await self._run(lambda: self._argon.hash(normal(password)))

    async def verify(self, stored: str | None, password: str) -> bool | Busy:
        """Whether `password` is the one that `stored` was made of.

        The work is the same where there is nothing to compare with (`stored` is None), so that the time of
        an answer doesn't tell whether a user exists.
        """
        return await self._run(lambda: self._matches(stored or self._nobody, normal(password)))

    def outdated(self, stored: str) -> bool:
        """Whether `stored` was made at another cost than today's."""
        return self._argon.check_needs_rehash(stored)

    def close(self) -> None:
        """End the threads; waits for checks that have begun, which is less than a second."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._argon.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], _T]) -> _T | Busy:
        if not self._places.acquire(blocking=False):
            return Busy()
        future = self._executor.submit(work)
        # The place is given back when the thread is done with it, not when the caller stopped waiting.
        future.add_done_callback(lambda _: self._places.release())
        return await wrap_future(future)


def _hash_of_nothing(argon: argon2.PasswordHasher) -> str:
    """A hash of `argon`'s cost that no password is known for, made without paying that cost."""
    salt, digest = (
        base64.b64encode(bytes(size)).rstrip(b"=").decode() for size in (argon.salt_len, argon.hash_len)
    )
    cost = f"m={argon.memory_cost},t={argon.time_cost},p={argon.parallelism}"
    return f"$argon2id$v={argon2.low_level.ARGON2_VERSION}${cost}${salt}${digest}"
