"""An agent that the Console, or its own spool, moves to a new connection."""

import asyncio
from pathlib import Path

import pytest

from common.protocol import (
    CloseCode,
    Started,
    details,
)
from tests.defender.peer import Console, console, eventually
from tests.defender.pki import Pki
from tests.defender.running import agent, settings_for

pytestmark = pytest.mark.usefixtures("quiet")


async def connected(peer: Console, number: int = 1) -> None:
    session = await peer.welcomed(number)
    await peer.until(lambda: "certificateProved" in peer.only.types and session.facts is not None)


async def test_it_moves_without_a_gap(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path)) as running:
        await connected(peer)
        before = peer.sessions[0]
        peer.acknowledging = False
        running.agent._chronicle.record(Started("on its way"))
        before.reconnect()
        # The new one is welcomed while the old one stands.
        after = await peer.welcomed(2)
        assert after.beside == [before]
        await peer.until(lambda: before.closed is not None)
        assert before.closed == (CloseCode.SUPERSEDED, "this Defender has a newer connection")
        peer.acknowledging = True
        running.agent._chronicle.record(Started("after"))
        await peer.until(lambda: running.spool.held == 0)
        assert after.closed is None
        assert peer.only.types.count("started") == 3
        assert "connectionLost" not in peer.only.types


async def test_a_move_waits_for_its_slot(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path)):
        await connected(peer)
        loop = asyncio.get_running_loop()
        asked = loop.time()
        peer.sessions[0].reconnect(slot=0.4)
        await peer.welcomed(2)
        assert 0.39 <= loop.time() - asked < 5


async def test_a_move_that_fails_is_said_and_the_connection_kept(
    pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path)):
        await connected(peer)
        session = peer.sessions[0]
        peer.refuse = CloseCode.TRY_AGAIN
        session.reconnect()
        await peer.until(lambda: session.move_failures != [])
        assert session.move_failures[0] == "busy"
        assert session.closed is None
        assert "the present one is kept" in caplog.text
        peer.refuse = None
        # It goes on trying, as long as the old one stands.
        await peer.welcomed(2)
        await peer.until(lambda: session.closed is not None)


async def test_what_is_left_of_a_refused_move_ends_with_its_connection(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path)):
        await connected(peer)
        session = peer.sessions[0]
        peer.refuse = CloseCode.LOCKED
        session.reconnect()
        await peer.until(lambda: session.move_failures == ["refused"])
        # The next attempt is half a minute away, but there is nothing left to keep.
        peer.refuse = None
        session.close(CloseCode.RESTARTING)
        await peer.welcomed(2)


async def test_a_connection_that_ends_while_moving_is_replaced(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path)):
        await connected(peer)
        peer.sessions[0].reconnect(slot=30, deadline=40)
        peer.sessions[0].close(CloseCode.RESTARTING)
        await peer.welcomed(2)


async def test_a_new_epoch_while_it_runs_takes_a_new_connection(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path)) as running:
        await connected(peer)
        await eventually(lambda: running.spool.held == 0)
        running.spool.renew()
        running.agent._chronicle.record(Started("in the new epoch"))
        await peer.welcomed(2)
        await peer.until(lambda: running.spool.held == 0)
        epoch = running.spool.position.epoch
        assert [details(event) for event in peer.only.applied[epoch].values()] == [
            Started("in the new epoch")
        ]
