import logging
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from common.clock import SystemClock
from defender import lookout as lookout_module
from defender.credentials import Credentials, CredentialSource
from defender.lookout import Found, Lookout
from tests.defender.peer import PATIENCE
from tests.defender.pki import Pki


class Slow(CredentialSource):
    """One whose volume answers when the test says so."""

    def __init__(self, folder: Path) -> None:
        super().__init__("", folder)
        self.answers = threading.Event()
        self.looks = 0
        self.trouble: Exception | None = None

    def reload(self, now: datetime) -> Found:
        self.looks += 1
        self.answers.wait(PATIENCE)
        if self.trouble:
            raise self.trouble
        return super().reload(now)


@pytest.fixture
def source(pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    monkeypatch.setattr(lookout_module, "LOOK_BOUND", 0.05)
    pki.deploy(tmp_path)
    slow = Slow(tmp_path)
    yield slow
    slow.answers.set()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


async def test_what_hangs_is_left_alone_until_it_answers(
    source: Slow, caplog: pytest.LogCaptureFixture
) -> None:
    lookout = Lookout(source, SystemClock())
    assert [await lookout.look() for _ in range(3)] == [None] * 3
    assert source.looks == 1
    (line,) = said(caplog)
    assert line.startswith(f"{source.place} does not answer: check its volume (mount, network, file server)")
    source.answers.set()
    found: Found = None
    for _ in range(100):
        found = found or await lookout.look()
        if found:
            break
    assert isinstance(found, Credentials)
    # Nothing has changed since, and it answers.
    assert await lookout.look() is None
    assert source.looks == 2
    assert len(said(caplog)) == 1


@pytest.mark.parametrize(
    "trouble", [OSError(24, "Too many open files"), RuntimeError("can't start new thread")]
)
async def test_a_trouble_of_the_host_is_said_once_and_passes(
    source: Slow, trouble: Exception, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout_module, "LOOK_BOUND", PATIENCE)
    source.answers.set()
    lookout = Lookout(source, SystemClock())
    for _ in range(2):
        source.trouble = trouble
        assert [await lookout.look() for _ in range(3)] == [None] * 3
        source.trouble = None
        await lookout.look()
    # Twice: in between there was none.
    assert len(said(caplog)) == 2
    assert str(trouble) in said(caplog)[0]


async def test_a_host_without_a_thread_to_spare(
    source: Slow, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.answers.set()
    lookout = Lookout(source, SystemClock())
    with monkeypatch.context() as short:

        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        short.setattr(threading.Thread, "start", refuse)
        assert await lookout.look() is None
    assert "can't start new thread" in said(caplog)[0]
    monkeypatch.setattr(lookout_module, "LOOK_BOUND", PATIENCE)
    assert isinstance(await lookout.look(), Credentials)
