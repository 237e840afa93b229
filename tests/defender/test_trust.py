"""An agent whose operator removes the trust in the Console that it is connected to."""

import asyncio
from pathlib import Path

import pytest

from common.protocol import (
    CloseCode,
)
from defender import agent as agent_module
from tests.defender.peer import console, eventually
from tests.defender.pki import Pki
from tests.defender.running import agent, connected, custom, is_moving_in_vain, over, settings_for

pytestmark = pytest.mark.usefixtures("quiet")


async def test_a_connection_ends_when_the_grace_of_its_trust_is_over(
    pki: Pki, elsewhere: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with console(pki) as peer:
        settings = settings_for(peer.port, tmp_path, GARRISON_REMOVED_TRUST_GRACE="1s")
        async with agent(settings, custom(pki)) as running:
            before = await connected(peer)
            loop = asyncio.get_running_loop()
            offered = loop.time()
            running.agent.offer(custom(elsewhere))
            await eventually(lambda: is_moving_in_vain(caplog))
            assert before.closed is None
            await peer.until(lambda: before.closed is not None)
            assert loop.time() - offered >= 0.99
            assert before.closed == (
                CloseCode.TRUST_REMOVED,
                "our bundle vouches for the Console no longer",
            )
            # From here on, the set before is not even tried.
            await eventually(lambda: "Cannot connect: " in caplog.text)
            assert len(peer.open_sessions()) == 1
            peer.use(elsewhere)
            await over(peer, elsewhere)
    assert "Lost the Console" in caplog.text
    assert "trust removed" in caplog.text


async def test_without_grace_removed_trust_ends_at_once(pki: Pki, elsewhere: Pki, tmp_path: Path) -> None:
    async with console(pki) as peer:
        settings = settings_for(peer.port, tmp_path, GARRISON_REMOVED_TRUST_GRACE="0s")
        async with agent(settings, custom(pki)) as running:
            before = await connected(peer)
            peer.use(elsewhere)
            running.agent.offer(custom(elsewhere))
            await peer.until(lambda: before.closed is not None)
            assert before.closed[0] == CloseCode.TRUST_REMOVED if before.closed else None
            await over(peer, elsewhere)


async def test_a_change_of_source_is_no_removal(
    pki: Pki, elsewhere: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with console(pki) as peer:
        settings = settings_for(peer.port, tmp_path, GARRISON_REMOVED_TRUST_GRACE="0s")
        async with agent(settings, pki.credentials()) as running:
            before = await connected(peer)
            running.agent.offer(custom(elsewhere))
            await eventually(lambda: is_moving_in_vain(caplog))
            assert before.closed is None
            assert running.agent._trust_ends is None


async def test_a_renewed_set_of_the_same_ca_removes_nothing(pki: Pki, renewed: Pki, tmp_path: Path) -> None:
    async with console(pki) as peer:
        settings = settings_for(peer.port, tmp_path, GARRISON_REMOVED_TRUST_GRACE="0s")
        async with agent(settings, custom(pki)) as running:
            before = await connected(peer)
            running.agent.offer(custom(renewed))
            await over(peer, renewed)
            await peer.until(lambda: before.closed is not None)
            assert before.closed is not None
            assert before.closed[0] == CloseCode.SUPERSEDED


async def test_a_fallback_that_comes_back_meanwhile_ends_with_its_trust_too(
    pki: Pki, elsewhere: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with console(pki) as peer:
        settings = settings_for(peer.port, tmp_path, GARRISON_REMOVED_TRUST_GRACE="2s")
        async with agent(settings, custom(pki)) as running:
            await connected(peer)
            running.agent.offer(custom(elsewhere))
            await eventually(lambda: is_moving_in_vain(caplog))
            peer.sessions[0].connection.abort()
            again = await connected(peer, 2)
            assert again.presented == pki.client.certificate.der
            await peer.until(lambda: again.closed is not None)
            assert again.closed is not None
            assert again.closed[0] == CloseCode.TRUST_REMOVED


async def test_a_replaced_connection_ends_with_its_trust_at_the_latest(
    pki: Pki, elsewhere: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "REPLACED_BOUND", 3600.0)
    async with console(pki) as peer:
        settings = settings_for(peer.port, tmp_path, GARRISON_REMOVED_TRUST_GRACE="1s")
        async with agent(settings, custom(pki)) as running:
            before = await connected(peer)
            peer.superseding = False
            peer.use(elsewhere)
            running.agent.offer(custom(elsewhere))
            after = await over(peer, elsewhere)
            await peer.until(lambda: before.closed is not None)
            assert before.closed == (CloseCode.NORMAL, "moved")
            assert after.closed is None


async def test_what_is_welcomed_after_its_trust_has_ended_has_no_second_grace(
    pki: Pki, elsewhere: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The attempt began before the end, and the Console took its time."""
    async with console(pki) as peer:
        settings = settings_for(peer.port, tmp_path, GARRISON_REMOVED_TRUST_GRACE="1s")
        async with agent(settings, custom(pki)) as running:
            await connected(peer)
            running.agent.offer(custom(elsewhere))
            await eventually(lambda: is_moving_in_vain(caplog))
            peer.silent = True
            peer.sessions[0].connection.abort()
            await peer.until(lambda: len(peer.sessions) == 2)
            loop, slow = asyncio.get_running_loop(), peer.sessions[1]
            # Of the same source, and it doesn't vouch for this Console either.
            ended = running.agent._choice.ends(custom(pki))
            await eventually(lambda: loop.time() > ended)
            running.agent.offer(custom(elsewhere.reissued()))
            slow.do(slow.end.opened(loop.time()))
            await peer.until(lambda: slow.closed is not None)
            assert slow.number == 2  # it was welcomed
            assert slow.closed is not None
            assert slow.closed[0] == CloseCode.TRUST_REMOVED
            assert running.agent._choice.ends(custom(pki)) == ended
