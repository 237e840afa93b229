"""Events of a directory: armed, lost, refused, armed again."""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from common.certificates.hints import Events, Identity
from common.clock import SystemClock

pytestmark = pytest.mark.usefixtures("hasty")


class Clock(SystemClock):
    """One whose waiting is the test's."""

    at = 1000.0

    def monotonic(self) -> float:
        return self.at


class Probe:
    """Events with what they have told."""

    def __init__(self, directory: Path) -> None:
        self.clock = Clock()
        self.changes = 0
        self.failures: list[Exception] = []
        self.events = Events(directory, self.clock, changed=self.changed, failed=self.failures.append)

    def changed(self) -> None:
        self.changes += 1

    async def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)


def identity(directory: Path) -> Identity:
    status = directory.stat()
    return status.st_dev, status.st_ino


@pytest.fixture
async def probe(tmp_path: Path) -> AsyncIterator[Probe]:
    probe = Probe(tmp_path / "certs")
    (tmp_path / "certs").mkdir()
    yield probe
    await probe.events.close()


async def armed(probe: Probe, folder: Path, *, anew: bool = False) -> None:
    """Arm it, and wait for the word that it is."""
    before = probe.changes
    probe.events.follow(identity(folder), anew=anew)
    await probe.until(lambda: probe.changes > before)


async def test_it_tells_that_it_is_armed_and_of_each_change(probe: Probe, tmp_path: Path) -> None:
    await armed(probe, tmp_path / "certs")
    for turn in range(2, 5):
        (tmp_path / "certs" / "file").write_bytes(b"x" * turn)
        await probe.until(lambda turn=turn: probe.changes >= turn)  # type: ignore[misc]


async def test_following_the_same_directory_again_changes_nothing(probe: Probe, tmp_path: Path) -> None:
    await armed(probe, tmp_path / "certs")
    before = hints(probe)
    probe.events.follow(identity(tmp_path / "certs"), anew=False)
    assert hints(probe) is before
    assert probe.events.due == float("inf")
    probe.events.follow(identity(tmp_path / "certs"), anew=True)
    assert hints(probe) is not before


async def test_nothing_below_the_directory_counts(probe: Probe, tmp_path: Path) -> None:
    """Not where a symlink leads, either: it could be the root of a file system."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "certs" / "link").symlink_to(elsewhere)
    await armed(probe, tmp_path / "certs")
    (elsewhere / "file").write_bytes(b"x")
    (tmp_path / "certs" / "file").write_bytes(b"x")
    await probe.until(lambda: probe.changes >= 2)
    assert probe.changes == 2


async def test_a_directory_that_is_removed_and_made_again(probe: Probe, tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    await armed(probe, folder)
    folder.rmdir()
    folder.mkdir()
    await probe.until(lambda: hints(probe) is None)
    await armed(probe, folder)
    (folder / "file").write_bytes(b"x")
    before = probe.changes
    await probe.until(lambda: probe.changes > before)
    assert not probe.failures


async def test_no_directory_no_events(probe: Probe, tmp_path: Path) -> None:
    await armed(probe, tmp_path / "certs")
    probe.events.follow(None, anew=False)
    assert hints(probe) is None
    assert probe.events.due == float("inf")


async def test_one_that_vanishes_before_it_is_armed_is_no_failure(probe: Probe, tmp_path: Path) -> None:
    there = identity(tmp_path / "certs")
    (tmp_path / "certs").rmdir()
    probe.events.follow(there, anew=False)
    await probe.until(lambda: probe.changes)
    assert not probe.failures
    assert probe.events.due == probe.clock.at + 1


async def test_what_can_t_be_armed_is_told_once_and_tried_at_a_slowing_pace(
    probe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = identity(tmp_path / "certs")
    with monkeypatch.context() as patch:
        patch.setattr("watchfiles.watch", refuse)
        for delay in (1, 2, 4, 8, 16, 32, 60, 60):
            before = probe.changes
            probe.events.follow(there, anew=False)
            await probe.until(lambda before=before: probe.changes > before)  # type: ignore[misc]
            assert probe.events.due == probe.clock.at + delay
            probe.events.follow(there, anew=False)
            assert hints(probe) is None
            probe.clock.at += delay
    assert [str(failure) for failure in probe.failures] == ["OS file watch limit reached."]
    await armed(probe, tmp_path / "certs")


async def test_a_name_that_is_no_utf_8_ends_a_watch_and_the_next_is_there_soon(
    probe: Probe, tmp_path: Path
) -> None:
    folder = tmp_path / "certs"
    await armed(probe, folder)
    (folder / "\udcff").write_bytes(b"x")
    await probe.until(lambda: hints(probe) is None)
    assert not probe.failures
    assert probe.events.due == probe.clock.at + 1
    probe.clock.at += 1
    await armed(probe, folder)


async def test_closing_ends_every_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    probe = Probe(tmp_path)
    for _ in range(3):
        await armed(probe, tmp_path, anew=True)
    await probe.events.close()
    for thread in set(threading.enumerate()) - before:
        await asyncio.to_thread(thread.join, 10)
    assert not [one for one in set(threading.enumerate()) - before if one.name == "certificate-hints"]


class PanicError(BaseException):
    """As the library's own is one: no Exception."""


def without_library(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "watchfiles", None)


def with_a_panic(patch: pytest.MonkeyPatch) -> None:
    def panic(*_: object, **__: object) -> None:
        raise PanicError("index out of bounds")

    patch.setattr("watchfiles.watch", panic)


def without_threads(patch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    patch.setattr(threading.Thread, "start", start)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (without_library, "watchfiles"),
        (with_a_panic, "PanicError: index out of bounds"),
        (without_threads, "can't start new thread"),
    ],
)
async def test_whatever_keeps_a_watch_from_living_is_told_and_it_is_tried_again(
    probe: Probe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[pytest.MonkeyPatch], None],
    words: str,
) -> None:
    there = identity(tmp_path / "certs")
    with monkeypatch.context() as patch:
        break_it(patch)
        probe.events.follow(there, anew=False)
        await probe.until(lambda: probe.failures)
        assert hints(probe) is None
    assert words in str(probe.failures[0])
    assert probe.events.due == probe.clock.at + 1
    probe.clock.at += 1
    await armed(probe, tmp_path / "certs")


def refuse(*_: object, **__: object) -> None:
    raise OSError("OS file watch limit reached.")


def hints(probe: Probe) -> object:
    return probe.events._hints
