"""The load generator against the stand-in for the Console: it counts right. No test here asserts a time."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from common.bundle import Bundle, encode_bundle
from common.certificates import Role, read_files
from common.protocol import ConsoleOptions
from common.transport import FailureKind
from tests.bench.errors import BenchError
from tests.bench.lean import serving
from tests.bench.load import Fleet, Plan, defender_context, parse, plan_of

DEFENDERS = 20
QUICK = ConsoleOptions("bench", heartbeat_seconds=0.2)


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def plan(certificates: Path, folder: Path, port: int, events_per_minute: float = 0) -> Plan:
    return Plan(
        host="localhost",
        port=port,
        context=defender_context(read_files(certificates, Role.DEFENDER_CLIENT)),
        identities=folder / "identities",
        defenders=DEFENDERS,
        concurrency=4,
        events_per_minute=events_per_minute,
    )


@asynccontextmanager
async def keeping(fleet: Fleet) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fleet.keep(stop))
        await until(lambda: fleet.connected == DEFENDERS)
        try:
            yield
        finally:
            stop.set()


async def test_all_are_welcomed_and_give_signs_of_life(certificates: Path, tmp_path: Path) -> None:
    async with serving(certificates, options=QUICK) as (server, port):
        fleet = Fleet(plan(certificates, tmp_path, port))
        async with keeping(fleet):
            assert len(server.sessions) == server.welcomed == DEFENDERS
            await until(lambda: fleet.tally.heartbeats >= 2 * DEFENDERS)
        await until(lambda: not server.sessions)
    assert (fleet.tally.welcomed, fleet.tally.failed, fleet.tally.lost) == (DEFENDERS, {}, {})
    assert len(fleet.tally.waits) == DEFENDERS


async def test_events_are_posted_until_they_are_acknowledged(certificates: Path, tmp_path: Path) -> None:
    async with serving(certificates) as (_, port):
        fleet = Fleet(plan(certificates, tmp_path, port, events_per_minute=600))
        async with keeping(fleet):
            await until(lambda: fleet.tally.acknowledged >= 3 * DEFENDERS)
    assert fleet.tally.posted >= fleet.tally.acknowledged
    assert all(d.through < d.next_event for d in fleet.defenders)


async def test_a_drain_moves_all_and_loses_none(certificates: Path, tmp_path: Path) -> None:
    async with serving(certificates, options=QUICK) as (server, port):
        fleet = Fleet(plan(certificates, tmp_path, port, events_per_minute=600))
        async with keeping(fleet):
            for number, session in enumerate(tuple(server.sessions)):
                session.ask_to_reconnect(number / 100, 20)
            await until(lambda: fleet.tally.moved == DEFENDERS)
            await until(lambda: len(server.sessions) == DEFENDERS)
            assert fleet.connected == DEFENDERS
    assert (fleet.tally.welcomed, fleet.tally.lost, fleet.tally.failed) == (2 * DEFENDERS, {}, {})


async def test_lost_ones_come_back(
    certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.bench.load.RETRY_SECONDS", 0.2)
    async with serving(certificates) as (_, port):
        fleet = Fleet(plan(certificates, tmp_path, port))
        stop = asyncio.Event()
        running = asyncio.create_task(fleet.keep(stop))
        await until(lambda: fleet.connected == DEFENDERS)
    await until(lambda: fleet.connected == 0)
    async with serving(certificates, port=port) as (server, _):
        await until(lambda: fleet.connected == DEFENDERS)
        assert len(server.sessions) == DEFENDERS
        stop.set()
        await running
    assert fleet.tally.lost.total() == DEFENDERS


async def test_a_cycle_leaves_nobody_behind(certificates: Path, tmp_path: Path) -> None:
    async with serving(certificates) as (server, port):
        fleet = Fleet(plan(certificates, tmp_path, port))
        await fleet.cycle(1.0)
        await until(lambda: not server.sessions)
    assert fleet.tally.welcomed == server.welcomed >= DEFENDERS
    assert (fleet.tally.failed, fleet.tally.lost) == ({}, {})


async def test_failures_are_counted_by_reason(certificates: Path, tmp_path: Path) -> None:
    async with serving(certificates) as (_, port):
        pass
    fleet = Fleet(plan(certificates, tmp_path, port))
    await fleet.cycle(0.2)
    assert fleet.tally.welcomed == 0
    assert list(fleet.tally.failed) == [FailureKind.REFUSED]


def test_a_bundle_is_all_it_needs(certificates: Path, tmp_path: Path) -> None:
    names = ("defender-ca.pem", "defender-client-cert.pem", "defender-client-key.pem")
    bundle = tmp_path / "bundle"
    bundle.write_text(encode_bundle(Bundle({name: (certificates / name).read_bytes() for name in names})))
    found = plan_of(parse(["--address", "console.test:8084", "--bundle", str(bundle), "--defenders", "3"]))
    assert (found.host, found.port, found.defenders) == ("console.test", 8084, 3)


def test_bad_certificates_are_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"defender-ca\.pem"):
        plan_of(parse(["--address", "console.test:8084", "--certificates", str(tmp_path)]))
