"""One channel's set in the operator's directory: what each look at it means (D6). No I/O, no clock.

What a look sees is only what lies there at that moment. Files come one at a time: a bundle cut at the end of
a certificate is valid, a new certificate beside the old key is not, and a file that is being replaced is
gone for an instant. So nothing is believed at first sight. A complete set is judged when two looks, QUIET
apart, have seen the same; a good one is then used at once; of anything else an operator is told only when it
has stayed so for SETTLE, and once for what lies there.
"""

import math
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from common.certificates.model import CertificateSet, Fault, FaultKind, Judgement, Role
from common.certificates.reading import FileSet

QUIET: Final = 0.2
"""Seconds for which a complete set must be unchanged before it is judged."""

SETTLE: Final = 3.0
"""Seconds for which nobody has written to something that can't be used before it is told."""

CHANGING: Final = 30.0
"""Seconds after which it is told though somebody still writes: that is no copying any more."""

AGAIN: Final = 600.0
"""Seconds after which something is told again though it has only come back."""

DATES: Final = 5.0
"""Seconds between two judgements of a set that has nothing wrong but its dates, or its host: both pass."""

RELAPSE: Final = 4
"""How many times longer each time a set must be back before that is told, where it doesn't last."""

_REMEMBERED: Final = 64  # contents that were told; a directory that flaps between more is told of again

_MOST_RELAPSES: Final = 8  # by then it is AGAIN that decides

_PASSING: Final = frozenset({FaultKind.NOT_YET_VALID, FaultKind.EXPIRED, FaultKind.HOST})


class DirectoryState(StrEnum):
    """What lies in the directory for one channel."""

    ABSENT = "absent"
    INCOMPLETE = "incomplete"
    SETTLING = "settling"
    GOOD = "good"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class ChannelStatus:
    """How it stands with one channel.

    Attributes:
        state: What lies in the directory; GOOD if it is the set in use.
        fingerprint: The custom set in use, SHA-256 in hex; None if there is none.
        not_after: Until when that one is valid.
        missing: The files that are not there, of a set that somebody meant or that is in use.
        faults: Why what lies there is not used; where it is, what should be mended all the same.
    """

    state: DirectoryState
    fingerprint: str | None = None
    not_after: datetime | None = None
    missing: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """A complete set is there that can't be used; `kept` runs on, None for the generated one."""

    faults: tuple[Fault, ...]
    kept: CertificateSet | None


@dataclass(frozen=True, slots=True)
class Gone:
    """Files of the set in use are not there any more."""

    missing: tuple[str, ...]
    kept: CertificateSet


@dataclass(frozen=True, slots=True)
class Waiting:
    """Some files of a set are there, and no custom set is in use."""

    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """What had been told is over: the set in use lies in the directory again."""

    kept: CertificateSet


@dataclass(frozen=True, slots=True)
class Ageing:
    """The set in use has a quarter of its lifetime left, or less."""

    kept: CertificateSet


@dataclass(frozen=True, slots=True)
class Expired:
    """The set in use is not valid any more."""

    kept: CertificateSet


Finding = Refused | Gone | Waiting | Restored
Age = Ageing | Expired


@dataclass(slots=True)
class _Content:
    """What lies there, since when, when it was last written, and what has become of it."""

    files: FileSet
    fingerprint: str
    since: float
    written: float
    verdict: Judgement | None = None
    judged_at: float = 0.0
    settled: bool = False  # told, or nothing to tell


