"""The shell that follows the operator's directory: one task for all channels of a process.

It reads, waits and logs; what a look means is `Watch`'s to say, and how it is put `channels`'. Reading is
the truth, events only tell when to read (D6). Everything that touches the disk happens in threads that
nobody has to wait for: a file server that doesn't answer stops neither the loop nor the exit.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import random
import threading
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
from common.certificates.watching import QUIET, SETTLE, ChannelStatus, Refused, Waiting, Watch
from common.clock import Clock
from common.errors import CertificateSetError, CustomCertificatesError

logger = logging.getLogger(__name__)

MISSING_SECONDS: Final = 1.0
"""How often a directory that has gone is looked for."""

NO_ANSWER_SECONDS: Final = 30.0
"""How long a read may take before the log says so."""

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
        look has seen the same.

        Returns:
            The channels whose set comes from the directory, from the first handshake on; the others begin
            with their generated one.

        Raises:
            CustomCertificatesError: a set is complete but bad. Its lines are logged by now.
        """
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
            if view.fingerprint == before.fingerprint or self._clock.monotonic() > deadline:
                break
        return self._conclude(judgements)

    async def run(self) -> None:
        """Follow the directory until cancelled: each new good set is put in force, whatever else is told."""
        if not self._mounted:
            await asyncio.get_running_loop().create_future()
        try:
            while True:
                await self._next_look()
                await self._look_once()
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
            soonest = self._looked_at + QUIET
            dues = [due for watch in self._watches.values() if (due := watch.due) is not None]
            dues.append(self._events.due)
            at = soonest if self._wanted.is_set() else max(soonest, min(self._poll_at, *dues))
            if now >= at:
                return
            if self._wanted.is_set():
                await asyncio.sleep(at - now)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wanted.wait(), min(at - now, _NAP))
            self._tell_ages()

    async def _look_once(self) -> None:
        expected = self._wanted.is_set()
        self._wanted.clear()
        view = await self._read()
        at = self._looked_at
        unannounced = not expected and self._seen is not None and view.fingerprint != self._seen
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
        watch.used(set_)
        self._tell([words.swapped(role, set_)])
        self._tell(words.warnings(role, self._directory, judgement.warnings))

    def _no_events(self, reason: str) -> None:
        self._tell([words.no_events(self._directory, reason, self._poll_seconds)])

    async def _read(self) -> _View:
        """One reading; while it doesn't come back, no second one is begun."""
        reading = _in_thread(lambda: _view(self._directory, self._watches))
        try:
            done, _ = await asyncio.wait({reading}, timeout=NO_ANSWER_SECONDS)
            if not done:
                self._tell([words.no_answer(self._directory, NO_ANSWER_SECONDS)])
            while not done:
                done, _ = await asyncio.wait({reading}, timeout=_NAP)
                self._tell_ages()
        finally:
            reading.cancel()
        self._looked_at = self._clock.monotonic()
        return reading.result()

    async def _judge(self, wanted: Mapping[Role, FileSet]) -> Mapping[Role, Judgement]:
        if not wanted:
            return {}
        now = self._clock.now()

        def judge_all() -> Mapping[Role, Judgement]:
            return {role: judge_files(files, now=now, source=Source.CUSTOM) for role, files in wanted.items()}

        return await _in_thread(judge_all)

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


def _in_thread(job: Callable[[], _T]) -> asyncio.Future[_T]:
    """Run a job in a daemon thread: one that hangs is left behind, at the latest by the exit."""
    outcome: concurrent.futures.Future[_T] = concurrent.futures.Future()

    def work() -> None:
        if outcome.set_running_or_notify_cancel():
            try:
                outcome.set_result(job())
            except Exception as error:  # noqa: BLE001 - it is raised where the result is awaited
                outcome.set_exception(error)

    threading.Thread(target=work, name="certificates", daemon=True).start()
    return asyncio.wrap_future(outcome)
