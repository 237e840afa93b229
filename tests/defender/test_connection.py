"""One link to a real Console: what each side may do to it, and what is left of it after."""

import asyncio
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from common.protocol import CloseCode, Event, Order, ReconnectAsked, SpoolState, Welcome
from common.protocol.orders import ReportState
from defender import facts
from defender.causes import Cause, Failure
from defender.connection import Dialer, Link
from defender.identity import load_or_create
from defender.resolve import Resolver
from defender.settings import Address
from tests.defender.peer import Console, console, eventually
from tests.defender.pki import Pki


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def on_welcome(self, link: Link, welcome: Welcome) -> None:
        self.told.append(welcome)

    def on_room(self, link: Link) -> None:
        self.told.append("room")

    def on_acknowledged(self, link: Link, epoch: str, through: int) -> None:
        self.told.append((epoch, through))

    def on_heartbeat(self, link: Link) -> None:
        self.told.append("heartbeat")

    def on_order(self, link: Link, command_id: str, order: Order) -> None:
        self.told.append(order)
        link.answer(command_id, ok=False, error="not now")

    def on_move(self, link: Link, asked: ReconnectAsked) -> None:
        self.told.append(asked)


async def new_link(pki: Pki, folder: Path, recorder: Recorder, *, jitter: float = 1.0) -> Link:
    host = await facts.gather(defender_type="docker", override="x")
    claims = host.claims(SpoolState("e", 1, 1))
    key = load_or_create(folder)
    return Link(key, pki.credentials(), claims, observer=recorder, jitter=jitter)


async def opened(
    pki: Pki, folder: Path, peer: Console, recorder: Recorder | None = None
) -> tuple[Link, Failure | None]:
    link = await new_link(pki, folder, recorder or Recorder())
    dialer = Dialer(Address("127.0.0.1", peer.port), Resolver(), patience=5)
    return link, await link.open(dialer)


async def test_a_hello_proves_the_identity(pki: Pki, tmp_path: Path) -> None:
    async with console(pki) as peer:
        recorder = Recorder()
        link, failure = await opened(pki, tmp_path, peer, recorder)
        assert failure is None
        assert link.console_version == "9.9.9"
        assert link.leaf == pki.server.certificate.fingerprint
        assert recorder.told == [link.welcome]
        assert list(peer.defenders) == [load_or_create(tmp_path).public_key]
        assert 0 <= link.age < 60
        link.close(CloseCode.NORMAL, "done")
        ended = await link.ended
        assert (ended.cause, ended.code) == (Cause.CLOSED, CloseCode.NORMAL)
        await peer.until(lambda: peer.sessions[0].closed == (CloseCode.NORMAL, "done"))


@pytest.mark.parametrize("code", [CloseCode.LOCKED, CloseCode.IDENTITY_REFUSED])
async def test_a_refused_identity(pki: Pki, tmp_path: Path, code: CloseCode) -> None:
    async with console(pki) as peer:
        peer.refuse = code
        link, failure = await opened(pki, tmp_path, peer)
        assert failure is not None
        assert (failure.cause, failure.code) == (Cause.REFUSED, code)
        assert await link.ended == failure


async def test_a_hello_that_is_cut_off_leaves_no_connection(pki: Pki, tmp_path: Path) -> None:
    async with console(pki) as peer:
        peer.silent = True
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(opened(pki, tmp_path, peer))
            await peer.until(lambda: len(peer.sessions) == 1)
            task.cancel()
        await peer.until(lambda: peer.sessions[0].closed is not None)


async def test_one_that_is_welcomed_is_its_owners_even_if_who_opened_it_is_cancelled(
    pki: Pki, tmp_path: Path
) -> None:
    async with console(pki) as peer:
        opening: list[asyncio.Task[Failure | None]] = []

        class Hasty(Recorder):
            def on_welcome(self, link: Link, welcome: Welcome) -> None:
                super().on_welcome(link, welcome)
                opening[0].cancel()

        link = await new_link(pki, tmp_path, Hasty())
        dialer = Dialer(Address("127.0.0.1", peer.port), Resolver(), patience=5)
        opening.append(asyncio.ensure_future(link.open(dialer)))
        with pytest.raises(asyncio.CancelledError):
            await opening[0]
        peer.sessions[0].command("reportState")
        await peer.until(lambda: "c-1" in peer.sessions[0].results)
        assert not link.ended.done()
        link.close(CloseCode.NORMAL, "done")
        assert (await link.ended).code == CloseCode.NORMAL


