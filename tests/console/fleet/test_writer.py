"""What the fleet asks of the store, also while the store can't do it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.certificates import Role
from console.fleet.fleet import Fleet
from console.store import Store
from tests.console.store.disks import fill, small_disk
from tests.peers import Peer, event
from tests.pki import PKI


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A store on a small disk of its own, so that the disk can be filled."""
    with small_disk(tmp_path / "disk", "4m") as disk:
        async with await Store.open(disk / "data") as store:
            yield store


async def test_a_full_disk_costs_no_event(
    fleet: Fleet, store: Store, pki: PKI, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    peer = Peer()
    await peer.connect(fleet.port, pki.set(Role.DEFENDER_CLIENT))
    welcome = await peer.welcomed()
    ballast = fill(tmp_path / "disk")
    peer.post(1, *(event("x" * 2000) for _ in range(50)))
    async with asyncio.timeout(10):
        while "Defenders keep their events until the store takes them" not in caplog.text:
            await asyncio.sleep(0.05)
    assert peer.acked == 0
    ballast.unlink()
    await peer.until(lambda: peer.acked == 50)
    assert len(await store.events.list(welcome.defender_id, limit=1000)) == 50
    assert peer.closed is None


async def test_last_seen_is_written_once_a_second_for_all(fleet: Fleet, store: Store, pki: PKI) -> None:
    peers = [Peer(hostname=f"h-{n}") for n in range(5)]
    for peer in peers:
        await peer.connect(fleet.port, pki.set(Role.DEFENDER_CLIENT))
    ids = [(await peer.welcomed()).defender_id for peer in peers]
    before = {}
    for id_ in ids:
        record = await store.defenders.get(id_)
        assert record is not None
        before[id_] = record.last_seen
    for peer in peers:
        peer.post(1, event("alive"))

    async def moved() -> bool:
        records = [await store.defenders.get(id_) for id_ in ids]
        return all(record and record.last_seen > before[record.id] for record in records)

    async with asyncio.timeout(10):
        while not await moved():
            await asyncio.sleep(0.05)
    assert not fleet.failures
