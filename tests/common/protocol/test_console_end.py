import math
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, settings
from hypothesis import strategies as st

from common.protocol import (
    Close,
    CloseCode,
    CommandFinished,
    ConsoleEnd,
    ConsoleOptions,
    ConsoleState,
    Event,
    EventsReceived,
    FactsReceived,
    HelloReceived,
    HostFacts,
    Limits,
    Move,
    MoveFailed,
    Outcome,
    PeerSilent,
    Rate,
    Send,
    Started,
    encode_event,
    instance_key_der,
    report,
)
from common.protocol.end import End
from common.protocol.events import UNREADABLE
from common.protocol.identity import sign_hello, transcript
from common.protocol.messages import (
    MAX_MESSAGE_BYTES,
    Ack,
    Challenge,
    Command,
    CommandResult,
    Events,
    Heartbeat,
    HeartbeatAck,
    Hello,
    Message,
    Reconnect,
    ReconnectFailed,
    Welcome,
    encode,
)
from tests.common.protocol.helpers import (
    EPOCH,
    LEAF,
    NONCE,
    OTHER_LEAF,
    TIME,
    WALL,
    claims,
    console_end,
    from_console,
    instance_key,
    only,
)


def hello(*, key: int = 1, nonce: bytes = NONCE, leaf: bytes = LEAF, **said: Any) -> Hello:
    return sign_hello(instance_key(key), claims(**said), nonce=nonce, leaf=leaf)


def challenged(options: ConsoleOptions | None = None) -> ConsoleEnd:
    end = console_end(options)
    end.opened(0.0)
    return end


def opened(options: ConsoleOptions | None = None, *, acked_through: int = 0) -> ConsoleEnd:
    end = challenged(options)
    end.receive(encode(hello()), 0.0)
    end.welcome("d-1", 7, acked_through, 0.0, WALL)
    return end


def hear(end: ConsoleEnd, message: Message, now: float = 1.0) -> tuple[Any, ...]:
    return end.receive(encode(message), now, WALL)


def events(first: int, count: int, *, dropped: int = 0, epoch: str = EPOCH) -> Events:
    item = msgspec.Raw(encode_event(report(Started("0.1.0"), TIME)))
    return Events(epoch, first, [item] * count, dropped)


def closed_with(outputs: tuple[Any, ...]) -> tuple[CloseCode, str]:
    close = only(Close, outputs)
    return close.code, close.reason


# Hello


def test_it_challenges_first() -> None:
    end = console_end(ConsoleOptions("34.4.0", capabilities=("reconnect",)))
    assert (end.next_deadline, end.tick(1e9)) == (math.inf, ())
    assert from_console(end.opened(0.0)) == Challenge(NONCE, "34.4.0", 0, ("reconnect",))
    assert end.state is ConsoleState.CHALLENGED


def test_it_is_opened_once() -> None:
    end = challenged()
    with pytest.raises(ValueError, match="challenged"):
        end.opened(1.0)


def test_a_proved_hello_is_put_to_the_shell() -> None:
    end = challenged()
    received = only(HelloReceived, hear(end, hello()))
    assert received.instance_key == instance_key_der(instance_key().public_key())
    assert received.claims == claims()
    assert (end.state, end.epoch) == (ConsoleState.JUDGING, EPOCH)


@pytest.mark.parametrize(
    "forged",
    [
        hello(nonce=bytes(32)),
        hello(leaf=OTHER_LEAF),
        msgspec.structs.replace(hello(), body=msgspec.Raw(encode(claims(hostname="web-2")))),
        msgspec.structs.replace(hello(), instance_key=hello(key=2).instance_key),
    ],
    ids=["replayed", "man in the middle", "changed host name", "other key"],
)
def test_an_unproved_hello_is_refused_without_asking_the_shell(forged: Hello) -> None:
    end = challenged()
    code, reason = closed_with(hear(end, forged))
    assert code is CloseCode.IDENTITY_REFUSED
    assert reason.startswith("signature")
    assert end.state is ConsoleState.CLOSED


