"""What becomes of a connection that another has replaced."""

from pathlib import Path

import pytest

from common.protocol import CloseCode, Outcome, Started
from common.protocol.messages import Ack, encode
from defender import agent as agent_module
from defender.agent import Ending
from tests.defender.peer import console
from tests.defender.pki import Pki
from tests.defender.running import agent, connected, custom, over, settings_for

pytestmark = pytest.mark.usefixtures("quiet")


async def test_a_replaced_connection_answers_what_was_asked_on_it(
    pki: Pki, renewed: Pki, tmp_path: Path
) -> None:
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), custom(pki)) as running:
        before = await connected(peer)
        peer.superseding = False
        running.agent.offer(custom(renewed))
        after = await over(peer, renewed)
        running.agent._chronicle.record(Started("after"))
        before.command("fetchLogs", {"lines": 1})
        await peer.until(lambda: "c-1" in before.results)
        assert before.results["c-1"].outcome is Outcome.OK
        await peer.until(lambda: running.spool.held == 0)
        # Events take the new one only; the Console closes the old one when it is done with it.
        assert before.fenced == 0
        assert before.closed is None
        peer.superseding = True
        before.superseded()
        await peer.until(lambda: before.closed is not None)
        assert after.closed is None
        assert running.agent._leaving == set()
        assert "connectionLost" not in peer.only.types


async def test_a_replaced_connection_that_the_console_forgets_is_closed(
    pki: Pki, renewed: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "REPLACED_BOUND", 0.1)
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), custom(pki)) as running:
        before = await connected(peer)
        peer.superseding = False
        running.agent.offer(custom(renewed))
        await over(peer, renewed)
        await peer.until(lambda: before.closed is not None)
        assert before.closed == (CloseCode.NORMAL, "moved")


async def test_an_acknowledgement_on_it_counts_no_more(pki: Pki, renewed: Pki, tmp_path: Path) -> None:
    """What the Console has, it says on the newer one: what is forgotten here can't be sent there."""
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), custom(pki)) as running:
        before = await connected(peer)
        peer.superseding = False
        peer.acknowledging = False
        await peer.until(lambda: "certificateProved" in peer.only.types)
        before.deaf = True
        running.agent._chronicle.record(Started("sent, and never arrived"))
        sent = running.spool.position.next - 1
        running.agent.offer(custom(renewed))
        after = await over(peer, renewed)
        await peer.until(lambda: peer.only_types("certificateProved") == 2)
        held = running.spool.held
        before.deaf = False
        before.connection.send(encode(Ack(before.end.epoch, sent)))
        before.command("reportState")
        await peer.until(lambda: "c-1" in before.results)
        assert running.spool.held == held > 0
        after.acknowledge_all()
        await peer.until(lambda: running.spool.held == 0)


async def test_an_order_to_restart_on_it_is_answered_and_done(pki: Pki, renewed: Pki, tmp_path: Path) -> None:
    async with console(pki) as peer:
        async with agent(settings_for(peer.port, tmp_path), custom(pki)) as running:
            before = await connected(peer)
            peer.superseding = False
            running.agent.offer(custom(renewed))
            await over(peer, renewed)
            before.command("restart")
            await peer.until(lambda: before.closed is not None)
            assert before.results["c-1"].outcome is Outcome.OK
        assert running.ending is Ending.RESTART


async def test_a_stop_says_goodbye_on_it_too(pki: Pki, renewed: Pki, tmp_path: Path) -> None:
    async with console(pki) as peer:
        async with agent(settings_for(peer.port, tmp_path), custom(pki)) as running:
            before = await connected(peer)
            peer.superseding = False
            running.agent.offer(custom(renewed))
            after = await over(peer, renewed)
        await peer.until(lambda: before.closed is not None and after.closed is not None)
        assert before.closed == after.closed == (CloseCode.GOING_AWAY, "test over")
