"""What goes wrong beside the files: a host without threads or descriptors, a job that hangs, a cancel."""

import asyncio
import errno
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from common.certificates import CertificateSet, Channel, DirectoryState, FaultKind, Watcher, hints, watcher
from common.certificates.hints import Identity
from common.clock import SystemClock
from common.errors import CustomCertificatesError
from tests.common.certificates.followed import (
    CLIENT,
    CRITICAL,
    ERROR,
    HTTPS,
    INFO,
    WARNING,
    CountingWatcher,
    Followed,
    copy,
    files,
)
from tests.common.certificates.pki import DAY, NOW, files_for, make_ca, make_server

pytestmark = pytest.mark.usefixtures("hasty")


class Mute:
    """Events that never come."""

    def __init__(self, *_: object, **__: object) -> None:
        self.due = math.inf

    def follow(self, identity: Identity | None, *, anew: bool) -> None:
        """Nothing."""

    async def close(self) -> None:
        """Nothing."""


@pytest.fixture
def mute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks are the test's alone."""
    monkeypatch.setattr(watcher, "Events", Mute)


@pytest.fixture
def arms(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Each watch that was armed."""
    found: list[Path] = []

    class Counted(hints.Hints):
        def __init__(
            self,
            directory: Path,
            *,
            changed: Callable[[], None],
            ended: Callable[[Exception | None, bool], None],
        ) -> None:
            found.append(directory)
            super().__init__(directory, changed=changed, ended=ended)

    monkeypatch.setattr(hints, "Hints", Counted)
    return found


class PanicError(BaseException):
    """As an extension raises it: no Exception."""


def without_threads(patch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    patch.setattr(threading.Thread, "start", start)


def with_a_panic_in_reading(patch: pytest.MonkeyPatch) -> None:
    def panic(*_: object) -> None:
        raise PanicError("can't start new thread")  # the same words, for the test's sake

    patch.setattr(watcher, "_view", panic)


def with_a_panic_in_judging(patch: pytest.MonkeyPatch) -> None:
    def panic(*_: object, **__: object) -> None:
        raise PanicError("can't start new thread")

    patch.setattr(watcher, "judge_files", panic)


TROUBLES = [without_threads, with_a_panic_in_reading, with_a_panic_in_judging]


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_look_that_fails_ends_nothing_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[pytest.MonkeyPatch], None]
) -> None:
    copy(tmp_path, files("a"))
    async with Followed(tmp_path, poll=0.1) as followed:
        await followed.until_decided()
        with monkeypatch.context() as patch:
            trouble(patch)
            copy(tmp_path, files("b"))
            line = await followed.until_said(ERROR, "could not be looked at")
            before = followed.watcher._not_before
            await followed.until(lambda: followed.watcher._not_before > before)  # and again, silently
        assert "can't start new thread" in line
        assert "it is tried again every 0.1 s" in line
        await followed.until_used("b")
        await followed.until_said(INFO, "can be looked at again")
        with monkeypatch.context() as patch:
            trouble(patch)
            copy(tmp_path, files("c"))
            before = followed.watcher._not_before
            await followed.until(lambda: followed.watcher._not_before > before)
        await followed.until_used("b", "c")
        assert len(followed.said(ERROR)) == 1
        assert len([text for text in followed.said(INFO) if "looked at again" in text]) == 1


@pytest.mark.usefixtures("mute")
async def test_a_look_that_failed_is_not_made_up_for_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever asks for it: the host needs its rest."""
    monkeypatch.setattr(watcher, "RETRY_SECONDS", 0.4)
    copy(tmp_path, files("a"))
    starts: list[float] = []

    async with Followed(tmp_path) as followed:
        await followed.until_decided()

        def fail(*_: object) -> None:
            starts.append(time.monotonic())
            raise MemoryError

        monkeypatch.setattr(watcher, "_view", fail)

        def three() -> bool:
            followed.watcher.look()
            return len(starts) >= 3

        await followed.until(three)
    assert all(after - before >= 0.4 for before, after in itertools.pairwise(starts))
    assert "MemoryError" in followed.said(ERROR)[0]


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_start_that_cannot_look_ends_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[pytest.MonkeyPatch], None]
) -> None:
    copy(tmp_path, files("a"))
    followed = Followed(tmp_path)
    trouble(monkeypatch)
    with pytest.raises(CustomCertificatesError) as caught:
        await followed.watcher.start()
    assert followed.said(CRITICAL) == list(caught.value.lines)
    assert "can't start new thread" in str(caught.value)