async def test_what_happens_is_told(pki: Pki, tmp_path: Path) -> None:
    async with console(pki) as peer:
        recorder = Recorder()
        link, _ = await opened(pki, tmp_path, peer, recorder)
        session = peer.sessions[0]
        assert link.next_event == 1
        assert link.room > 1
        link.post_events(1, [Event(datetime.now(UTC), "a"), Event(datetime.now(UTC), "b")])
        await eventually(lambda: ("e", 2) in recorder.told)
        assert link.next_event == 3
        session.command("reportState")
        await peer.until(lambda: "c-1" in session.results)
        assert ReportState() in recorder.told
        assert session.results["c-1"].error == "not now"
        session.reconnect()
        await eventually(lambda: isinstance(recorder.told[-1], ReconnectAsked))
        link.move_failed(Failure(Cause.WRONG_NAME, "words"))
        await peer.until(lambda: session.move_failures == ["wrongName"])
        link.post_facts(facts.system(tmp_path))
        await peer.until(lambda: session.facts is not None)
        link.abort()
        assert (await link.ended).cause is Cause.LOST
        assert link.room == 0
        assert link.next_event == 0


async def test_a_link_that_was_never_opened_takes_everything_in_silence(pki: Pki, tmp_path: Path) -> None:
    link = await new_link(pki, tmp_path, Recorder())
    assert (link.room, link.next_event, link.age, link.welcome) == (0, 0, 0.0, None)
    link.post_events(1, [])
    link.post_facts(facts.system(tmp_path))
    link.answer("c", ok=True)
    link.move_failed(Failure(Cause.BUSY, ""))
    link.close(CloseCode.NORMAL, "")
    link.abort()


async def test_heartbeats_measure_the_round_trip(pki: Pki, tmp_path: Path) -> None:
    async with console(pki, heartbeat=0.05) as peer:
        link, _ = await opened(pki, tmp_path, peer)
        await eventually(lambda: link.round_trip is not None)
        assert link.round_trip is not None
        assert 0 <= link.round_trip < 5
        link.abort()
        await link.ended


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"{", CloseCode.INVALID_DATA),
        (b'{"kind":"ack"}', CloseCode.POLICY),
        (b'{"kind":"welcome"}', CloseCode.POLICY),
        (b"[1]", CloseCode.POLICY),
        (b"x" * 300_000, CloseCode.TOO_BIG),
        (b'{"kind":"ack","epoch":"e","through":-1}', CloseCode.POLICY),
    ],
    ids=["not JSON", "fields", "moment", "shape", "size", "range"],
)
async def test_a_console_that_breaks_the_protocol_is_left(
    pki: Pki, tmp_path: Path, said: bytes, code: CloseCode
) -> None:
    async with console(pki) as peer:
        link, _ = await opened(pki, tmp_path, peer)
        peer.sessions[0].connection.send(said)
        ended = await link.ended
        assert ended.cause is Cause.PROTOCOL
        assert ended.code == code
        # What was in it is in no log line.
        assert "xxx" not in ended.detail


async def test_what_only_a_newer_console_says_is_passed_over(pki: Pki, tmp_path: Path) -> None:
    async with console(pki, heartbeat=0.05) as peer:
        link, _ = await opened(pki, tmp_path, peer)
        peer.sessions[0].connection.send(b'{"kind":"danceWithMe","song":1}')
        await eventually(lambda: link.round_trip is not None)
        assert not link.ended.done()
        link.abort()
        await link.ended


async def test_a_black_hole_leaves_time_for_the_next_address(pki: Pki, tmp_path: Path) -> None:
    """A listener that nobody serves stands for the black hole."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(1)
        port = deaf.getsockname()[1]
        async with console(pki) as peer:
            await peer.stop()
            peer.port = port
            peer.host = "127.0.0.2"
            await peer.start()
            resolver = Resolver(lambda host, port: ["127.0.0.1", "127.0.0.2"])
            dialer = Dialer(Address("localhost", port), resolver, patience=1.0)
            link = await new_link(pki, tmp_path, Recorder())
            assert await link.open(dialer) is None
            link.abort()
            await link.ended
