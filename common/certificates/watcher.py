"""The shell that follows the operator's directory: one task for all channels of a process.

It reads, waits and logs; what a look means is `Watch`'s to say, and how it is put `channels`'. Reading is
the truth, events only tell when to read (D6). Everything that touches the disk happens in threads that
nobody has to wait for: a file server that doesn't answer stops neither the loop nor the exit.
"""

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

from common.certificates import channels as words
from common.certificates.channels import Line
from common.certificates.hints import Events, Identity
from common.certificates.loader import judge_files
from common.certificates.model import FILES, CertificateSet, Fault, FaultKind, Judgement, Role, Source
from common.certificates.reading import FileSet, read_files
from common.certificates.watching import AGAIN, QUIET, SETTLE, ChannelStatus, Refused, Waiting, Watch
from common.clock import Clock
from common.errors import CertificateSetError, CustomCertificatesError
from common.threads import in_thread

logger = logging.getLogger(__name__)

MISSING_SECONDS: Final = 1.0
"""How often a directory that has gone is looked for."""

NO_ANSWER_SECONDS: Final = 30.0
"""How long a read or a judgement may take before the log says so."""

RETRY_SECONDS: Final = 10.0
"""How long after a look that failed for want of threads, memory or descriptors the next one is tried."""

_NAP: Final = 30.0  # seconds between two questions whether a set has aged, whatever else is waited for
_JITTER: Final = 0.1

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Channel:
    """One side of a channel that takes its sets from the directory.

    Attributes:
        role: The side.
        use: Puts a set in force; when it returns, the next handshake uses it. It may raise
            CertificateSetError: then the set counts as bad.
    """

    role: Role
    use: Callable[[CertificateSet], None]


@dataclass(frozen=True, slots=True)
class _View:
    """What one look has seen: which directory it was and where, and each channel's files."""

    identity: Identity | None
    place: Path
    files: Mapping[Role, FileSet]

    @property
    def fingerprint(self) -> tuple[str, ...]:
        return tuple(files.fingerprint for files in self.files.values())

    def same_as(self, before: "_View") -> bool:
        """Whether nobody has written since, nor was writing just now."""
        if self.fingerprint != before.fingerprint:
            return False
        return all(
            files.marks == before.files[role].marks
            and not any(fault.kind is FaultKind.CHANGING for fault in files.faults)
            for role, files in self.files.items()
        )


class _LookFailedError(Exception):
    """A look that came to nothing, for a reason that says nothing of the files."""


def _log(level: int, text: str) -> None:
    logger.log(level, "%s", text)