async def test_a_key_that_the_host_has_no_descriptor_for_is_used_when_it_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(tmp_path, files("a"))
    async with Followed(tmp_path) as followed:
        with monkeypatch.context() as patch:

            def refuse(*_: object) -> int:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

            patch.setattr(os, "memfd_create", refuse)
            copy(tmp_path, files("b"))
            line = await followed.until_said(ERROR, "Too many open files")
            assert "ulimit -n" in line
            status = followed.watcher.status()[CLIENT]
            assert [fault.kind for fault in status.faults] == [FaultKind.HOST]
        await followed.until_used("b")


@pytest.mark.parametrize("error", [OSError(errno.ENOMEM, "Cannot allocate memory"), MemoryError()])
async def test_a_channel_that_the_host_fails_takes_the_set_later(tmp_path: Path, error: Exception) -> None:
    used: list[str] = []
    failing = True

    def use(set_: CertificateSet) -> None:
        if failing:
            raise error
        used.append(set_.leaf.subject)

    lines: list[str] = []
    followed = Watcher(
        tmp_path, [Channel(CLIENT, use)], clock=SystemClock(), say=lambda _, text: lines.append(text)
    )
    await followed.start()
    task = asyncio.create_task(followed.run())
    copy(tmp_path, files("a"))
    async with asyncio.timeout(30):
        while not any("cannot be put in force" in line for line in lines):
            await asyncio.sleep(0.01)
        assert followed.status()[CLIENT].state is DirectoryState.BAD
        failing = False
        while not used:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    assert used == ["CN=a"]