def test_a_signed_hello_with_bad_claims_is_malformed() -> None:
    key = instance_key()
    good = sign_hello(key, claims(), nonce=NONCE, leaf=LEAF)
    body = bytes(good.body).replace(b'"web-1"', b'"two\\nlines"')
    text = transcript(nonce=NONCE, leaf=LEAF, instance_key=good.instance_key, body=body)
    bad = Hello(good.instance_key, key.sign(text, ec.ECDSA(SHA256())), msgspec.Raw(body))
    assert closed_with(hear(challenged(), bad)) == (CloseCode.POLICY, "hello.body: bad hostname")


def test_a_hello_must_come_in_time() -> None:
    end = challenged(ConsoleOptions("1", hello_seconds=5))
    assert end.next_deadline == 5.0
    assert end.tick(4.9) == ()
    assert closed_with(end.tick(5.0)) == (CloseCode.HELLO_TIMEOUT, "no Hello in time")
    assert end.tick(5.0) == ()
    assert end.next_deadline == math.inf


def test_what_is_not_a_hello_does_not_buy_time() -> None:
    end = challenged(ConsoleOptions("1", hello_seconds=5))
    assert end.receive(b'{"kind":"newer"}', 4.0) == ()
    assert end.next_deadline == 5.0


def test_the_shell_must_judge_in_time() -> None:
    end = challenged(ConsoleOptions("1", judge_seconds=20))
    hear(end, hello(), now=3.0)
    assert end.next_deadline == 23.0
    assert closed_with(end.tick(23.0))[0] is CloseCode.TRY_AGAIN
    assert end.welcome("d-1", 1, 0, 24.0) == ()
    assert end.refuse(CloseCode.LOCKED, "locked") == ()


@pytest.mark.parametrize("message", [Heartbeat(1), events(1, 1), CommandResult("c", ok=True), HostFacts()])
def test_nothing_else_comes_before_the_welcome(message: Message) -> None:
    before, judging = challenged(), challenged()
    hear(judging, hello())
    assert closed_with(hear(before, message)) == (
        CloseCode.POLICY,
        f"{type(message).__name__} while challenged",
    )
    assert closed_with(hear(judging, message)) == (
        CloseCode.POLICY,
        f"{type(message).__name__} while judging",
    )


def test_there_is_one_hello() -> None:
    judging, open_ = challenged(), opened()
    hear(judging, hello())
    assert closed_with(hear(judging, hello())) == (CloseCode.POLICY, "Hello while judging")
    assert closed_with(hear(open_, hello())) == (CloseCode.POLICY, "Hello while open")


def test_welcome_says_where_things_stand() -> None:
    end = challenged(ConsoleOptions("1", heartbeat_seconds=12, limits=Limits(event_window=9)))
    hear(end, hello())
    welcome = from_console(end.welcome("d-1", 7, 41, 2.0, WALL))
    assert welcome == Welcome("d-1", 7, 12.0, EPOCH, 41, int(WALL * 1000), Limits(event_window=9))
    assert (end.state, end.defender_id, end.session) == (ConsoleState.OPEN, "d-1", 7)
    assert end.next_deadline == 2.0 + 3 * 12


def test_there_is_no_welcome_without_a_hello() -> None:
    with pytest.raises(ValueError, match="challenged"):
        challenged().welcome("d-1", 1, 0, 0.0)
    with pytest.raises(ValueError, match="open"):
        opened().welcome("d-1", 1, 0, 0.0)


def test_a_refusal_closes_with_its_code() -> None:
    end = challenged()
    hear(end, hello())
    assert closed_with(end.refuse(CloseCode.LOCKED, "locked by an operator")) == (
        CloseCode.LOCKED,
        "locked by an operator",
    )


def test_a_long_reason_fits() -> None:
    assert len(closed_with(opened().close(CloseCode.RESTARTING, "é" * 200))[1].encode()) == 122


# Heartbeats and silence


def test_a_heartbeat_is_answered() -> None:
    end = opened()
    answer = from_console(hear(end, Heartbeat(5, int((WALL + 2.5) * 1000)), now=9.0))
    assert answer == HeartbeatAck(5, int(WALL * 1000))
    assert end.heard == 9.0
    assert end.skew == pytest.approx(2.5)


def test_a_heartbeat_without_a_clock_tells_no_skew() -> None:
    end = opened()
    assert end.receive(encode(Heartbeat(1)), 1.0) == (Send(encode(HeartbeatAck(1))),)
    assert end.skew is None


