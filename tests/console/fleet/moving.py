"""Defenders that follow their Console, and certificate sets to move between."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from common.certificates import FILES, CertificateSet, FileSet, Role, Source, judge
from common.protocol import ConsoleOptions, Event, ReconnectAsked
from common.transport import bind
from common.transport.failures import ConnectionFailed
from console.fleet.fleet import Fleet
from console.settings import ConsoleSettings
from console.store import Store
from tests.peers import PATIENCE, Peer, event, new_key
from tests.pki import PKI


class ShiftedClock:
    """This host's clocks; the wall clock can be set ahead."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def monotonic(self) -> float:
        return time.monotonic()


class JumpingClock(ShiftedClock):
    """One whose monotonic clock can be set ahead: what a process sees that stood still."""

    def __init__(self) -> None:
        super().__init__()
        self.jump = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.jump


def mixed(
    role: Role, signer: PKI, *trusted: PKI, source: Source = Source.CUSTOM, **more: Any
) -> CertificateSet:
    """A set with a fresh leaf of one CA and a bundle of others (of its own by default)."""
    issued = signer.issue(role, **more)
    files = FILES[role]
    assert files.ca is not None
    contents = {
        files.ca: b"".join(one.authority.certificate_pem for one in trusted or (signer,)),
        files.certificate: issued.chain,
        files.key: issued.key,
    }
    judgement = judge(FileSet.from_bytes(role, contents), now=signer.now, source=source)
    assert judgement.set is not None, judgement.faults
    return judgement.set


@asynccontextmanager
async def running(
    store: Store, first: CertificateSet, clock: ShiftedClock | None = None, **environ: str
) -> AsyncIterator[Fleet]:
    """A fleet that serves; options by their names."""
    settings = ConsoleSettings.read({"DATA_FOLDER": str(Path("/nowhere")), **environ})
    options = ConsoleOptions(version="0.1.0", heartbeat_seconds=30.0, hello_seconds=5.0)
    fleet = Fleet(store, settings, options, clock or ShiftedClock())
    fleet.use(first)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fleet.run())
        await fleet.start(await bind("127.0.0.1", 0))
        try:
            yield fleet
        finally:
            await fleet.close()


class Mover:
    """A Defender that makes before it breaks: `peer` is the connection that it holds.

    Args:
        port: Its Console's.
        certificates: What it presents and trusts.
        tasks: Own its attempts.
        hostname: What it claims.
    """

    def __init__(
        self, port: int, certificates: CertificateSet, tasks: asyncio.TaskGroup, hostname: str
    ) -> None:
        self.port = port
        self.certificates = certificates
        self.hostname = hostname
        self.key = new_key()
        self.spool: list[Event] = []
        self.acked = 0
        self.moves = 0
        self.peer: Peer | None = None
        self._tasks = tasks

    async def start(self) -> "Mover":
        """Connect."""
        self.peer = await self._connect()
        assert self.peer.welcome is not None, self.peer.closed
        return self

    def happen(self, text: str) -> None:
        """Something happened: it is in the spool, and posted on the connection held."""
        self.spool.append(event(text))
        assert self.peer is not None
        self.peer.post(len(self.spool), self.spool[-1])

    async def _connect(self) -> Peer:
        peer = Peer(key=self.key, hostname=self.hostname, next=len(self.spool) + 1)
        peer.on_asked = lambda asked: self._asked(peer, asked)
        await peer.connect(self.port, self.certificates)
        await peer.until(lambda: peer.welcome is not None or peer.closed is not None)
        return peer

    def _asked(self, peer: Peer, asked: ReconnectAsked) -> None:
        self._tasks.create_task(self._follow(peer, asked))

    async def _follow(self, old: Peer, asked: ReconnectAsked) -> None:
        await asyncio.sleep(max(0.0, asked.at - time.monotonic()))
        assert old.end is not None
        try:
            new = await self._connect()
        except ConnectionFailed as error:
            old.do(old.end.reconnect_failed("unknownCa", str(error)))
            return
        if new.welcome is None:
            old.do(old.end.reconnect_failed("refused", str(new.closed)))
            return
        self.moves += 1
        self.peer = new
        for number in range(new.welcome.acked_through + 1, len(self.spool) + 1):
            new.post(number, self.spool[number - 1])


async def become(condition: Any) -> None:
    """Wait until it is true."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)