class Gate:
    """Holds a job in its thread."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, *_: object, **__: object) -> None:
        self.reached.set()
        self.open.wait(30)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.mark.parametrize("what", ["_view", "judge_files"])
async def test_a_job_that_hangs_is_told_and_the_set_in_use_ages_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate, what: str
) -> None:
    monkeypatch.setattr(watcher, "NO_ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(watcher, "_NAP", 0.05)
    leaf = make_server(make_ca("ca"), "a", begin=NOW - 30 * DAY, end=NOW + 30 * DAY)
    copy(tmp_path, files_for(HTTPS, leaf))
    real = getattr(watcher, what)

    def hang(*arguments: object, **more: object) -> object:
        gate(*arguments)
        return real(*arguments, **more)

    async with Followed(tmp_path, HTTPS) as followed:
        await followed.until_decided()
        monkeypatch.setattr(watcher, what, hang)
        copy(tmp_path, files("b", HTTPS))
        await followed.until(gate.reached.is_set)
        await followed.until_said(WARNING, "has not answered for 0.2 s")
        followed.clock.shift = 20 * DAY
        await followed.until_said(WARNING, "expire soon")
        followed.clock.shift = timedelta(0)
        gate.open.set()
        await followed.until_used("b")
        assert len([text for text in followed.said(WARNING) if "has not answered" in text]) == 1


@pytest.mark.parametrize("turns", range(8))
async def test_a_cancel_beside_an_event_is_not_lost(tmp_path: Path, turns: int) -> None:
    """Else the group of tasks that it is in would wait for ever."""
    copy(tmp_path, files("a"))
    followed = Followed(tmp_path)
    await followed.watcher.start()
    followed.run()
    assert followed.task is not None
    await followed.until_decided()
    await followed.until(lambda: not followed.watcher._wanted.is_set())
    followed.watcher.look()
    for _ in range(turns):
        await asyncio.sleep(0)
    followed.task.cancel()
    done, _ = await asyncio.wait({followed.task}, timeout=10)
    assert done
    assert followed.task.cancelled()


@pytest.mark.usefixtures("mute")
async def test_an_event_during_a_look_leads_to_another(tmp_path: Path) -> None:
    """What it tells of may have been missed by this one."""
    copy(tmp_path, files("a"))

    class Interrupted(CountingWatcher):
        interruptions = 0

        async def _read(self) -> object:  # type: ignore[override]
            view = await super()._read()
            if self.interruptions:
                self.interruptions -= 1
                self.look()
            return view

    interrupted = Interrupted(tmp_path, [Channel(CLIENT, print)], clock=SystemClock(), poll_seconds=3600)
    await interrupted.start()
    task = asyncio.create_task(interrupted.run())
    interrupted.interruptions = 3
    async with asyncio.timeout(30):
        while interrupted.looks < 4:  # the first, and one for each of those
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})


@pytest.mark.usefixtures("mute")
async def test_between_two_looks_there_is_quiet(tmp_path: Path) -> None:
    """However often somebody asks: that two looks saw the same proves something only then (0.05 s here)."""
    copy(tmp_path, files("a"))
    spans: list[tuple[float, float]] = []

    class Timed(CountingWatcher):
        async def _read(self) -> object:  # type: ignore[override]
            begun = time.monotonic()
            view = await super()._read()
            spans.append((begun, time.monotonic()))
            return view

    timed = Timed(tmp_path, [Channel(CLIENT, print)], clock=SystemClock())
    await timed.start()
    spans.clear()
    task = asyncio.create_task(timed.run())
    async with asyncio.timeout(30):
        while len(spans) < 6:
            timed.look()
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    pauses = [after[0] - before[1] for before, after in itertools.pairwise(spans)]
    assert min(pauses) >= 0.05 - 0.005  # the end is noted a moment later here than there


async def test_a_directory_that_is_missing_is_looked_for_more_often_than_one_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    folder.mkdir()
    copy(folder, files("a"))
    async with Followed(folder) as followed:
        await followed.until_decided()
        folder.rename(tmp_path / "away")
        followed.watcher.look()
        await followed.until(lambda: followed.watcher._seen and not folder.exists())
        await followed.until_said(WARNING, "gone")
        now = followed.clock.monotonic()
        assert followed.watcher._poll_at <= now + watcher.MISSING_SECONDS
        (tmp_path / "away").rename(folder)
        copy(folder, files("b"))
        await followed.until_used("b")


async def test_a_file_that_changes_all_the_time_does_not_arm_the_watch_anew(
    tmp_path: Path, arms: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that follows a change is faster than the events of the next: they are no worse for that."""
    monkeypatch.setattr(hints, "_DEBOUNCE_MS", 1000)
    copy(tmp_path, files("a"))
    async with Followed(tmp_path) as followed:
        await followed.until_decided()
        await followed.until(lambda: len(arms) == 1)
        turn = 0

        def write() -> bool:
            nonlocal turn
            turn += 1
            (tmp_path / "defender-client-key.pem").write_bytes(b"x%d" % turn)
            return followed.watcher.looks > looks + 20

        looks = followed.watcher.looks
        followed.watcher.look()
        await followed.until(write)
        assert len(arms) == 1


async def test_a_change_that_only_a_poll_has_found_arms_the_watch_anew(
    tmp_path: Path, arms: list[Path]
) -> None:
    """It seems to be dead; here the files that links lead to lie where it does not look."""
    (tmp_path / "1").mkdir()
    copy(tmp_path / "1", files("a"))
    for name in files("a"):
        (tmp_path / name).symlink_to(f"1/{name}")
    async with Followed(tmp_path, poll=0.3) as followed:
        for turn, name in enumerate("bcdefgh"):  # the first may be seen by the look for which it was armed
            copy(tmp_path / "1", files(name))
            await followed.until_used(*"bcdefgh"[: turn + 1])
            if len(arms) >= 2:
                break
        assert len(arms) >= 2
