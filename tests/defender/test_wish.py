"""Attempts that take longer than the Console allows: it is told, what stands is kept, they go on (D4a)."""

from pathlib import Path

import pytest

from common.protocol import CloseCode, Outcome, Started
from common.protocol.console_end import Move
from tests.defender.peer import Console, Session, console, eventually
from tests.defender.pki import Pki
from tests.defender.running import agent, connected, custom, is_moving_in_vain, over, settings_for

pytestmark = pytest.mark.usefixtures("quiet")

SOON = 0.6
"""Seconds until the deadline of a test's Reconnect."""


async def told(peer: Console, session: Session, times: int = 1) -> None:
    """Until it was said that an attempt takes its time, so and so often; the deadline has force meanwhile."""

    def said() -> bool:
        session.goes_by_the_deadline()
        assert session.closed is None
        return len(session.move_failures) >= times

    await peer.until(said)
    assert session.move_failures == ["unreachable"] * times
    assert session.end.move is Move.FAILED


async def heard(peer: Console, session: Session, command_id: str) -> None:
    """Until what was sent on a connection before now has come."""
    session.command("reportState", command_id=command_id)
    await peer.until(lambda: command_id in session.results)
    assert session.results[command_id].outcome is Outcome.OK


def speaks_up(session: Session) -> None:
    """A Console that has kept an attempt waiting goes on with it."""
    session.do(session.end.opened(session.loop.time()))


async def test_a_move_that_hangs_is_said_before_its_deadline(
    pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), custom(pki)) as running:
        before = await connected(peer)
        peer.silent = True
        before.reconnect(deadline=SOON)
        await told(peer, before)
        assert "still trying" in caplog.text
        # The attempt goes on, and nothing is lost while it does.
        await heard(peer, before, "c-1")
        assert [one.closed for one in peer.sessions] == [None, None]
        running.agent._chronicle.record(Started("meanwhile"))
        await peer.until(lambda: running.spool.held == 0)
        peer.silent = False
        speaks_up(peer.sessions[1])
        after = await connected(peer, 2)
        assert after.beside == [before]
        await peer.until(lambda: before.closed is not None)
        assert before.closed == (CloseCode.SUPERSEDED, "this Defender has a newer connection")
        await heard(peer, after, "c-2")
        assert len(peer.sessions) == 2
        assert before.end.stray == 0
        assert "connectionLost" not in peer.only.types


@pytest.mark.parametrize("closed_first", [False, True])
async def test_one_that_is_welcomed_after_the_deadline_is_the_one_in_use(
    pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, closed_first: bool
) -> None:
    """Its Hello is out: the Console may welcome it, and let go of the other, at any moment."""
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), custom(pki)) as running:
        before = await connected(peer)
        peer.pondering = True
        before.reconnect(deadline=SOON)
        await told(peer, before)
        slow = peer.sessions[1]
        await heard(peer, before, "c-1")
        assert slow.closed is None
        if closed_first:
            # They are two connections: what is said first on them may come last.
            before.close(CloseCode.SUPERSEDED)
            await peer.until(lambda: before.closed is not None)
        assert slow.hello is not None
        slow.judge(*slow.hello)
        await connected(peer, 2)
        await peer.until(lambda: before.closed is not None)
        running.agent._chronicle.record(Started("after"))
        await peer.until(lambda: running.spool.held == 0)
        await heard(peer, slow, "c-2")
        assert len(peer.sessions) == 2
        assert "connectionLost" not in peer.only.types
    assert "Lost the Console" not in caplog.text


async def test_a_wish_that_comes_in_the_middle_of_its_own_attempt_is_answered(
    pki: Pki, renewed: Pki, tmp_path: Path
) -> None:
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), custom(pki)) as running:
        before = await connected(peer)
        peer.silent = True
        running.agent.offer(custom(renewed))
        await peer.until(lambda: len(peer.sessions) == 2)
        before.reconnect(deadline=SOON)
        await told(peer, before)
        assert len(peer.sessions) == 2
        peer.silent = False
        speaks_up(peer.sessions[1])
        await over(peer, renewed)
        await peer.until(lambda: before.closed is not None)
        assert before.end.stray == 0


async def test_a_wish_that_comes_in_the_middle_of_a_retry_is_answered(
    pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), custom(pki)):
        before = await connected(peer)
        peer.refuse = CloseCode.TRY_AGAIN
        before.reconnect()
        await peer.until(lambda: before.move_failures == ["busy"])
        before.move_failures.clear()
        peer.silent = True
        seen = len(peer.sessions)
        await peer.until(lambda: len(peer.sessions) > seen)
        before.reconnect(deadline=SOON)
        await told(peer, before)
        before.reconnect(deadline=SOON)
        await told(peer, before, times=2)
        assert peer.sessions[-1].closed is None
        peer.silent, peer.refuse = False, None
        speaks_up(peer.sessions[-1])
        await connected(peer, 2)
        await peer.until(lambda: before.closed is not None)


async def test_an_attempt_that_fails_after_the_deadline_is_not_said_twice(
    pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), custom(pki)):
        before = await connected(peer)
        peer.silent = True
        before.reconnect(deadline=SOON)
        await told(peer, before)
        peer.sessions[1].connection.abort()
        await eventually(lambda: is_moving_in_vain(caplog))
        await peer.until(lambda: len(peer.sessions) == 3)
        peer.sessions[2].connection.abort()
        await peer.until(lambda: len(peer.sessions) == 4)
        await heard(peer, before, "c-1")
        assert before.move_failures == ["unreachable"]
        assert before.end.stray == 0
        assert before.closed is None


async def test_an_attempt_that_began_before_the_wish_leaves_it_its_slot(
    pki: Pki, renewed: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), custom(pki)) as running:
        before = await connected(peer)
        peer.silent = True
        running.agent.offer(custom(renewed))
        await peer.until(lambda: len(peer.sessions) == 2)
        asked = before.loop.time()
        before.reconnect(slot=0.5, deadline=10.0)
        await eventually(lambda: running.agent._wish.asked is not None)
        peer.silent = False
        peer.sessions[1].connection.abort()
        await connected(peer, 2)
        assert before.loop.time() - asked >= 0.5
        # What failed was not what it was asked for.
        assert is_moving_in_vain(caplog)
        assert before.move_failures == []


async def test_the_set_that_is_proved_has_its_turn_after_the_deadline(
    pki: Pki, renewed: Pki, tmp_path: Path
) -> None:
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), pki.credentials()) as running:
        before = await connected(peer)
        peer.ignored = renewed.client.certificate.der
        before.reconnect(slot=0.3, deadline=0.3 + SOON)
        await eventually(lambda: running.agent._wish.asked is not None)
        running.agent.offer(custom(renewed))
        await told(peer, before)
        peer.sessions[1].connection.abort()
        after = await connected(peer, 2)
        assert after.presented == pki.client.certificate.der
        assert before.end.stray == 0


async def test_a_connection_that_ends_meanwhile_is_replaced_by_the_attempt(
    pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), custom(pki)) as running:
        before = await connected(peer)
        peer.silent = True
        before.reconnect(deadline=SOON)
        await peer.until(lambda: len(peer.sessions) == 2)
        before.connection.abort()
        await eventually(lambda: running.agent._wish._unanswered is None)
        assert "still trying" not in caplog.text
        peer.silent = False
        speaks_up(peer.sessions[1])
        await connected(peer, 2)
        assert len(peer.sessions) == 2
        assert running.agent._wish.asked is None
