"""An agent whose generated certificates are deployed anew while it runs."""

import asyncio
import threading
from datetime import datetime
from pathlib import Path

import pytest

from common.protocol import CertificateLoaded, CloseCode, details
from defender import lookout as lookout_module
from defender.agent import Ending
from defender.lookout import Found
from tests.defender.peer import PATIENCE, Console, console, eventually
from tests.defender.pki import Pki
from tests.defender.running import agent, custom, is_moving_in_vain, over, settings_for

pytestmark = pytest.mark.usefixtures("quiet")


async def connected(peer: Console, number: int = 1) -> None:
    session = await peer.welcomed(number)
    await peer.until(lambda: "certificateProved" in peer.only.types and session.facts is not None)


async def test_certificates_that_a_deployment_brings_are_used_without_a_restart(
    tmp_path: Path, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    other = Pki.create()
    other.deploy(tmp_path)
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path)):
        await peer.until(lambda: peer.handshake_failures != [])
        await eventually(lambda: "CA that is not trusted here" in caplog.text)
        pki.deploy(tmp_path)
        await connected(peer)
        loaded = [
            event.fingerprint
            for event in map(details, peer.only.events)
            if isinstance(event, CertificateLoaded)
        ]
        assert loaded == [other.client.certificate.fingerprint, pki.client.certificate.fingerprint]


async def test_bad_certificates_that_a_deployment_brings_are_rejected_once(
    tmp_path: Path, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    other = Pki.create()
    other.deploy(tmp_path)
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path)) as running:
        await peer.until(lambda: peer.handshake_failures != [])
        (tmp_path / "certificates" / "defender-client-key.pem").write_bytes(b"half")
        await eventually(lambda: "cannot be used" in caplog.text)
        failures = running.agent._backoff.failures
        await eventually(lambda: running.agent._backoff.failures >= failures + 3)
        pki.deploy(tmp_path)
        await connected(peer)
        assert peer.only.types.count("certificateRejected") == 1


async def test_generated_certificates_are_not_looked_for_beside_the_operators_own(
    pki: Pki, elsewhere: Pki, tmp_path: Path
) -> None:
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path), custom(elsewhere)) as running:
        await eventually(lambda: running.agent._backoff.failures >= 2)
        pki.deploy(tmp_path)
        failures = running.agent._backoff.failures
        await eventually(lambda: running.agent._backoff.failures >= failures + 2)
        assert peer.open_sessions() == []


async def test_a_volume_that_does_not_answer_holds_nothing_up(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on trying with what it has, and stops when it is told to."""
    monkeypatch.setattr(lookout_module, "LOOK_BOUND", 0.05)
    released = threading.Event()
    Pki.create().deploy(tmp_path)
    async with console(pki) as peer:
        async with agent(settings_for(peer.port, tmp_path)) as running:
            reload = running.source.reload

            def hang(now: datetime) -> Found:
                released.wait(2 * PATIENCE)
                return reload(now)

            monkeypatch.setattr(running.source, "reload", hang)
            await peer.until(lambda: len(peer.handshake_failures) >= 4)
            pki.deploy(tmp_path)
            released.set()
            await connected(peer)
        assert running.ending is Ending.STOPPED


async def test_a_connection_that_ends_as_its_certificate_did_looks_for_another(
    pki: Pki, renewed: Pki, tmp_path: Path
) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path)):
        await connected(peer)
        renewed.deploy(tmp_path)
        peer.sessions[0].close(CloseCode.CERTIFICATE_EXPIRED)
        await over(peer, renewed)


async def test_beside_the_operators_own_that_is_not_proved_the_fallback_is_deployed_anew(
    pki: Pki, elsewhere: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rotated = Pki.create()
    pki.deploy(tmp_path)
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path)) as running:
        await connected(peer)
        running.agent.offer(custom(elsewhere))
        await eventually(lambda: is_moving_in_vain(caplog))
        # A Secret that was rotated while what it held before does: it isn't asked for.
        rotated.deploy(tmp_path)
        tries = len(peer.handshake_failures)
        await peer.until(lambda: len(peer.handshake_failures) >= tries + 3)
        now = asyncio.get_running_loop().time()
        assert [one.set.leaf.fingerprint for one in running.agent._choice.sets(now)] == [
            elsewhere.client.certificate.fingerprint,
            pki.client.certificate.fingerprint,
        ]
        await peer.stop()
        await peer.start(rotated)
        session = await over(peer, rotated)
        assert session.facts is not None
        assert [held.source for held in session.facts.certificates] == ["generated", "custom"]
        # The operator's own still is what it wants.
        peer.use(elsewhere)
        await over(peer, elsewhere)
        loaded = [event for event in map(details, peer.only.events) if isinstance(event, CertificateLoaded)]
        assert [event.source for event in loaded] == ["generated", "custom", "generated"]