def test_silence_ends_the_connection() -> None:
    end = opened(ConsoleOptions("1", heartbeat_seconds=10))
    hear(end, Heartbeat(1), now=5.0)
    assert end.next_deadline == 35.0
    assert end.tick(34.9) == ()
    silent, close = end.tick(36.0)
    assert silent == PeerSilent(31.0)
    assert close == Close(CloseCode.SILENT, "nothing heard for 31 s")
    assert end.tick(36.0) == ()


def test_whatever_is_heard_is_a_sign_of_life() -> None:
    end = opened(ConsoleOptions("1", heartbeat_seconds=10))
    hear(end, HostFacts(), now=20.0)
    assert end.next_deadline == 50.0


def test_a_shell_that_took_its_time_does_not_make_the_defender_silent() -> None:
    end = challenged(ConsoleOptions("1", heartbeat_seconds=1))
    hear(end, hello(), now=0.0)
    end.welcome("d-1", 1, 0, 20.0)
    assert end.tick(20.1) == ()


# Events


def test_events_are_put_to_the_shell_and_acknowledged() -> None:
    end = opened(acked_through=4)
    received = only(EventsReceived, hear(end, events(5, 2)))
    assert received == EventsReceived(EPOCH, 5, (report(Started("0.1.0"), TIME),) * 2, 0)
    assert from_console(end.acknowledge(EPOCH, 6)) == Ack(EPOCH, 6)
    assert end.acknowledge(EPOCH, 6) == ()
    assert end.acknowledge(EPOCH, 5) == ()


def test_an_acknowledgement_never_runs_ahead_of_the_connection() -> None:
    end = opened()
    hear(end, events(1, 2))
    assert from_console(end.acknowledge(EPOCH, 100)) == Ack(EPOCH, 2)
    with pytest.raises(ValueError, match="epoch"):
        end.acknowledge("epoch-2", 1)


def test_nothing_is_acknowledged_on_a_closed_connection() -> None:
    end = opened()
    hear(end, events(1, 1))
    end.lost()
    assert end.acknowledge(EPOCH, 1) == ()


@pytest.mark.parametrize(
    "message", [events(1, 1), events(3, 1), events(4, 1, dropped=1), events(2, 1, dropped=1)]
)
def test_events_out_of_order_end_the_connection(message: Events) -> None:
    end = opened(acked_through=1)
    assert closed_with(hear(end, message)) == (CloseCode.POLICY, "events out of order")


def test_a_gap_that_is_stated_is_passed_on() -> None:
    end = opened(acked_through=1)
    received = only(EventsReceived, hear(end, events(10, 1, dropped=8)))
    assert (received.first, received.dropped) == (10, 8)


def test_events_of_another_epoch_end_the_connection() -> None:
    code, reason = closed_with(hear(opened(), events(1, 1, epoch="epoch-2")))
    assert code is CloseCode.POLICY
    assert "epoch" in reason


def test_the_window_is_kept() -> None:
    end = opened(ConsoleOptions("1", limits=Limits(event_window=3)))
    hear(end, events(1, 2))
    hear(end, events(3, 1))
    end.acknowledge(EPOCH, 1)
    hear(end, events(4, 1))
    assert closed_with(hear(end, events(5, 1))) == (CloseCode.POLICY, "events beyond the window")


def test_an_event_that_cannot_be_read_holds_up_none() -> None:
    end = opened()
    items = [
        msgspec.Raw(b'{"time":"2026-11-21T20:00:00Z","type":"newer","fields":{"a":[[1]]}}'),
        msgspec.Raw(b"7"),
        msgspec.Raw(encode_event(report(Started("1"), TIME))),
    ]
    received = only(EventsReceived, hear(end, Events(EPOCH, 1, items)))
    assert [event.type for event in received.items] == ["newer", UNREADABLE, "started"]
    assert received.items[0] == Event(TIME, "newer", {"raw": '{"a":[[1]]}'})
    assert from_console(end.acknowledge(EPOCH, 3)) == Ack(EPOCH, 3)


# Commands


