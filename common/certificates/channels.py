"""What the log says of the operator's directory: each line by its level, with what to do next.

The words of `DISABLED`, `USING`, `watching`, `fatal` and `swapped` are the product's (product facts §3), as
far as it has them.
"""

import logging
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from common.certificates.checks import when
from common.certificates.model import FILES, CertificateSet, Fault, Role
from common.certificates.report import remaining
from common.certificates.watching import Age, Ageing, Expired, Finding, Gone, Refused, Restored, Waiting

SHORT: Final = 16
"""Hex digits of a fingerprint that people compare: 64 bits."""

# What inotify's limits are told by: watchfiles has no type for them.
_LIMITS: Final = ("watch limit reached", "Too many open files", "No space left")


class Line(NamedTuple):
    """A line of the log.

    Attributes:
        level: As `logging` has it.
        text: One line, but for what a path may hold: whoever prints it escapes that.
    """

    level: int
    text: str


class _Words(NamedTuple):
    subject: str
    config: str
    reset: str


_WORDS: Final[dict[Role, _Words]] = {
    Role.HTTPS_SERVER: _Words("Console HTTPS", "console HTTPS", "listener"),
    Role.DEFENDER_SERVER: _Words("Console WebSocket", "defender server", "listener"),
    Role.DEFENDER_CLIENT: _Words("Defender", "defender client", "connection"),
    Role.ADMISSION_SERVER: _Words("Defender admission", "admission server", "listener"),
}

DISABLED: Final = Line(
    logging.INFO, "Custom certificates watcher disabled: certificates directory is not mounted"
)
USING: Final = Line(logging.DEBUG, "Using custom directory certificates")


def watching(directory: Path) -> Line:
    """The directory is there, and followed from now on.

    Args:
        directory: The directory itself: where a link leads to, if the setting names one.
    """
    return Line(logging.DEBUG, f"Watching custom certificates directory: {directory}")


def in_use(role: Role, set_: CertificateSet) -> Line:
    """A set of the directory is used from the first handshake on."""
    return Line(logging.INFO, f"{_subject(role)} in use: {_named(set_)}")


def swapped(role: Role, set_: CertificateSet) -> Line:
    """Another set is in force by now."""
    reset = _WORDS[role].reset
    return Line(logging.INFO, f"{_subject(role)} rotated, resetting {reset}: {_named(set_)}")


def warnings(role: Role, directory: Path, faults: Sequence[Fault]) -> Iterator[Line]:
    """What an operator should mend in a set that is used all the same."""
    for fault in faults:
        yield Line(logging.WARNING, f"{_subject(role)} in {directory}: {fault}")


def fatal(role: Role, directory: Path, found: Refused) -> Iterator[Line]:
    """A set that is complete but bad at a start: the process ends after these."""
    for text in _causes(role, directory, found.faults):
        yield Line(logging.CRITICAL, text)


def told(role: Role, directory: Path, found: Finding | Age, *, now: datetime) -> Iterator[Line]:
    """What was found in the directory, or about the set in use, while the process runs."""
    match found:
        case Refused(faults, kept):
            for text in _causes(role, directory, faults):
                yield Line(logging.ERROR, text)
            yield Line(logging.ERROR, _refused(role, directory, kept))
        case Gone():
            yield Line(logging.WARNING, _gone(role, directory, found))
        case Waiting():
            yield waiting(role, directory, found, level=logging.INFO)
        case Restored(kept):
            text = f"{_subject(role)} in {directory} are those in use again: {_named(kept)}"
            yield Line(logging.INFO, text)
        case Ageing(kept):
            left = remaining(kept.not_after, now)
            text = f"{_subject(role)} in use expire soon ({left}): {_named(kept)}; {_renew(directory)}"
            yield Line(logging.WARNING, text)
        case Expired(kept):
            text = (
                f"{_subject(role)} in use have expired, new connections fail and a restart would be refused: "
                f"{_named(kept)}; {_renew(directory)}"
            )
            yield Line(logging.ERROR, text)


def waiting(role: Role, directory: Path, found: Waiting, *, level: int) -> Line:
    """A set that somebody has begun to copy."""
    text = (
        f"{_subject(role)} are incomplete: waiting for {_listed(found.missing)} in {directory}, with the "
        "generated certificates in use meanwhile; copy what is missing there"
    )
    return Line(level, text)


def no_events(directory: Path, cause: Exception, poll_seconds: float) -> Line:
    """The kernel won't tell of changes."""
    every = f"every {poll_seconds:g} s"
    text = f"{directory} gives no events ({cause}): a change is found by reading it {every} instead"
    if isinstance(cause, PermissionError):
        text += "; let the user that runs Garrison read this directory"
    elif any(words in str(cause) for words in _LIMITS):
        text += "; raise fs.inotify.max_user_instances and fs.inotify.max_user_watches (sysctl)"
    return Line(logging.WARNING, text)


def no_answer(directory: Path, seconds: float) -> Line:
    """A read that doesn't come back."""
    text = (
        f"{directory} has not answered for {seconds:g} s: until it does, what is loaded stays in use and no "
        "change is seen; check its volume (mount, network, file server)"
    )
    return Line(logging.WARNING, text)


def trouble(directory: Path, cause: str, seconds: float) -> Line:
    """Looking itself failed: that says nothing of the files."""
    text = (
        f"{directory} could not be looked at ({cause}): what is loaded stays in use, and it is tried again "
        f"every {seconds:g} s; see that this host has threads, memory and descriptors left for the process"
    )
    return Line(logging.ERROR, text)


def trouble_over(directory: Path) -> Line:
    """Looking has succeeded again."""
    return Line(logging.INFO, f"{directory} can be looked at again")


def no_start(directory: Path, cause: str) -> Line:
    """Looking itself failed at a start: the process ends after this one."""
    text = (
        f"{directory} could not be looked at ({cause}), so that nobody knows which certificates to use; see "
        "that this host has threads, memory and descriptors left for the process, and start it again"
    )
    return Line(logging.CRITICAL, text)


def _causes(role: Role, directory: Path, faults: Sequence[Fault]) -> Iterator[str]:
    names = FILES[role]
    pair = f"X509 key pair ({directory / names.certificate}, {directory / names.key})"
    for fault in faults:
        what = f"CA bundle ({directory / fault.file})" if fault.file == names.ca else pair
        yield f"Failed to construct {_WORDS[role].config} TLS config error reading {what}: {fault}"


def _refused(role: Role, directory: Path, kept: CertificateSet | None) -> str:
    stays = "the generated ones stay in use" if kept is None else f"what is in use is kept: {_named(kept)}"
    return (
        f"{_subject(role)} refused, {stays}; a restart now would fail: copy corrected files to {directory}, "
        "they are used as soon as they are there"
    )


def _gone(role: Role, directory: Path, found: Gone) -> str:
    are = "is" if len(found.missing) == 1 else "are"
    return (
        f"{_subject(role)}: {_listed(found.missing)} {are} gone from {directory}; what is loaded is kept: "
        f"{_named(found.kept)}; a restart would use the generated ones: copy the files back, or restart if "
        "that is what you want"
    )


def _subject(role: Role) -> str:
    return f"{_WORDS[role].subject} custom certificates"


def _named(set_: CertificateSet) -> str:
    return f"set {set_.fingerprint[:SHORT]}, valid until {when(set_.not_after)}"


def _renew(directory: Path) -> str:
    return f"copy renewed files to {directory}, they are used at once"


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
