"""An agent whose certificates are replaced while it runs, against a Console that has its own pace."""

import asyncio
import random
from pathlib import Path
from typing import cast

import pytest

from common.certificates import Source
from common.protocol import (
    CertificateLoaded,
    CertificateProved,
    CloseCode,
    Started,
    details,
)
from defender.causes import Failure
from defender.connection import Link
from defender.credentials import Credentials
from tests.defender.peer import console, eventually
from tests.defender.pki import Pki
from tests.defender.running import agent, connected, custom, is_moving_in_vain, over, settings_for

pytestmark = pytest.mark.usefixtures("quiet")


CUSTOM = Source.CUSTOM


# With a connection


async def test_a_new_set_is_proved_beside_the_old_connection(
    pki: Pki, renewed: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), custom(pki)) as running:
        before = await connected(peer)
        running.agent.offer(custom(renewed))
        after = await over(peer, renewed)
        assert after.beside == [before]
        await peer.until(lambda: before.closed is not None)
        assert before.closed == (CloseCode.SUPERSEDED, "this Defender has a newer connection")
        running.agent._chronicle.record(Started("after"))
        await peer.until(lambda: running.spool.held == 0)
        assert "connectionLost" not in peer.only.types
        said = [details(event) for event in peer.only.events]
        for kind in (CertificateLoaded, CertificateProved):
            assert [event.fingerprint for event in said if isinstance(event, kind)] == [
                pki.client.certificate.fingerprint,
                renewed.client.certificate.fingerprint,
            ]
    assert "Lost the Console" not in caplog.text


async def test_the_same_set_again_does_nothing(pki: Pki, tmp_path: Path) -> None:
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), custom(pki)) as running:
        await connected(peer)
        running.agent.offer(custom(pki))
        running.agent.offer(pki.credentials())
        # What is asked after it is done after it: so nothing was to be done.
        peer.open_sessions()[0].command("reportState")
        await peer.until(lambda: "c-1" in peer.open_sessions()[0].results)
        assert len(peer.sessions) == 1
        assert peer.only_types("certificateLoaded") == 1


async def test_the_console_gets_its_files_first(
    pki: Pki, elsewhere: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), pki.credentials()) as running:
        before = await connected(peer)
        peer.use(elsewhere)
        before.reconnect()
        await peer.until(lambda: before.move_failures == ["unknownCA"])
        assert before.closed is None
        running.agent.offer(custom(elsewhere))
        after = await over(peer, elsewhere)
        assert after.beside == [before]
        await peer.until(lambda: running.spool.held == 0)
        assert "connectionLost" not in peer.only.types


async def test_the_defender_gets_its_files_first(
    pki: Pki, elsewhere: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), pki.credentials()) as running:
        before = await connected(peer)
        running.agent.offer(custom(elsewhere))
        await eventually(lambda: is_moving_in_vain(caplog))
        assert before.closed is None
        # Nobody had asked, so nobody is told that it failed.
        assert before.move_failures == []
        assert before.end.stray == 0
        peer.use(elsewhere)
        after = await over(peer, elsewhere)
        assert after.beside == [before]
        await peer.until(lambda: running.spool.held == 0)
        assert "connectionLost" not in peer.only.types