class Watcher:
    """Follows a directory for the channels of a process.

    First `start`, once: it says which sets to begin with. Then `run`, once, as a task.

    Args:
        directory: The operator's; read access is enough.
        channels: Those of this process, each on its own.
        clock: The wall clock for validity, the monotonic one for waiting.
        poll_seconds: How often the directory is read where no event tells of a change, ±10 %.
        say: Takes the lines of the log: level and text.
    """

    def __init__(
        self,
        directory: Path,
        channels: Sequence[Channel],
        *,
        clock: Clock,
        poll_seconds: float = 10.0,
        say: Callable[[int, str], None] = _log,
    ) -> None:
        self._directory = directory
        self._channels = {channel.role: channel for channel in channels}
        self._watches = {role: Watch(role) for role in self._channels}
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._say = say
        self._mounted = False
        self._wanted = asyncio.Event()
        self._looked_at = clock.monotonic() - QUIET
        self._poll_at = self._looked_at
        self._not_before = self._looked_at
        self._troubled_at = -math.inf
        self._troubled = False
        self._seen: tuple[str, ...] | None = None
        self._events = Events(directory, clock, changed=self.look, failed=self._no_events)

    @property
    def mounted(self) -> bool:
        """Whether the directory was there at the start; if not, the feature is off until a restart."""
        return self._mounted

    def status(self) -> Mapping[Role, ChannelStatus]:
        """How it stands with each channel."""
        return MappingProxyType({role: watch.status for role, watch in self._watches.items()})

    def look(self) -> None:
        """Look now, as after an event. From the loop's thread."""
        self._wanted.set()

    async def start(self) -> Mapping[Role, CertificateSet]:
        """Read the directory for the first time, and log what it means.

        A good set is taken at once. A bad one may be in the middle of being copied: it is final when a second
        look has seen the same, or somebody has gone on writing for SETTLE.

        Returns:
            The channels whose set comes from the directory, from the first handshake on; the others begin
            with their generated one.

        Raises:
            CustomCertificatesError: a set is complete but bad, or the host has no thread to look with. Its
                lines are logged by now.
        """
        try:
            return await self._start()
        except _LookFailedError as error:
            line = words.no_start(self._directory, str(error))
            self._tell([line])
            raise CustomCertificatesError(str(self._directory), [str(error)], [line.text]) from error

    async def _start(self) -> Mapping[Role, CertificateSet]:
        view = await self._read()
        if view.identity is None:
            self._tell([words.DISABLED])
            return MappingProxyType({})
        self._mounted = True
        self._tell([words.watching(view.place)])
        judgements = await self._begin(view)
        deadline = self._clock.monotonic() + SETTLE
        while any(judgement.set is None for judgement in judgements.values()):
            before = view
            await asyncio.sleep(QUIET)
            view = await self._read()
            judgements = await self._begin(view)
            if view.same_as(before) or self._clock.monotonic() > deadline:
                break
        return self._conclude(judgements)

    async def run(self) -> None:
        """Follow the directory until cancelled: each new good set is put in force, whatever else is told.

        Returns at once if the directory was not there at the start.
        """
        if not self._mounted:
            return
        try:
            while True:
                await self._next_look()
                try:
                    await self._look_once()
                except _LookFailedError as error:
                    self._put_off(str(error))
                else:
                    self._put_right()
        finally:
            await self._events.close()

    async def _begin(self, view: _View) -> Mapping[Role, Judgement]:
        at = self._looked_at
        for role, files in view.files.items():
            self._watches[role].look(files, at=at)
        complete = {role: files for role, files in view.files.items() if files.complete}
        judgements = await self._judge(complete)
        for role, judgement in judgements.items():
            self._watches[role].judged(judgement, at=at)
        return judgements

    def _conclude(self, judgements: Mapping[Role, Judgement]) -> Mapping[Role, CertificateSet]:
        """Say what the first looks have found."""
        if judgements:
            self._tell([words.USING])
        good = {role: judgement.set for role, judgement in judgements.items() if judgement.set is not None}
        for role, set_ in good.items():
            self._watches[role].used(set_)
            self._tell([words.in_use(role, set_)])
            self._tell(words.warnings(role, self._directory, judgements[role].warnings))
        faults: list[Fault] = []
        fatal: list[Line] = []
        for role, watch in self._watches.items():
            match watch.finding(at=self._looked_at, patient=False):
                case Refused() as found:
                    fatal += words.fatal(role, self._directory, found)
                    faults += found.faults
                case Waiting() as found:
                    self._tell([words.waiting(role, self._directory, found, level=logging.WARNING)])
        self._tell_ages()
        self._tell(fatal)
        if fatal:
            raise CustomCertificatesError(str(self._directory), faults, [line.text for line in fatal])
        return MappingProxyType(good)

    async def _next_look(self) -> None:
        """Wait until there is a reason to look, and QUIET has passed since the last one."""
        while True:
            now = self._clock.monotonic()
            soonest = max(self._looked_at + QUIET, self._not_before)
            dues = [due for watch in self._watches.values() if (due := watch.due) is not None]
            dues.append(self._events.due)
            at = soonest if self._wanted.is_set() else max(soonest, min(self._poll_at, *dues))
            if now >= at:
                return
            if self._wanted.is_set():
                await asyncio.sleep(min(at - now, _NAP))
            else:
                # Not wait_for: 3.11's can lose a cancel that comes with the event (gh-86296).
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(at - now, _NAP)):
                        await self._wanted.wait()
            self._tell_ages()

    async def _look_once(self) -> None:
        # A look for any other reason may just be faster than the event of what it sees.
        polled = not self._wanted.is_set() and self._clock.monotonic() >= self._poll_at
        self._wanted.clear()
        view = await self._read()
        at = self._looked_at
        unannounced = polled and self._seen is not None and view.fingerprint != self._seen
        self._seen = view.fingerprint
        self._events.follow(view.identity, anew=unannounced)
        wanted = {role: files for role, files in view.files.items() if self._watches[role].look(files, at=at)}
        for role, judgement in (await self._judge(wanted)).items():
            self._settle(role, judgement, at)
        now = self._clock.now()
        for role, watch in self._watches.items():
            found = watch.finding(at=at)
            if found is not None:
                self._tell(words.told(role, self._directory, found, now=now))
        self._tell_ages()
        poll = self._poll_seconds * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret
        self._poll_at = at + (poll if view.identity else min(MISSING_SECONDS, poll))

    def _settle(self, role: Role, judgement: Judgement, at: float) -> None:
        """Put a good set in force."""
        watch = self._watches[role]
        set_ = watch.judged(judgement, at=at)
        if set_ is None:
            return
        try:
            self._channels[role].use(set_)
        except CertificateSetError as error:
            watch.refused(tuple(_as_fault(role, fault) for fault in error.faults))
            return
        except (OSError, MemoryError) as error:  # the host's, and so perhaps not for long
            what = f"cannot be put in force ({_said(error)})"
            remedy = "see that this host has memory and descriptors left for the process"
            watch.refused((Fault(FILES[role].certificate, FaultKind.HOST, what, remedy),))
            return
        watch.used(set_)
        self._tell([words.swapped(role, set_)])
        self._tell(words.warnings(role, self._directory, judgement.warnings))

    def _put_off(self, cause: str) -> None:
        """A look has failed: the next is for later. It is told once in a while."""
        now = self._clock.monotonic()
        seconds = min(self._poll_seconds, RETRY_SECONDS)
        self._poll_at = self._not_before = now + seconds
        if now >= self._troubled_at + AGAIN:
            self._troubled_at, self._troubled = now, True
            self._tell([words.trouble(self._directory, cause, seconds)])

    def _put_right(self) -> None:
        """A look has succeeded."""
        if self._troubled:
            self._troubled = False
            self._tell([words.trouble_over(self._directory)])

    def _no_events(self, cause: Exception) -> None:
        self._tell([words.no_events(self._directory, cause, self._poll_seconds)])

    async def _read(self) -> _View:
        try:
            return await self._wait_for(lambda: _view(self._directory, self._watches))
        finally:
            self._looked_at = self._clock.monotonic()

    async def _judge(self, wanted: Mapping[Role, FileSet]) -> Mapping[Role, Judgement]:
        if not wanted:
            return {}
        now = self._clock.now()

        def judge_all() -> Mapping[Role, Judgement]:
            return {role: judge_files(files, now=now, source=Source.CUSTOM) for role, files in wanted.items()}

        return await self._wait_for(judge_all)

    async def _wait_for(self, job: Callable[[], _T]) -> _T:
        """The outcome of a job in a thread; while it doesn't come back, no second one is begun.

        Raises:
            _LookFailedError: there is none. That is no reason to end a process whose certificates are in use.
        """
        working = in_thread(job, name="certificates")
        try:
            done, _ = await asyncio.wait({working}, timeout=NO_ANSWER_SECONDS)
            if not done:
                self._tell([words.no_answer(self._directory, NO_ANSWER_SECONDS)])
            while not done:
                done, _ = await asyncio.wait({working}, timeout=_NAP)
                self._tell_ages()
            return working.result()
        except Exception as error:
            logger.debug("looking at %s failed", self._directory, exc_info=True)
            raise _LookFailedError(_said(error)) from error
        finally:
            working.cancel()

    def _tell_ages(self) -> None:
        now = self._clock.now()
        for role, watch in self._watches.items():
            aged = watch.age(now=now)
            if aged is not None:
                self._tell(words.told(role, self._directory, aged, now=now))

    def _tell(self, lines: Iterable[Line]) -> None:
        for line in lines:
            self._say(line.level, line.text)


def _view(directory: Path, roles: Iterable[Role]) -> _View:
    identity: Identity | None = (0, 0)  # it is there, and reading it will say what is wrong with it
    place = directory
    try:
        status = directory.stat()
        identity = (status.st_dev, status.st_ino)
        place = directory.resolve() if directory.is_symlink() else directory
    except FileNotFoundError:
        identity = None
    except OSError:
        pass
    return _View(identity, place, {role: read_files(directory, role) for role in roles})


def _as_fault(role: Role, fault: object) -> Fault:
    if isinstance(fault, Fault):
        return fault
    return Fault(FILES[role].certificate, FaultKind.MALFORMED, str(fault), "issue the set again")


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
