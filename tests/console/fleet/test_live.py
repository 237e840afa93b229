import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from console.fleet.live import Live


@dataclass(eq=False)
class Stub:
    """A session as the registry sees it."""

    defender_id: str
    session: int
    since: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    address: str = "127.0.0.1:1"
    certificate_not_after: datetime = datetime(2029, 1, 1, tzinfo=UTC)
    using_old_ca: bool = False


@pytest.fixture
def live() -> Live[Stub]:
    return Live()


def test_a_session_is_its_defenders(live: Live[Stub]) -> None:
    session = Stub("d-1", 1)
    assert live.add(session) is None
    assert live.connected("d-1") is session
    assert live.connected("d-2") is None
    assert list(live) == [session]
    assert len(live) == 1


def test_the_newer_session_supersedes_the_older(live: Live[Stub]) -> None:
    old, new = Stub("d-1", 1), Stub("d-1", 2)
    live.add(old)
    assert live.add(new) is old
    assert live.connected("d-1") is new


def test_an_older_session_that_comes_late_is_superseded_itself(live: Live[Stub]) -> None:
    old, new = Stub("d-1", 1), Stub("d-1", 2)
    live.add(new)
    assert live.add(old) is old
    assert live.connected("d-1") is new


def test_the_end_of_a_superseded_session_leaves_the_newer(live: Live[Stub]) -> None:
    old, new = Stub("d-1", 1), Stub("d-1", 2)
    live.add(old)
    live.add(new)
    assert not live.remove(old)
    assert live.connected("d-1") is new
    assert live.remove(new)
    assert live.connected("d-1") is None


async def test_who_waits_hears_of_a_change(live: Live[Stub]) -> None:
    async with asyncio.TaskGroup() as tasks:
        waits = [tasks.create_task(live.wait_for_change(live.version)) for _ in range(3)]
        await asyncio.sleep(0)
        live.add(Stub("d-1", 1))
    assert [wait.result() for wait in waits] == [live.version] * 3


async def test_who_is_late_hears_at_once(live: Live[Stub]) -> None:
    before = live.version
    live.changed()
    assert await asyncio.wait_for(live.wait_for_change(before), 1) == live.version