def test_a_command_and_its_result() -> None:
    end = opened()
    command = from_console(end.send_command("c-1", "fetchLogs", {"lines": 2}, 0.0))
    assert command == Command("c-1", "fetchLogs", {"lines": 2})
    assert end.outstanding == 1
    finished = only(CommandFinished, hear(end, CommandResult("c-1", ok=True, value={"lines": ["a"]})))
    assert finished == CommandFinished("c-1", Outcome.OK, {"lines": ["a"]})
    assert end.outstanding == 0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [("unsupported", Outcome.UNSUPPORTED), ("busy", Outcome.BUSY), ("no such file", Outcome.FAILED)],
)
def test_a_command_that_fails(error: str, outcome: Outcome) -> None:
    end = opened()
    end.send_command("c-1", "restart", {}, 0.0)
    finished = only(CommandFinished, hear(end, CommandResult("c-1", ok=False, error=error)))
    assert finished == CommandFinished("c-1", outcome, {}, error)


def test_results_that_nobody_asked_for_are_counted() -> None:
    end = opened()
    assert hear(end, CommandResult("c-9", ok=True)) == ()
    end.send_command("c-1", "restart", {}, 0.0)
    hear(end, CommandResult("c-1", ok=True))
    assert hear(end, CommandResult("c-1", ok=True)) == ()
    assert end.stray == 2


def test_commands_time_out() -> None:
    end = opened()
    end.send_command("c-1", "restart", {}, 0.0, timeout=5)
    end.send_command("c-2", "restart", {}, 0.0, timeout=5)
    end.send_command("c-3", "restart", {}, 0.0, timeout=6)
    assert end.next_deadline == 5.0
    assert end.tick(5.0) == (
        CommandFinished("c-1", Outcome.TIMED_OUT),
        CommandFinished("c-2", Outcome.TIMED_OUT),
    )
    assert end.tick(5.0) == ()
    assert end.next_deadline == 6.0
    assert hear(end, CommandResult("c-1", ok=True)) == ()
    assert end.stray == 1


def test_only_so_many_commands_are_under_way() -> None:
    end = opened(ConsoleOptions("1", max_commands=2))
    for number in range(2):
        end.send_command(f"c-{number}", "restart", {}, 0.0)
    finished = only(CommandFinished, end.send_command("c-2", "restart", {}, 0.0))
    assert (finished.id, finished.outcome) == ("c-2", Outcome.BUSY)
    with pytest.raises(ValueError, match="under way"):
        end.send_command("c-1", "restart", {}, 0.0)


@pytest.mark.parametrize(
    ("command_id", "name", "arguments"),
    [
        ("two words", "restart", {}),
        ("c-1", "two words", {}),
        ("c-1", "restart", {"k": "x" * 4097}),
        ("c-1", "", {}),
    ],
)
def test_a_command_that_the_defender_could_not_read_is_not_sent(
    command_id: str, name: str, arguments: Any
) -> None:
    end = opened()
    with pytest.raises(ValueError, match="command: bad"):
        end.send_command(command_id, name, arguments, 0.0)
    assert end.outstanding == 0


def test_a_command_needs_an_open_connection() -> None:
    for end in (challenged(), console_end()):
        finished = only(CommandFinished, end.send_command("c-1", "restart", {}, 0.0))
        assert finished.outcome is Outcome.NOT_SENT


def test_commands_under_way_are_lost_with_the_connection() -> None:
    lost, ended = opened(), opened()
    for end in (lost, ended):
        end.send_command("c-1", "restart", {}, 0.0)
    assert lost.lost() == (CommandFinished("c-1", Outcome.LOST),)
    assert lost.lost() == ()
    assert ended.close(CloseCode.SUPERSEDED, "a newer session took over") == (
        CommandFinished("c-1", Outcome.LOST),
        Close(CloseCode.SUPERSEDED, "a newer session took over"),
    )
    assert ended.lost() == ()


# Reconnect (D4a)


def test_who_makes_no_attempt_is_closed_at_the_deadline() -> None:
    end = opened()
    asked = from_console(end.reconnect(2.0, 10.0, "certificates rotated", 5.0))
    assert asked == Reconnect(2.0, 10.0, "certificates rotated")
    assert (end.move, end.next_deadline) == (Move.ASKED, 15.0)
    hear(end, Heartbeat(1), now=14.0)
    assert closed_with(end.tick(15.0))[0] is CloseCode.NOT_MOVED


