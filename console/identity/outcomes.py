"""What comes of an attempt to sign up or in: values, each with what its caller has to say."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who proved who they are.

    Attributes:
        username: Their name in the store.
        role: What they may do, by `permissions.may`.
        session: The session of the token that proved it, from a login to its end, whatever tokens are renewed
            in it; empty if it was a password.
        issued: When that token was made, in monotonic seconds; None for a password.
        expires: When that token ends, in monotonic seconds; None for a password, which proves itself anew at
            each request.
    """

    username: str
    role: str
    session: str = ""
    issued: float | None = None
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class Authenticated:
    """The credentials are right."""

    principal: Principal


@dataclass(frozen=True, slots=True)
class Denied:
    """The credentials are wrong; which part of them is nobody's business."""


@dataclass(frozen=True, slots=True)
class Throttled:
    """Too many failures before this attempt, which was not looked at.

    Attributes:
        retry_after: Seconds, whole and at least 1.
    """

    retry_after: int


@dataclass(frozen=True, slots=True)
class Busy:
    """Too many passwords are being checked at this moment.

    Attributes:
        retry_after: Seconds, whole and at least 1.
    """

    retry_after: int = 1


@dataclass(frozen=True, slots=True)
class SignedUp:
    """The first user is there, and has proved to be it."""

    principal: Principal


@dataclass(frozen=True, slots=True)
class AlreadyInitialized:
    """There is a user already, so nobody can sign up any more."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A user name or password that no user may have.

    Attributes:
        reason: What is wrong with it and what to do; without its text.
    """

    reason: str


Login = Authenticated | Denied | Throttled | Busy
"""What comes of credentials."""

Signup = SignedUp | AlreadyInitialized | Rejected | Busy
"""What comes of an attempt to be the first user."""
