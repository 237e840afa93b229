import asyncio
import logging
import random
import threading
from pathlib import Path
from typing import cast

import pytest

from common.protocol import (
    CertificateLoaded,
    CloseCode,
    ConnectionFailed,
    ConnectionLost,
    Outcome,
    Started,
    details,
)
from defender.agent import Ending
from defender.resolve import Resolver
from tests.defender.peer import Console, console, eventually
from tests.defender.pki import Pki
from tests.defender.running import Running, agent, custom, settings_for

pytestmark = pytest.mark.usefixtures("quiet")


async def connected(peer: Console, number: int = 1) -> None:
    session = await peer.welcomed(number)
    await peer.until(lambda: "certificateProved" in peer.only.types and session.facts is not None)


async def test_it_connects_and_says_who_it_is(
    pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path)) as running:
        session = await peer.welcomed()
        await connected(peer)
        claims = session.claims
        assert claims is not None
        assert (claims.hostname, claims.fqdn, claims.type) == ("test-host", "test-host", "serverLinux")
        assert set(claims.capabilities) == {"restart", "fetchLogs", "reportState"}
        (held,) = claims.certificates
        assert (held.channel, held.fingerprint) == ("defender-client", pki.client.certificate.fingerprint)
        assert list(peer.defenders) == [running.key.public_key]
        assert session.facts is not None
        assert session.facts.cpu_count >= 1
        assert peer.only.types == ["started", "certificateLoaded", "certificateProved"]
        said = [details(event) for event in peer.only.events]
        assert isinstance(said[0], Started)
        assert isinstance(said[1], CertificateLoaded)
        assert said[1].fingerprint == pki.client.certificate.fingerprint
    assert f"its certificate {pki.server.certificate.fingerprint[:16]}, " in caplog.text
    assert f"ours {pki.client.certificate.fingerprint[:16]})" in caplog.text


async def test_a_bundle_does_without_files(pki: Pki, tmp_path: Path) -> None:
    async with console(pki) as peer:
        settings = settings_for(peer.port, tmp_path, INSTALL_BUNDLE=pki.bundle())
        async with agent(settings):
            await connected(peer)


