"""The load generator against the stand-in for the Console: it counts right. No test here asserts a time."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from common.bundle import Bundle, encode_bundle
from common.certificates import Role, read_files
from common.protocol import CloseCode, ConsoleOptions
from common.transport import FailureKind
from tests.bench.errors import BenchError
from tests.bench.generator import Fleet, Plan
from tests.bench.lean import LeanGeneration, serving
from tests.bench.load import parse, plan_of
from tests.bench.wallet import Wallet
from tests.operator import Operator
from tests.pki import PKI

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
        wallet=Wallet(read_files(certificates, Role.DEFENDER_CLIENT)),
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
    async with serving(certificates, options=QUICK, supersedes=True) as (server, port):
        fleet = Fleet(plan(certificates, tmp_path, port, events_per_minute=600))
        async with keeping(fleet):
            for number, session in enumerate(tuple(server.sessions)):
                session.ask_to_reconnect(number / 100, 20)
            await until(lambda: fleet.tally.moved == DEFENDERS)
            await until(lambda: len(server.sessions) == DEFENDERS)
            assert fleet.connected == DEFENDERS
            await until(lambda: not fleet.status()["leaving"])
    assert (fleet.tally.welcomed, fleet.tally.lost, fleet.tally.failed) == (2 * DEFENDERS, {}, {})
    assert (fleet.tally.asked, fleet.tally.overstayed) == (DEFENDERS, 0)


async def test_what_was_replaced_is_closed_by_us_if_the_console_does_not(
    certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.bench.generator.LEAVE_SECONDS", 0.1)
    async with serving(certificates) as (server, port):
        fleet = Fleet(plan(certificates, tmp_path, port))
        async with keeping(fleet):
            for session in tuple(server.sessions):
                session.ask_to_reconnect(0, 20)
            await until(lambda: fleet.tally.overstayed == DEFENDERS)
            await until(lambda: len(server.sessions) == DEFENDERS)
    assert fleet.tally.lost == {}


async def test_at_the_end_everything_is_acknowledged_once(certificates: Path, tmp_path: Path) -> None:
    async with serving(certificates, supersedes=True) as (server, port):
        planned = plan(certificates, tmp_path, port, events_per_minute=600)
        fleet = Fleet(replace(planned, settle=20))
        async with keeping(fleet):
            await until(lambda: fleet.tally.created >= DEFENDERS)
            for session in tuple(server.sessions):
                session.ask_to_reconnect(0, 20)
            await until(lambda: fleet.tally.moved == DEFENDERS)
    assert fleet.tally.created == fleet.tally.acknowledged == len(fleet.tally.delays)
    assert fleet.tally.posted >= fleet.tally.created
    ledger = fleet.ledger()
    assert sum(each["created"] for each in ledger) == fleet.tally.created
    assert all(each["created"] == each["through"] and each["id"] for each in ledger)


async def test_a_move_that_fails_is_told_and_the_operators_set_mends_it(
    certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Console got its files first: nobody is lost, and all move once theirs come."""
    monkeypatch.setattr("tests.bench.simulated.RETRY_CAP_SECONDS", 0.5)
    pki, folder = PKI(), tmp_path / "custom"
    folder.mkdir()
    async with serving(certificates, supersedes=True) as (server, port):
        given = read_files(certificates, Role.DEFENDER_CLIENT)
        fleet = Fleet(replace(plan(certificates, tmp_path, port), wallet=Wallet(given, folder)))
        async with keeping(fleet):
            server.generation = LeanGeneration(pki.set(Role.DEFENDER_SERVER))
            for session in tuple(server.sessions):
                session.ask_to_reconnect(0, 20)
            await until(lambda: len(server.not_moved) == DEFENDERS)
            assert (fleet.connected, fleet.tally.lost, fleet.tally.moved) == (DEFENDERS, {}, 0)
            Operator(folder, pki).copy(pki.files(Role.DEFENDER_CLIENT))
            await until(lambda: fleet.tally.moved >= DEFENDERS)
            status = fleet.status()
            assert (status["newest"], list(status["leaves"])) == (DEFENDERS, [server.generation.leaf.hex()])
    assert fleet.tally.lost == {}


async def test_files_that_come_before_the_consoles_cut_nobody_off(
    certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.bench.simulated.RETRY_CAP_SECONDS", 0.5)
    pki, folder = PKI(), tmp_path / "custom"
    folder.mkdir()
    async with serving(certificates, supersedes=True) as (server, port):
        given = read_files(certificates, Role.DEFENDER_CLIENT)
        fleet = Fleet(replace(plan(certificates, tmp_path, port), wallet=Wallet(given, folder)))
        async with keeping(fleet):
            Operator(folder, pki).copy(pki.files(Role.DEFENDER_CLIENT))
            await until(lambda: fleet.tally.failed.total() >= DEFENDERS)
            # One that is lost meanwhile comes back by the set that was proved.
            next(iter(server.sessions)).close(CloseCode.TRY_AGAIN, "")
            await until(lambda: fleet.tally.lost.total() == 1 and fleet.connected == DEFENDERS)
            server.generation = LeanGeneration(pki.set(Role.DEFENDER_SERVER))
            await until(lambda: fleet.status()["newest"] == DEFENDERS)
    assert fleet.tally.lost.total() == 1


async def test_lost_ones_come_back(
    certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.bench.simulated.RETRY_SECONDS", 0.2)
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