async def test_asked_to_move_it_takes_whichever_set_is_welcomed(
    pki: Pki, renewed: Pki, elsewhere: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The Console renews its own certificate, while we hold a set that it knows nothing of."""
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), pki.credentials()) as running:
        before = await connected(peer)
        running.agent.offer(custom(elsewhere))
        await eventually(lambda: is_moving_in_vain(caplog))
        peer.use(renewed)
        before.reconnect()
        after = await connected(peer, 2)
        assert after.presented == pki.client.certificate.der
        await peer.until(lambda: before.closed is not None)
        # And the new set still is what it tries to get to.
        peer.use(elsewhere)
        await over(peer, elsewhere)


async def test_a_set_that_is_taken_back_is_in_use_already(
    pki: Pki, elsewhere: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), custom(pki)) as running:
        before = await connected(peer)
        running.agent.offer(custom(elsewhere))
        await eventually(lambda: is_moving_in_vain(caplog))
        running.agent.offer(custom(pki))
        link = running.agent._link
        assert link is not None
        assert running.agent._reason_to_move(link) is None
        assert before.closed is None
        assert running.agent._trust_ends is None


async def test_there_are_never_two_attempts_at_a_time(pki: Pki, tmp_path: Path) -> None:
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), custom(pki)) as running:
        before = await connected(peer)
        peer.silent = True
        latest = pki
        for number in range(5):
            latest = pki.reissued()
            running.agent.offer(custom(latest))
            await peer.until(lambda: len(peer.sessions) >= 2)
            assert len([one for one in peer.sessions if one is not before and one.closed is None]) == 1
            if number == 2:
                before.reconnect()
        peer.silent = False
        peer.sessions[-1].connection.abort()
        await over(peer, latest)
        assert [one.presented for one in peer.open_sessions()][-1] == latest.client.certificate.der


# Without one


async def test_without_a_connection_a_new_set_is_tried_at_once(
    pki: Pki, renewed: Pki, tmp_path: Path
) -> None:
    async with console(pki) as peer:
        peer.refuse = CloseCode.LOCKED  # The next attempt is half a minute away.
        async with agent(settings_for(peer.port, tmp_path), custom(pki)) as running:
            await peer.until(lambda: bool(peer.sessions) and peer.sessions[0].closed is not None)
            peer.refuse = None
            running.agent.offer(custom(renewed))
            await over(peer, renewed)


async def test_a_set_that_comes_while_another_is_tried_is_next(
    pki: Pki, renewed: Pki, tmp_path: Path
) -> None:
    async with console(pki) as peer:
        peer.silent = True
        async with agent(settings_for(peer.port, tmp_path), custom(pki)) as running:
            await peer.until(lambda: len(peer.sessions) == 1)
            running.agent.offer(custom(renewed))
            peer.silent = False
            peer.refuse = CloseCode.LOCKED
            first = peer.sessions[0]
            first.do(first.end.opened(asyncio.get_running_loop().time()))
            # It was refused for half a minute; but not with this set.
            await peer.until(lambda: len(peer.sessions) == 2)
            assert peer.sessions[1].presented == renewed.client.certificate.der


async def test_while_the_new_set_is_not_proved_the_one_before_brings_it_back(
    pki: Pki, elsewhere: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), pki.credentials()) as running:
        await connected(peer)
        running.agent.offer(custom(elsewhere))
        await eventually(lambda: is_moving_in_vain(caplog))
        await peer.stop()
        await peer.start()
        again = await connected(peer, 2)
        assert again.presented == pki.client.certificate.der
        leaf = elsewhere.client.certificate.fingerprint
        assert f"Cannot connect with certificate {leaf[:16]} from custom-certificates: " in caplog.text
        # The Console has its files, too, when it comes back the next time.
        await peer.stop()
        await peer.start(elsewhere)
        await over(peer, elsewhere)
        await peer.stop()
        failures = running.agent._backoff.failures
        await peer.start(pki)
        # What was proved has no fallback any more.
        await eventually(lambda: running.agent._backoff.failures >= failures + 2)
        assert len([one for one in peer.open_sessions() if one.presented == pki.client.certificate.der]) == 2


async def test_two_sets_of_one_directory_are_told_apart(
    pki: Pki, renewed: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), custom(pki)) as running:
        await connected(peer)
        await peer.stop()
        running.agent.offer(custom(renewed))
        leaves = [each.client.certificate.fingerprint[:16] for each in (pki, renewed)]
        said = [f"Cannot connect with certificate {leaf} from custom-certificates: " for leaf in leaves]
        await eventually(lambda: all(words in caplog.text for words in said))
        await peer.start()


async def test_who_is_asked_to_stay_away_does_not_come_with_another_set(
    pki: Pki, renewed: Pki, tmp_path: Path
) -> None:
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), custom(pki)) as running:
        before = await connected(peer)
        peer.refuse = CloseCode.LOCKED
        running.agent.offer(custom(renewed))
        await peer.until(lambda: len(peer.sessions) == 2 and peer.sessions[1].closed is not None)
        failures = running.agent._backoff.failures
        before.connection.abort()
        # One failure is the connection's, the other that of the attempt after it.
        await eventually(lambda: running.agent._backoff.failures >= failures + 2)
        assert [one.presented for one in peer.sessions[2:]] == [renewed.client.certificate.der]


async def test_what_has_just_failed_is_not_tried_again_at_once(
    pki: Pki, elsewhere: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), pki.credentials()) as running:
        await connected(peer)
        running.agent.offer(custom(elsewhere))
        await eventually(lambda: is_moving_in_vain(caplog))
        loop = asyncio.get_running_loop()
        opened: list[tuple[float, bool]] = []
        open_ = running.agent._open

        async def noted(credentials: Credentials) -> Link | Failure:
            opened.append((loop.time(), credentials.set.source is CUSTOM))
            return await open_(credentials)

        running.agent._open = noted  # type: ignore[method-assign]
        peer.sessions[0].connection.abort()
        await connected(peer, 2)
        seen = len(opened)
        await eventually(lambda: len(opened) > seen)
        (before, by_fallback), (after, by_wanted) = opened[seen - 1 : seen + 1]
        assert (by_fallback, by_wanted) == (False, True)
        assert after - before >= 0.02


# All of it together


@pytest.mark.parametrize("seed", range(6))
async def test_no_order_of_files_and_failures_loses_an_event(
    pki: Pki, elsewhere: Pki, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    sides = (pki, elsewhere)
    said = 0
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), pki.credentials()) as running:
        await connected(peer)
        for _ in range(15):
            for _ in range(rng.randrange(20)):
                running.agent._chronicle.record(Started(str(said)))
                said += 1
            match rng.randrange(5):
                case 0:
                    running.agent.offer(custom(rng.choice(sides).reissued()))
                case 1:
                    peer.use(rng.choice(sides).reissued())
                case 2:
                    peer.open_sessions()[-1].reconnect()
                case 3:
                    peer.superseding = not peer.superseding
                case _:
                    await peer.stop()
                    await peer.start()
            for _ in range(rng.randrange(200)):
                await asyncio.sleep(0)  # so many turns of the loop
        last = elsewhere.reissued()
        running.agent.offer(custom(last))
        peer.use(elsewhere)
        peer.superseding = True
        running.agent._chronicle.record(Started("last"))
        session = await over(peer, last)
        await peer.until(lambda: running.spool.held == 0)
        assert session.closed is None
        versions = [event.version for event in map(details, peer.only.events) if isinstance(event, Started)]
        assert versions[1:] == [*map(str, range(said)), "last"]
        assert peer.only.dropped == 0


# What the Console is told


async def test_the_console_is_told_of_both_sets(
    pki: Pki, elsewhere: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), pki.credentials()) as running:
        session = await connected(peer)
        running.agent.offer(custom(elsewhere))
        await peer.until(lambda: session.facts is not None and len(session.facts.certificates) == 2)
        assert session.facts is not None
        assert [(held.source, held.proved) for held in session.facts.certificates] == [
            ("generated", True),
            ("custom", False),
        ]
        session.command("reportState")
        await peer.until(lambda: "c-1" in session.results)
        reported = cast("list[dict[str, object]]", session.results["c-1"].value["certificates"])
        assert [(one["source"], one["proved"], one["inUse"]) for one in reported] == [
            ("custom", False, False),
            ("generated", True, True),
        ]
        peer.use(elsewhere)
        after = await over(peer, elsewhere)
        assert after.claims is not None
        assert [(held.source, held.proved) for held in after.claims.certificates] == [
            ("custom", False),
            ("generated", True),
        ]
        # Proved, it is the only one.
        assert after.facts is not None
        assert [(held.source, held.proved) for held in after.facts.certificates] == [("custom", True)]