def test_who_is_not_wanted_elsewhere_any_more_stays() -> None:
    end = opened()
    end.reconnect(2.0, 10.0, "certificates rotated", 5.0)
    end.stay()
    hear(end, Heartbeat(1), now=14.0)
    assert end.move is Move.NOT_ASKED
    assert end.tick(15.0) == ()
    # Its attempt was under way: that it failed is no news.
    assert hear(end, ReconnectFailed("UNKNOWN_CA", "not in the bundle"), now=16.0) == ()
    assert end.stray == 1
    # A deadline of something else stands.
    end.send_command("c-1", "reportState", {}, 16.0, timeout=3.0)
    end.stay()
    assert end.next_deadline == 19.0


def test_who_tried_and_failed_keeps_the_connection() -> None:
    end = opened()
    end.reconnect(2.0, 10.0, "certificates rotated", 5.0)
    failed = only(MoveFailed, hear(end, ReconnectFailed("UNKNOWN_CA", "not in the bundle"), now=9.0))
    assert failed == MoveFailed("UNKNOWN_CA", "not in the bundle")
    assert end.move is Move.FAILED
    assert end.tick(16.0) == ()
    hear(end, Heartbeat(1), now=90.0)
    assert end.tick(100.0) == ()


def test_who_failed_can_be_asked_again() -> None:
    end = opened()
    assert from_console(end.reconnect(0.0, 10.0, "rotated\n", 0.0)).reason == "rotated?"
    hear(end, ReconnectFailed("TIMEOUT"))
    end.reconnect(0.0, 10.0, "rotated", 20.0)
    assert (end.move, end.next_deadline) == (Move.ASKED, 30.0)


def test_a_failure_that_nobody_asked_for_is_counted() -> None:
    end = opened()
    assert hear(end, ReconnectFailed("TIMEOUT")) == ()
    assert (end.move, end.stray) == (Move.NOT_ASKED, 1)


def test_a_slot_lies_before_its_deadline() -> None:
    with pytest.raises(ValueError, match="slot"):
        opened().reconnect(11.0, 10.0, "rotated", 0.0)
    assert challenged().reconnect(1.0, 10.0, "rotated", 0.0) == ()


# Bounds


def test_facts_are_passed_on() -> None:
    assert only(FactsReceived, hear(opened(), HostFacts(cpu_count=2))).facts == HostFacts(cpu_count=2)


def test_unknown_kinds_are_counted() -> None:
    for end in (challenged(), opened()):
        assert end.receive(b'{"kind":"renewal","csr":"..."}', 1.0) == ()
        assert end.unknown == 1


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"{", CloseCode.INVALID_DATA),
        (b"\xff", CloseCode.INVALID_DATA),
        (b"[]", CloseCode.POLICY),
        (b'{"kind":"heartbeat","sequence":"x"}', CloseCode.POLICY),
        (b" " * (MAX_MESSAGE_BYTES + 1), CloseCode.TOO_BIG),
    ],
)
def test_what_is_malformed_ends_the_connection(data: bytes, code: CloseCode) -> None:
    for end in (challenged(), opened()):
        assert closed_with(end.receive(data, 1.0))[0] is code
        assert end.state is ConsoleState.CLOSED


def test_too_many_messages_end_the_connection() -> None:
    end = opened(ConsoleOptions("1", rate=Rate(per_second=1, burst=5)))
    for number in range(4):  # the Hello took one
        hear(end, Heartbeat(number), now=0.0)
    assert closed_with(hear(end, Heartbeat(9), now=0.0)) == (CloseCode.POLICY, "too many messages")


def test_answers_to_commands_are_no_messages_too_many() -> None:
    end = opened(ConsoleOptions("1", rate=Rate(per_second=1, burst=4)))
    for number in range(100):
        now = 4.0 * number
        (sent,) = end.send_command(f"c-{number}", "reportState", {}, now)
        assert isinstance(sent, Send)
        (finished,) = hear(end, CommandResult(f"c-{number}", ok=True), now=now)
        assert isinstance(finished, CommandFinished)
        hear(end, Heartbeat(number), now=now)
        hear(end, Heartbeat(number), now=now)
        hear(end, Heartbeat(number), now=now)
    assert end.state is ConsoleState.OPEN
    # What was never asked for does count.
    for _ in range(4):
        assert hear(end, CommandResult("c-99", ok=True), now=1000.0) == ()
    closed = hear(end, CommandResult("c-99", ok=True), now=1000.0)
    assert closed_with(closed) == (CloseCode.POLICY, "too many messages")


