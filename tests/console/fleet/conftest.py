"""A fleet in this process: the real listener, the real store, a CA of the tests'."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from common.certificates import Role
from common.clock import SystemClock
from common.protocol import ConsoleOptions
from common.transport import bind
from console.fleet.fleet import Fleet
from console.fleet.session import Session
from console.settings import ConsoleSettings
from console.store import Store
from tests.pki import PKI


@pytest.fixture(scope="session")
def pki() -> PKI:
    return PKI()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "data")
    yield store
    await store.close()


@pytest.fixture
def options() -> ConsoleOptions:
    return ConsoleOptions(version="0.1.0", heartbeat_seconds=30.0, hello_seconds=5.0)


@pytest.fixture
def settings(tmp_path: Path) -> ConsoleSettings:
    return ConsoleSettings.read({"DATA_FOLDER": str(tmp_path / "data")})


@pytest.fixture
async def fleet(
    store: Store, settings: ConsoleSettings, options: ConsoleOptions, pki: PKI
) -> AsyncIterator[Fleet]:
    assert settings.tls_minimum is ssl.TLSVersion.TLSv1_3
    fleet = Fleet(store, settings, options, SystemClock())
    fleet.use(pki.set(Role.DEFENDER_SERVER))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fleet.run())
        await fleet.start(await bind("127.0.0.1", 0))
        yield fleet
        await fleet.close()


@pytest.fixture(autouse=True)
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "console.fleet.drain"):
        yield caplog


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Who is asked, and for when, in this order."""
    given: list[tuple[str, float]] = []
    ask = Session.ask

    def recorded(session: Session, slot: float, deadline: float, reason: str) -> bool:
        given.append((session.hostname, slot))
        return ask(session, slot, deadline, reason)

    monkeypatch.setattr(Session, "ask", recorded)
    return given