async def test_a_stop_hands_over_its_last_event_and_says_goodbye(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer:
        async with agent(settings_for(peer.port, tmp_path)) as running:
            await connected(peer)
        assert running.ending is Ending.STOPPED
        assert peer.only.types[-1] == "stopped"
        await peer.until(lambda: peer.sessions[0].closed is not None)
        assert peer.sessions[0].closed == (CloseCode.GOING_AWAY, "test over")


async def test_a_stop_is_bounded_even_if_the_console_takes_nothing(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer:
        async with agent(settings_for(peer.port, tmp_path)) as running:
            await connected(peer)
            peer.acknowledging = False
            peer.sessions[0].deaf = True
            begun = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - begun < 3
        assert running.ending is Ending.STOPPED


async def test_events_come_once_and_in_order_across_a_killed_console(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path)) as running:
        await connected(peer)
        peer.acknowledging = False
        for number in range(300):
            running.agent._chronicle.record(Started(f"v{number}"))
        # The window lets 256 through; the store has them, the acknowledgement is lost.
        await peer.until(lambda: len(peer.only.events) >= 256)
        await peer.stop()
        running.agent._chronicle.record(Started("while it was away"))
        peer.acknowledging = True
        await peer.start()
        await peer.until(lambda: "connectionLost" in peer.only.types)
        await peer.until(lambda: running.spool.held == 0)
        said = [details(event) for event in peer.only.events]
        versions = [event.version for event in said if isinstance(event, Started)][1:]
        assert versions == [f"v{number}" for number in range(300)] + ["while it was away"]
        (applied,) = peer.only.applied.values()
        assert list(applied) == list(range(1, len(applied) + 1))
        lost = [event for event in said if isinstance(event, ConnectionLost)]
        assert len(lost) == 1
        assert "broke" in lost[0].reason


async def test_it_comes_back_for_ever_and_says_each_cause_once(
    pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer:
        await peer.stop()
        async with agent(settings_for(peer.port, tmp_path)) as running:
            await eventually(lambda: running.agent._backoff.failures >= 5)
            await peer.start()
            await connected(peer)
            failures = [
                event for event in map(details, peer.only.events) if isinstance(event, ConnectionFailed)
            ]
            assert [(failure.reason, failure.attempts) for failure in failures] == [("unreachable", 1)]
    said = [record.message for record in caplog.records if "Cannot connect" in record.message]
    assert len(said) == 1
    assert "check the host and port in WS_ADDRESS" in said[0]


async def test_heartbeats_go_at_the_consoles_pace(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    async with console(pki, heartbeat=0.1) as peer, agent(settings_for(peer.port, tmp_path)):
        session = await peer.welcomed()
        await peer.until(lambda: session.heard_beats >= 3)
        assert session.closed is None


async def test_a_console_that_falls_silent_is_left(
    pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pki.deploy(tmp_path)
    async with console(pki, heartbeat=0.1) as peer, agent(settings_for(peer.port, tmp_path)):
        await connected(peer)
        peer.sessions[0].deaf = True
        await peer.welcomed(2)
    assert "no longer heard" in caplog.text


async def test_two_on_one_host_share_a_certificate_and_nothing_else(pki: Pki, tmp_path: Path) -> None:
    """The certificate admits, the instance key identifies (D9a)."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        pki.deploy(folder)
    async with console(pki) as peer:
        settings = [settings_for(peer.port, folder) for folder in folders]
        async with agent(settings[0]) as one, agent(settings[1]) as two:
            await peer.welcomed(2)
            assert set(peer.defenders) == {one.key.public_key, two.key.public_key}
            assert len(peer.defenders) == 2
            claims = [session.claims for session in peer.open_sessions()]
            assert {its.hostname for its in claims if its} == {"test-host"}
            assert len({its.spool.epoch for its in claims if its}) == 2


async def test_a_lost_data_folder_is_a_new_defender(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer:
        async with agent(settings_for(peer.port, tmp_path)):
            await connected(peer)
        (tmp_path / "instance-key.pem").unlink()
        async with agent(settings_for(peer.port, tmp_path)):
            await peer.until(lambda: len(peer.defenders) == 2)


async def test_its_clock_and_heartbeats_do_not_wake_it_more_than_needed(pki: Pki, tmp_path: Path) -> None:
    """At rest there is one timer for the link and one for its settling: nothing polls."""
    pki.deploy(tmp_path)
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path)) as running:
        await connected(peer)
        await eventually(lambda: running.spool.held == 0)
        link = running.agent._link
        assert link is not None
        assert link._timer is not None
        now = asyncio.get_running_loop().time()
        assert now < link._timer.when() <= now + 30
        assert running.agent._settling is not None


# What the Console orders


async def test_it_fetches_its_log(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path)) as running:
        session = await peer.welcomed()
        running.journal.handle(logging.makeLogRecord({"msg": "one"}))
        running.journal.handle(logging.makeLogRecord({"msg": "two"}))
        session.command("fetchLogs", {"lines": 1})
        await peer.until(lambda: "c-1" in session.results)
        assert session.results["c-1"].outcome is Outcome.OK
        assert session.results["c-1"].value == {"lines": ["two"]}


async def test_it_reports_its_state(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path)) as running:
        await connected(peer)
        session = await peer.welcomed()
        session.command("reportState")
        await peer.until(lambda: "c-1" in session.results)
        value = session.results["c-1"].value
        assert value["instanceKey"] == running.key.fingerprint
        (certificate,) = cast("list[dict[str, object]]", value["certificates"])
        assert certificate["proved"] is True
        assert certificate["fingerprint"] == pki.client.certificate.fingerprint
        connection = cast("dict[str, object]", value["connection"])
        assert connection["consoleCertificate"] == pki.server.certificate.fingerprint
        assert connection["session"] == 1
        spool = cast("dict[str, object]", value["spool"])
        assert spool["epoch"] == running.spool.position.epoch
        assert "PRIVATE" not in repr(value)


async def test_it_restarts_after_it_has_answered(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer:
        async with agent(settings_for(peer.port, tmp_path)) as running:
            session = await peer.welcomed()
            session.command("restart")
            await peer.until(lambda: session.closed is not None)
            assert session.results["c-1"].outcome is Outcome.OK
        assert running.ending is Ending.RESTART
        assert peer.only.types[-1] == "stopped"


async def test_an_order_it_does_not_know_is_answered(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path)):
        session = await peer.welcomed()
        session.command("selfDestruct")
        await peer.until(lambda: "c-1" in session.results)
        assert session.results["c-1"].outcome is Outcome.UNSUPPORTED


async def test_a_restored_spool_begins_a_new_epoch_and_loses_nothing(
    pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer:
        async with agent(settings_for(peer.port, tmp_path)):
            await connected(peer)
        first_epoch = next(iter(peer.only.applied))
        # As if the disk came from a backup: the same epoch, older numbers.
        for name in ("spool.db", "spool.db-wal"):
            (tmp_path / name).unlink(missing_ok=True)
        stale = Running(settings_for(peer.port, tmp_path))
        stale.spool._db.execute("UPDATE state SET epoch = ?", (first_epoch,))
        stale.spool.close()
        async with agent(settings_for(peer.port, tmp_path)) as again:
            await peer.until(lambda: len(peer.only.applied) == 2)
            await peer.until(lambda: again.spool.held == 0)
            assert again.spool.position.epoch != first_epoch
            after = peer.only.applied[again.spool.position.epoch]
            assert [event.type for event in after.values()][:2] == ["started", "certificateLoaded"]
    assert "restored from a backup" in caplog.text


# Refusals while it runs


@pytest.mark.parametrize("code", [CloseCode.LOCKED, CloseCode.IDENTITY_REFUSED, CloseCode.AWAITING_APPROVAL])
async def test_a_refusal_is_said_and_tried_again_rarely(
    pki: Pki, tmp_path: Path, code: CloseCode, caplog: pytest.LogCaptureFixture
) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer:
        peer.refuse = code
        async with agent(settings_for(peer.port, tmp_path)):
            await peer.until(lambda: len(peer.sessions) == 1 and peer.sessions[0].closed is not None)
            await eventually(lambda: "refuses this Defender" in caplog.text)
        assert len(peer.sessions) == 1
    assert "look at the Console's log" in caplog.text


async def test_a_twin_with_the_same_key_is_named(
    pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path)):
        await connected(peer)
        peer.sessions[0].close(CloseCode.SUPERSEDED)
        await eventually(lambda: "instance-key.pem from the copy" in caplog.text)


async def test_what_the_disk_refused_goes_with_a_later_heartbeat(
    pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pki.deploy(tmp_path)
    async with console(pki, heartbeat=0.1) as peer, agent(settings_for(peer.port, tmp_path)) as running:
        await connected(peer)
        running.spool._db.execute("PRAGMA query_only=ON").close()
        running.agent._chronicle.record(Started("refused at first"))
        assert running.spool.waiting == 1
        running.spool._db.execute("PRAGMA query_only=OFF").close()
        await peer.until(lambda: peer.only_types("started") == 2)
    assert "cannot be written" in caplog.text
    assert "can be written again" in caplog.text


async def test_events_come_once_whatever_happens_to_the_console(pki: Pki, tmp_path: Path) -> None:
    rng = random.Random(7)
    pki.deploy(tmp_path)
    said = 0
    async with console(pki) as peer, agent(settings_for(peer.port, tmp_path)) as running:
        await connected(peer)
        for _ in range(12):
            peer.acknowledging = rng.random() < 0.5
            for _ in range(rng.randrange(40)):
                running.agent._chronicle.record(Started(str(said)))
                said += 1
            match rng.randrange(4):
                case 0:
                    await peer.stop()
                    await asyncio.sleep(rng.random() * 0.05)
                    await peer.start()
                case 1:
                    peer.open_sessions()[-1].reconnect()
                case 2:
                    peer.open_sessions()[-1].connection.abort()
                case _:
                    await asyncio.sleep(rng.random() * 0.02)
        peer.acknowledging = True
        running.agent._chronicle.record(Started("last"))
        await peer.stop()
        await peer.start()
        await eventually(lambda: running.spool.held == 0)
        versions = [event.version for event in map(details, peer.only.events) if isinstance(event, Started)]
        assert versions[1:] == [*map(str, range(said)), "last"]
        (applied,) = peer.only.applied.values()
        assert list(applied) == list(range(1, len(applied) + 1))
        assert peer.only.dropped == 0


async def test_a_resolver_that_hangs_holds_nothing_up(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    release = threading.Event()
    running = Running(
        settings_for(1, tmp_path, host="slow.example"),
        Resolver(lambda host, port: ["127.0.0.1"] if release.wait(30) else []),
    )
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(running.agent.run())
        await eventually(lambda: threading.active_count() > 1)
        running.agent.stop("now")
    assert task.result() is Ending.STOPPED
    release.set()
    running.spool.close()


async def test_a_spool_that_overflowed_says_how_much_is_missing(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer:
        await peer.stop()
        settings = settings_for(peer.port, tmp_path, GARRISON_SPOOL_EVENTS="5")
        async with agent(settings) as running:
            for number in range(20):
                running.agent._chronicle.record(Started(str(number)))
            await peer.start()
            session = await peer.welcomed()
            assert session.claims is not None
            lost = session.claims.spool.dropped
            assert lost >= 15
            await peer.until(lambda: running.spool.held == 0)
            (applied,) = peer.only.applied.values()
            assert min(applied) == peer.only.dropped + 1
            assert peer.only.dropped >= lost


async def test_a_bug_in_the_agent_is_not_hidden(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    running = Running(settings_for(1, tmp_path))
    running.agent._attempt = None  # type: ignore[method-assign,assignment]  # stands for any bug
    with pytest.raises(ExceptionGroup) as caught:
        await running.agent.run()
    assert caught.group_contains(TypeError)
    running.spool.close()


# What runs beside it


async def test_what_runs_beside_ends_with_it(pki: Pki, tmp_path: Path) -> None:
    running = Running(settings_for(1, tmp_path), credentials=custom(pki))
    ended = asyncio.Event()

    async def beside() -> None:
        try:
            running.agent.stop("as it runs")
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    assert await running.agent.run(beside()) is Ending.STOPPED
    assert ended.is_set()
    running.spool.close()


async def test_a_bug_beside_it_is_not_hidden(pki: Pki, tmp_path: Path) -> None:
    running = Running(settings_for(1, tmp_path), credentials=custom(pki))

    async def beside() -> None:
        raise LookupError("a bug")

    with pytest.raises(ExceptionGroup) as caught:
        await running.agent.run(beside())
    assert caught.group_contains(LookupError)
    running.spool.close()