@dataclass(slots=True)
class Watch:
    """One channel's set, look by look.

    The caller gives each look to `look`; has the files judged if that says so, and gives the judgement to
    `judged`; puts in force the set that this returns and answers with `used` or `refused`; and logs what
    `finding` and `age` return.

    Attributes:
        role: The channel's side.
        in_use: The custom set that is in force, None for the generated one.
    """

    role: Role
    in_use: CertificateSet | None = None
    _content: _Content | None = None
    _used_content: str | None = None
    _used_warnings: tuple[Fault, ...] = ()
    _told: dict[str, float] = field(default_factory=dict)
    _alarmed: bool = False
    _relapses: int = 0  # how often a return was told without lasting
    _restored_at: float = -math.inf
    _aged: type[Age] | None = None

    def look(self, files: FileSet, *, at: float) -> bool:
        """Take what a look has seen.

        Args:
            files: What was read. Two looks are at least QUIET apart, from the end of one to the start of the
                next.
            at: When the reading had ended, monotonic seconds.

        Returns:
            Whether the files are to be judged now.
        """
        fingerprint, content = files.fingerprint, self._content
        if content is None or content.fingerprint != fingerprint:
            content = self._content = _Content(files, fingerprint, at, at)
            content.settled = self._is_in_use(content) and not self._alarmed
            return False
        if files.marks != content.files.marks:
            content.written = at
        content.files = files
        if not files.complete or self._is_in_use(content) or at < content.since + QUIET:
            return False
        return content.verdict is None or (_passes(content.verdict) and at >= content.judged_at + DATES)

    def judged(self, judgement: Judgement, *, at: float) -> CertificateSet | None:
        """Take the judgement of what the last look has seen.

        Returns:
            A set to put in force: none if it is bad, or the one that is in force already.
        """
        content = self._require_content()
        content.verdict, content.judged_at = judgement, at
        found = judgement.set
        if found is None:
            return None
        if self.in_use is not None and self.in_use.fingerprint == found.fingerprint:
            self._used_content, self._used_warnings = content.fingerprint, judgement.warnings
            content.settled = not self._alarmed
            return None
        return found

    def used(self, set_: CertificateSet) -> None:
        """The set of the last judgement is in force."""
        content = self._require_content()
        self.in_use, self._used_content = set_, content.fingerprint
        self._used_warnings = content.verdict.warnings if content.verdict else ()
        self._told.clear()
        content.settled, self._alarmed, self._relapses, self._aged = True, False, 0, None

    def refused(self, faults: tuple[Fault, ...]) -> None:
        """The set of the last judgement could not be put in force: it counts as bad."""
        self._require_content().verdict = Judgement(None, faults)

    def finding(self, *, at: float, patient: bool = True) -> Finding | None:
        """What is to be told after a look and its judgement: once for what lies there.

        Args:
            at: When the look's reading had ended, monotonic seconds.
            patient: Whether it must have stayed as it is for a while, as it must but at a start.
        """
        content = self._content
        if content is None or content.settled or self._state(content) is DirectoryState.SETTLING:
            return None
        if patient and at < self._told_at(content):
            return None
        content.settled = True
        found = self._find(content)
        if found is None:
            return None
        if isinstance(found, Restored):
            # Whatever comes after this is news again, or this would be the log's last and untrue word.
            self._told.clear()
            self._relapses = min(self._relapses + 1, _MOST_RELAPSES)
            self._alarmed, self._restored_at = False, at
            return found
        told = self._told.pop(content.fingerprint, None)
        if told is not None and at < told + AGAIN:
            self._told[content.fingerprint] = told
            return None
        self._told[content.fingerprint] = at
        if len(self._told) > _REMEMBERED:
            del self._told[next(iter(self._told))]
        if not self._alarmed and at >= self._restored_at + AGAIN:
            self._relapses = 0
        self._alarmed = True
        return found

    def age(self, *, now: datetime) -> Age | None:
        """What is to be told of the age of the set in use, each of the two once.

        Args:
            now: The wall clock; aware.
        """
        kept = self.in_use
        if kept is None or self._aged is Expired:
            return None
        if now >= kept.not_after:
            self._aged = Expired
            return Expired(kept)
        if self._aged is None and now >= kept.not_after - (kept.not_after - kept.not_before) / 4:
            self._aged = Ageing
            return Ageing(kept)
        return None

    @property
    def due(self) -> float | None:
        """When the next look is wanted for the sake of what lies there, monotonic seconds; None for never."""
        content = self._content
        if content is None:
            return None
        if content.files.complete and not self._is_in_use(content):
            if content.verdict is None:
                return content.since + QUIET
            if content.settled:
                return content.judged_at + DATES if _passes(content.verdict) else None
        return None if content.settled else self._told_at(content)

    @property
    def status(self) -> ChannelStatus:
        """How it stands now."""
        content, used = self._content, self.in_use
        fingerprint, until = (used.fingerprint, used.not_after) if used else (None, None)
        if content is None:
            return ChannelStatus(DirectoryState.ABSENT, fingerprint, until)
        state = self._state(content)
        missing = () if state is DirectoryState.ABSENT and used is None else content.files.missing
        faults: tuple[Fault, ...] = ()
        if state is DirectoryState.GOOD:
            faults = self._used_warnings
        elif state is DirectoryState.BAD and content.verdict is not None:
            faults = content.verdict.errors
        return ChannelStatus(state, fingerprint, until, missing, faults)

    def _state(self, content: _Content) -> DirectoryState:
        if self._is_in_use(content):
            return DirectoryState.GOOD
        if content.files.absent:
            return DirectoryState.ABSENT
        if not content.files.complete:
            return DirectoryState.INCOMPLETE
        bad = content.verdict is not None and content.verdict.set is None
        return DirectoryState.BAD if bad else DirectoryState.SETTLING

    def _find(self, content: _Content) -> Finding | None:
        match self._state(content):
            case DirectoryState.BAD if content.verdict is not None:
                return Refused(content.verdict.errors, self.in_use)
            case DirectoryState.GOOD if self.in_use is not None:
                return Restored(self.in_use) if self._alarmed else None
            case DirectoryState.ABSENT | DirectoryState.INCOMPLETE if self.in_use is not None:
                return Gone(content.files.missing, self.in_use)
            case DirectoryState.INCOMPLETE:
                return Waiting(content.files.missing)
        return None

    def _told_at(self, content: _Content) -> float:
        """When there is no use in waiting: nobody writes any more, or doesn't get on.

        That all is well again must have lasted longer each time: a directory that flaps fills no log.
        """
        settle = SETTLE
        if self._is_in_use(content):
            settle = min(SETTLE * RELAPSE**self._relapses, AGAIN)
        latest = content.since + max(CHANGING, settle)
        if any(fault.kind is FaultKind.CHANGING for fault in content.files.faults):
            return latest
        return min(content.written + settle, latest)

    def _is_in_use(self, content: _Content) -> bool:
        """Whether these are the bytes in force: they aren't judged again, nor refused for their age."""
        return content.fingerprint == self._used_content

    def _require_content(self) -> _Content:
        assert self._content is not None, "no look yet"
        return self._content


def _passes(judgement: Judgement) -> bool:
    errors = judgement.errors
    return bool(errors) and all(fault.kind in _PASSING for fault in errors)
