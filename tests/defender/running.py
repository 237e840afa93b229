"""An agent that runs in the test's own loop, against a Console of `peer`."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from common.certificates import Source
from common.clock import SystemClock
from defender.agent import Agent, Ending
from defender.connection import Dialer
from defender.credentials import Credentials, CredentialSource
from defender.identity import InstanceKey, load_or_create
from defender.journal import Journal
from defender.resolve import Resolver
from defender.settings import DefenderSettings
from defender.spool import Bounds, Spool
from tests.defender.peer import Console, Session
from tests.defender.pki import Pki


def settings_for(port: int, folder: Path, *, host: str = "127.0.0.1", **changes: str) -> DefenderSettings:
    environ = {
        "WS_ADDRESS": f"wss://{host}:{port}",
        "DATA_FOLDER": str(folder),
        "GARRISON_HOSTNAME": "test-host",
        "GARRISON_CONNECT_TIMEOUT": "5s",
        **changes,
    }
    return DefenderSettings.read(environ)


class QuickRandom(random.Random):
    """Jitter that never waits long: tests are about order, not about time."""

    def uniform(self, a: float, b: float) -> float:
        return min(b, a + 0.02)


class Running:
    """An agent at work in this loop."""

    def __init__(
        self,
        settings: DefenderSettings,
        resolver: Resolver | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.settings = settings
        folder = settings.data_folder
        self.key: InstanceKey = load_or_create(folder)
        self.spool = Spool(folder, Bounds(settings.spool_bytes, settings.spool_events))
        self.source = CredentialSource(settings.install_bundle, folder, tls_minimum=settings.tls_minimum)
        self.journal = Journal(logging.Formatter("%(message)s"))
        self.agent = Agent(
            settings,
            key=self.key,
            spool=self.spool,
            source=self.source,
            credentials=credentials or self.source.load(datetime.now(UTC)),
            journal=self.journal,
            dialer=Dialer(settings.address, resolver or Resolver(), patience=settings.connect_timeout),
            clock=SystemClock(),
            rng=QuickRandom(1),
        )
        self.ending: Ending | None = None


@asynccontextmanager
async def agent(settings: DefenderSettings, credentials: Credentials | None = None) -> AsyncIterator[Running]:
    """An agent that runs meanwhile, and is stopped in order after."""
    running = Running(settings, credentials=credentials)
    try:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(running.agent.run())
            try:
                yield running
            finally:
                running.agent.stop("test over")
        running.ending = task.result()
    finally:
        running.spool.close()


# What tests of swaps ask


def custom(pki: Pki) -> Credentials:
    """The Defender's set, as the operator's own."""
    return pki.credentials(Source.CUSTOM, "custom-certificates")


async def connected(peer: Console, number: int = 1) -> Session:
    """The n-th session that was welcomed, once the Defender is known to have seen it."""
    session = await peer.welcomed(number)
    await peer.until(lambda: session.facts is not None)
    return session


async def over(peer: Console, pki: Pki) -> Session:
    """The first session that was made with these certificates."""

    def found() -> list[Session]:
        ours = pki.client.certificate.der
        return [one for one in peer.open_sessions() if one.presented == ours and one.facts]

    await peer.until(lambda: bool(found()))
    return found()[0]


def is_moving_in_vain(caplog: pytest.LogCaptureFixture) -> bool:
    """Whether it was logged by now."""
    return "Cannot move to a new connection, the present one is kept" in caplog.text