def test_commands_keep_within_what_a_defender_takes() -> None:
    rate = Rate(per_second=10, burst=60)
    end = opened(ConsoleOptions("1", rate=rate, max_commands=1000))
    defender = End(rate)
    outcomes = []
    for number in range(600):  # twenty a second, for half a minute
        now = number / 20
        (output,) = end.send_command(f"c-{number}", "reportState", {}, now, timeout=1000.0)
        if isinstance(output, Send):
            assert not defender._too_fast(now)
        outcomes.append(output)
    busy = [one for one in outcomes if isinstance(one, CommandFinished)]
    assert {one.outcome for one in busy} == {Outcome.BUSY}
    assert 170 <= len(outcomes) - len(busy) <= 180  # 30 at once, then 5 a second


def test_unknown_messages_count_as_messages() -> None:
    end = opened(ConsoleOptions("1", rate=Rate(per_second=1, burst=2)))
    assert end.receive(b'{"kind":"newer"}', 0.0) == ()
    assert closed_with(end.receive(b'{"kind":"newer"}', 0.0))[1] == "too many messages"


def test_events_are_bounded_by_the_window_alone() -> None:
    end = opened(ConsoleOptions("1", rate=Rate(per_second=1, burst=2), limits=Limits(event_window=100)))
    for number in range(1, 101):
        only(EventsReceived, hear(end, events(number, 1), now=0.0))


def test_a_closed_end_says_nothing_more() -> None:
    end = opened()
    end.close(CloseCode.GOING_AWAY, "stopping")
    assert hear(end, Heartbeat(1)) == ()
    assert end.tick(1e9) == ()
    assert end.close(CloseCode.NORMAL, "") == ()
    assert end.reconnect(0, 1, "", 0) == ()
    assert end.next_deadline == math.inf


def test_ten_thousand_of_them_are_small() -> None:
    assert not hasattr(console_end(), "__dict__")


_INPUTS = st.lists(
    st.sampled_from(
        [
            encode(hello()),
            encode(hello(nonce=bytes(32))),
            encode(Heartbeat(1)),
            encode(events(1, 3)),
            encode(events(4, 1)),
            encode(CommandResult("c-1", ok=True)),
            encode(ReconnectFailed("X")),
            encode(HostFacts()),
            encode(Ack("e", 1)),
            b"{",
            "welcome",
            "refuse",
            "reconnect",
            "command",
            "acknowledge",
            "tick",
            "later",
            "lost",
        ]
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=100)
@given(_INPUTS)
def test_whatever_comes_in_whatever_order(inputs: list[bytes | str]) -> None:
    """One Close at most, as the last output; one CommandFinished for each command; ticks settle."""
    end, now, commands = challenged(), 0.0, 0
    saw: list[Any] = []
    for number, step in enumerate(inputs):
        now += 0.5
        outputs: tuple[Any, ...] = ()
        match step:
            case bytes():
                outputs = end.receive(step, now, WALL)
            case "welcome" if end.state is ConsoleState.JUDGING:
                outputs = end.welcome("d-1", 1, 0, now)
            case "refuse" if end.state is ConsoleState.JUDGING:
                outputs = end.refuse(CloseCode.LOCKED, "locked")
            case "reconnect":
                outputs = end.reconnect(1, 5, "rotated", now)
            case "command":
                outputs, commands = (
                    end.send_command(f"c-{number}", "restart", {}, now, timeout=3),
                    commands + 1,
                )
            case "acknowledge" if end.epoch:
                outputs = end.acknowledge(end.epoch, 2)
            case "tick" | "later":
                now += 20 if step == "later" else 0
                outputs = end.tick(now)
                assert end.tick(now) == ()
                assert end.next_deadline > now
            case "lost":
                outputs = end.lost()
        saw.extend(outputs)
    saw.extend(end.lost())
    said = [
        output for output in saw if output != CommandFinished(getattr(output, "id", ""), Outcome.NOT_SENT)
    ]
    closes = [position for position, output in enumerate(said) if isinstance(output, Close)]
    assert closes in ([], [len(said) - 1])
    assert sum(isinstance(output, CommandFinished) for output in saw) == commands
