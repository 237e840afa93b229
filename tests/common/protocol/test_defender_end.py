import math
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from common.protocol import (
    Acknowledged,
    Close,
    CloseCode,
    CommandReceived,
    DefenderEnd,
    DefenderOptions,
    DefenderState,
    Event,
    FetchLogs,
    HeartbeatSeen,
    HostFacts,
    Limits,
    PeerSilent,
    Rate,
    ReconnectAsked,
    ReportState,
    Restart,
    Started,
    Welcomed,
    log_lines,
    read_event,
    report,
)
from common.protocol.identity import verify_hello
from common.protocol.messages import (
    MAX_EVENTS,
    MAX_MESSAGE_BYTES,
    Ack,
    Challenge,
    Command,
    CommandResult,
    Direction,
    Events,
    Heartbeat,
    HeartbeatAck,
    Hello,
    Message,
    Reconnect,
    ReconnectFailed,
    Welcome,
    decode_claims,
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
    defender_end,
    from_defender,
    only,
    sent,
)

CHALLENGE = Challenge(NONCE, "0.1.0")
WELCOME = Welcome("d-1", 7, 10.0, EPOCH, 0, int(WALL * 1000))
STARTED = report(Started("0.1.0"), TIME)


def hear(end: DefenderEnd, message: Message, now: float = 1.0) -> tuple[Any, ...]:
    return end.receive(encode(message), now)


def greeted(**arguments: Any) -> DefenderEnd:
    end = defender_end(**arguments)
    end.opened(0.0)
    hear(end, CHALLENGE, 0.0)
    return end


def opened(welcome: Welcome = WELCOME, **arguments: Any) -> DefenderEnd:
    end = greeted(**arguments)
    assert isinstance(hear(end, welcome, 0.0)[0], Welcomed)
    return end


def closed_with(outputs: tuple[Any, ...]) -> tuple[CloseCode, str]:
    close = only(Close, outputs)
    return close.code, close.reason


def posted(outputs: tuple[Any, ...]) -> list[Events]:
    messages = sent(outputs, Direction.FROM_DEFENDER)
    assert all(isinstance(message, Events) for message in messages)
    return [message for message in messages if isinstance(message, Events)]


# Hello


def test_it_waits_for_the_challenge() -> None:
    end = defender_end()
    assert end.opened(0.0) == ()
    assert end.state is DefenderState.AWAITING_CHALLENGE
    assert (end.room, end.next_event, end.epoch) == (0, 0, EPOCH)
    with pytest.raises(ValueError, match="awaiting challenge"):
        end.opened(0.0)


def test_it_answers_the_challenge_with_a_signed_hello() -> None:
    end = defender_end()
    end.opened(0.0)
    hello = from_defender(hear(end, CHALLENGE))
    assert isinstance(hello, Hello)
    assert verify_hello(hello, nonce=NONCE, leaf=LEAF) is None
    assert decode_claims(bytes(hello.body)) == claims()
    assert end.state is DefenderState.AWAITING_WELCOME


def test_it_signs_the_leaf_that_it_saw() -> None:
    end = defender_end(leaf=OTHER_LEAF)
    end.opened(0.0)
    hello = from_defender(hear(end, CHALLENGE))
    assert verify_hello(hello, nonce=NONCE, leaf=OTHER_LEAF) is None
    assert verify_hello(hello, nonce=NONCE, leaf=LEAF) is not None


def test_a_console_that_never_welcomes_is_left() -> None:
    for end, reason in (
        (defender_end(), "still awaiting challenge"),
        (defender_end(), "still awaiting welcome"),
    ):
        end.opened(0.0)
        if "welcome" in reason:
            hear(end, CHALLENGE, 40.0)
        assert end.next_deadline == 45.0
        assert end.tick(44.9) == ()
        assert closed_with(end.tick(45.0)) == (CloseCode.HELLO_TIMEOUT, reason)
        assert end.tick(45.0) == ()


def test_welcome_opens() -> None:
    end = greeted()
    welcomed = only(Welcomed, hear(end, WELCOME))
    assert welcomed == Welcomed(WELCOME, CHALLENGE)
    assert (end.state, end.welcomed) == (DefenderState.OPEN, WELCOME)
    assert (end.room, end.next_event) == (256, 1)


def test_welcome_tells_what_an_acknowledgement_told_that_was_lost() -> None:
    welcome = Welcome("d-1", 7, 10.0, EPOCH, 41)
    assert hear(greeted(), welcome) == (Welcomed(welcome, CHALLENGE), Acknowledged(EPOCH, 41))


def test_a_welcome_for_another_epoch_is_refused() -> None:
    code, reason = closed_with(hear(greeted(), Welcome("d-1", 1, 10.0, "epoch-2", 0)))
    assert code is CloseCode.POLICY
    assert "epoch" in reason


@pytest.mark.parametrize("message", [WELCOME, Ack(EPOCH, 0), Command("c", "restart"), HeartbeatAck(0)])
def test_nothing_comes_before_the_challenge(message: Message) -> None:
    end = defender_end()
    end.opened(0.0)
    expected = (CloseCode.POLICY, f"{type(message).__name__} while awaiting challenge")
    assert closed_with(hear(end, message)) == expected


def test_one_challenge_one_welcome() -> None:
    assert closed_with(hear(greeted(), CHALLENGE))[1] == "Challenge while awaiting welcome"
    assert closed_with(hear(opened(), CHALLENGE))[1] == "Challenge while open"
    assert closed_with(hear(opened(), WELCOME))[1] == "Welcome while open"


# Heartbeats


def test_the_first_heartbeat_is_jittered_the_others_keep_the_interval() -> None:
    end = opened(jitter=0.25)
    assert end.next_deadline == 2.5
    assert end.tick(2.4) == ()
    assert from_defender(end.tick(2.5, WALL)) == Heartbeat(1, int(WALL * 1000))
    assert end.tick(2.5) == ()
    assert end.next_deadline == 12.5
    assert from_defender(end.tick(12.5)) == Heartbeat(2)


def test_after_a_pause_one_heartbeat_is_enough() -> None:
    end = opened(jitter=0.0)
    end.tick(0.0)
    hear(end, Command("c-1", "restart"), 27.0)
    assert from_defender(end.tick(27.0)) == Heartbeat(2)
    assert end.tick(27.0) == ()
    assert end.next_deadline == 37.0


def test_a_heartbeat_that_is_answered_tells_round_trip_and_skew() -> None:
    end = opened(jitter=0.0)
    end.tick(1.0, WALL)
    seen = only(HeartbeatSeen, hear(end, HeartbeatAck(1, int((WALL + 60) * 1000)), 1.5))
    assert seen.round_trip == 0.5
    assert seen.skew == pytest.approx(59.75)


def test_without_a_clock_there_is_no_skew() -> None:
    end = opened(jitter=0.0)
    end.tick(1.0)
    assert only(HeartbeatSeen, hear(end, HeartbeatAck(1, 7), 1.5)).skew is None
    end.tick(11.0, WALL)
    assert only(HeartbeatSeen, hear(end, HeartbeatAck(2), 11.5)).skew is None


def test_answers_to_no_heartbeat_are_counted() -> None:
    end = opened(jitter=0.0)
    assert hear(end, HeartbeatAck(0)) == ()
    end.tick(1.0)
    hear(end, HeartbeatAck(1), 1.1)
    assert hear(end, HeartbeatAck(1), 1.2) == ()
    assert hear(end, HeartbeatAck(2), 1.2) == ()
    assert end.stray == 3


def test_a_silent_console_is_left() -> None:
    end = opened(jitter=0.0)
    for now in (0.0, 10.0, 20.0):
        end.tick(now)
    assert end.next_deadline == 30.0
    silent, close = end.tick(30.0)
    assert silent == PeerSilent(30.0)
    assert close == Close(CloseCode.SILENT, "nothing heard for 30 s")


# Events


def test_events_are_posted_in_order() -> None:
    end = opened(Welcome("d-1", 7, 10.0, EPOCH, 41))
    assert end.next_event == 42
    [message] = posted(end.post_events(EPOCH, 42, [STARTED, STARTED]))
    assert (message.first, message.dropped) == (42, 0)
    assert [read_event(bytes(item)) for item in message.items] == [STARTED, STARTED]
    assert (end.next_event, end.room) == (44, 254)
    assert only(Acknowledged, hear(end, Ack(EPOCH, 43))) == Acknowledged(EPOCH, 43)
    assert end.room == 256


def test_the_window_bounds_what_is_posted() -> None:
    end = opened(Welcome("d-1", 7, 10.0, EPOCH, 0, limits=Limits(event_window=2)))
    with pytest.raises(ValueError, match="window"):
        end.post_events(EPOCH, 1, [STARTED] * 3)
    end.post_events(EPOCH, 1, [STARTED] * 2)
    assert end.room == 0
    hear(end, Ack(EPOCH, 1))
    assert end.room == 1


def test_what_the_spool_dropped_is_said() -> None:
    end = opened()
    [message] = posted(end.post_events(EPOCH, 11, [STARTED]))
    assert (message.first, message.dropped) == (11, 10)
    assert end.next_event == 12


def test_only_the_first_message_after_a_gap_says_so() -> None:
    messages = posted(opened().post_events(EPOCH, 11, [STARTED] * (MAX_EVENTS + 1)))
    assert [(message.first, len(message.items), message.dropped) for message in messages] == [
        (11, MAX_EVENTS, 10),
        (11 + MAX_EVENTS, 1, 0),
    ]


def test_events_are_not_posted_twice() -> None:
    end = opened()
    end.post_events(EPOCH, 1, [STARTED])
    with pytest.raises(ValueError, match="before"):
        end.post_events(EPOCH, 1, [STARTED])


def test_another_epoch_needs_another_connection() -> None:
    with pytest.raises(ValueError, match="another connection"):
        opened().post_events("epoch-2", 1, [STARTED])


def test_nothing_is_posted_unless_open() -> None:
    assert greeted().post_events(EPOCH, 1, [STARTED]) == ()
    assert opened().post_events(EPOCH, 1, []) == ()


def test_large_events_are_split_by_bytes() -> None:
    large = Event(TIME, "large", {f"k{number}": "\x01" * 600 for number in range(4)})
    outputs = opened().post_events(EPOCH, 1, [large] * 50)
    messages = posted(outputs)
    assert len(messages) > 1
    assert all(len(output.data) <= MAX_MESSAGE_BYTES for output in outputs if hasattr(output, "data"))
    assert [message.first for message in messages[1:]] == [
        message.first + len(message.items) for message in messages[:-1]
    ]
    assert sum(len(message.items) for message in messages) == 50


def test_a_console_may_take_smaller_messages() -> None:
    large = Event(TIME, "large", {f"k{number}": "x" * 4000 for number in range(3)})
    end = opened(Welcome("d-1", 7, 10.0, EPOCH, 0, limits=Limits(message_bytes=64 * 1024)))
    outputs = end.post_events(EPOCH, 1, [large] * 20)
    assert max(len(output.data) for output in outputs if hasattr(output, "data")) <= 64 * 1024


def test_acknowledgements_that_say_nothing_are_counted() -> None:
    end = opened()
    end.post_events(EPOCH, 1, [STARTED])
    for ack in (Ack(EPOCH, 0), Ack(EPOCH, 2), Ack("epoch-2", 1)):
        assert hear(end, ack) == ()
    assert end.stray == 3
    only(Acknowledged, hear(end, Ack(EPOCH, 1)))


def test_acknowledgements_that_say_nothing_are_bounded() -> None:
    end = opened(options=DefenderOptions(rate=Rate(per_second=1, burst=4)))
    for _ in range(2):
        hear(end, Ack(EPOCH, 0), 0.0)
    assert closed_with(hear(end, Ack(EPOCH, 0), 0.0)) == (CloseCode.POLICY, "too many messages")


def test_acknowledgements_that_get_on_are_free() -> None:
    end = opened(options=DefenderOptions(rate=Rate(per_second=1, burst=4)))
    end.post_events(EPOCH, 1, [STARTED] * 100)
    for number in range(1, 101):
        only(Acknowledged, hear(end, Ack(EPOCH, number), 0.0))


# Commands


@pytest.mark.parametrize(
    ("command", "order"),
    [
        (Command("c-1", "restart"), Restart()),
        (Command("c-1", "fetchLogs", {"lines": 7}), FetchLogs(7)),
        (Command("c-1", "reportState"), ReportState()),
    ],
)
def test_commands_are_put_to_the_shell(command: Command, order: object) -> None:
    end = opened()
    assert hear(end, command) == (CommandReceived("c-1", order),)  # type: ignore[arg-type]
    result = from_defender(end.result("c-1", ok=True, value={"done": True}))
    assert result == CommandResult("c-1", ok=True, value={"done": True})


def test_unknown_commands_and_bad_arguments_are_answered() -> None:
    end = opened()
    unsupported = from_defender(hear(end, Command("c-1", "selfDestruct")))
    assert unsupported == CommandResult("c-1", ok=False, error="unsupported")
    bad = from_defender(hear(end, Command("c-1", "fetchLogs", {"lines": -1})))
    assert bad == CommandResult("c-1", ok=False, error="lines: 1 to 2000")


def test_too_many_commands_are_answered_busy() -> None:
    end = opened(options=DefenderOptions(max_commands=1))
    hear(end, Command("c-1", "restart"))
    assert from_defender(hear(end, Command("c-2", "restart"))) == CommandResult("c-2", ok=False, error="busy")


def test_a_command_is_done_once() -> None:
    end = opened()
    hear(end, Command("c-1", "restart"))
    assert hear(end, Command("c-1", "restart")) == ()
    assert end.stray == 1


def test_a_result_needs_its_command() -> None:
    end = opened()
    with pytest.raises(ValueError, match="under way"):
        end.result("c-1", ok=True)
    hear(end, Command("c-1", "restart"))
    end.result("c-1", ok=True)
    with pytest.raises(ValueError, match="under way"):
        end.result("c-1", ok=True)


def test_a_result_after_the_end_is_nothing() -> None:
    end = opened()
    hear(end, Command("c-1", "restart"))
    end.lost()
    assert end.result("c-1", ok=True) == ()


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"lines": ["x" * 4096] * 100}, "result too big"),
        ({"lines": ["x"] * 2001}, "commandResult: bad value[...]"),
        ({"text": "x" * 4097}, "commandResult: bad value[...]"),
    ],
)
def test_a_result_that_the_console_would_refuse_says_so(value: Any, error: str) -> None:
    end = opened()
    hear(end, Command("c-1", "fetchLogs"))
    assert from_defender(end.result("c-1", ok=True, value=value)) == CommandResult(
        "c-1", ok=False, error=error
    )


def test_an_error_is_made_fit_to_send() -> None:
    end = opened()
    hear(end, Command("c-1", "fetchLogs"))
    result = from_defender(end.result("c-1", ok=False, error="no\nsuch file \udcff" + "x" * 2000))
    assert result.error.startswith("no?such file ?xx")
    assert len(result.error) == 1024


def test_logs_fit() -> None:
    end = opened()
    hear(end, Command("c-1", "fetchLogs", {"lines": 2000}))
    result = from_defender(end.result("c-1", ok=True, value=log_lines(["\x1b" * 4096] * 2000)))
    assert result.ok


# Reconnect


def test_a_slot_is_counted_from_now() -> None:
    asked = only(ReconnectAsked, hear(opened(), Reconnect(2.5, 60.0, "rotated"), 100.0))
    assert asked == ReconnectAsked(102.5, 160.0, "rotated")


def test_a_failed_attempt_is_told() -> None:
    end = opened()
    failed = from_defender(end.reconnect_failed("UNKNOWN_CA", "not\nin the bundle"))
    assert failed == ReconnectFailed("UNKNOWN_CA", "not?in the bundle")
    with pytest.raises(ValueError, match="reason"):
        end.reconnect_failed("two words", "")
    assert greeted().reconnect_failed("UNKNOWN_CA", "") == ()


# Bounds


def test_facts_are_told() -> None:
    assert from_defender(opened().post_facts(HostFacts(cpu_count=2))) == HostFacts(cpu_count=2)
    with pytest.raises(ValueError, match="cpuCount"):
        opened().post_facts(HostFacts(cpu_count=-1))


def test_unknown_kinds_are_counted() -> None:
    end = opened()
    assert end.receive(b'{"kind":"renewal"}', 1.0) == ()
    assert end.unknown == 1


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"{", CloseCode.INVALID_DATA),
        (b'{"kind":"ack"}', CloseCode.POLICY),
        (b" " * (MAX_MESSAGE_BYTES + 1), CloseCode.TOO_BIG),
    ],
)
def test_what_is_malformed_ends_the_connection(data: bytes, code: CloseCode) -> None:
    end = opened()
    assert closed_with(end.receive(data, 1.0))[0] is code
    assert end.receive(data, 1.0) == ()


def test_too_many_messages_end_the_connection() -> None:
    end = opened(options=DefenderOptions(rate=Rate(per_second=1, burst=3)))
    hear(end, Command("c-1", "restart"), 0.0)
    assert closed_with(hear(end, Command("c-2", "restart"), 0.0)) == (CloseCode.POLICY, "too many messages")


def test_it_says_goodbye() -> None:
    end = opened()
    assert closed_with(end.close(CloseCode.NORMAL, "moved")) == (CloseCode.NORMAL, "moved")
    assert end.close(CloseCode.NORMAL, "moved") == ()
    assert end.tick(1e9) == ()
    assert (end.room, end.next_deadline) == (0, math.inf)


def test_keys_of_other_curves_are_a_bug() -> None:
    end = DefenderEnd(ec.generate_private_key(ec.SECP384R1()), claims(), leaf=LEAF, jitter=0.0)
    end.opened(0.0)
    with pytest.raises(ValueError, match="P-256"):
        hear(end, CHALLENGE)


_INPUTS = st.lists(
    st.sampled_from(
        [
            encode(CHALLENGE),
            encode(WELCOME),
            encode(Ack(EPOCH, 1)),
            encode(Ack(EPOCH, 3)),
            encode(HeartbeatAck(1)),
            encode(Command("c-1", "restart")),
            encode(Reconnect(1, 2, "rotated")),
            encode(Heartbeat(1)),
            b"{",
            "post",
            "result",
            "failed",
            "tick",
            "later",
            "lost",
        ]
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=100)
@given(_INPUTS, st.booleans())
def test_whatever_comes_in_whatever_order(inputs: list[bytes | str], greet: bool) -> None:
    """One Close at most, as the last output; what is posted is numbered without gaps; ticks settle."""
    end, now = (opened() if greet else defender_end()), 0.0
    if not greet:
        end.opened(now)
    saw: list[Any] = []
    for step in inputs:
        now += 0.5
        outputs: tuple[Any, ...] = ()
        match step:
            case bytes():
                outputs = end.receive(step, now)
            case "post" if end.room:
                outputs = end.post_events(EPOCH, end.next_event, [STARTED])
            case "result" if any(isinstance(output, CommandReceived) for output in saw):
                saw = [output for output in saw if not isinstance(output, CommandReceived)]
                outputs = end.result("c-1", ok=True)
            case "failed":
                outputs = end.reconnect_failed("TIMEOUT", "")
            case "tick" | "later":
                now += 20 if step == "later" else 0
                outputs = end.tick(now, WALL)
                assert end.tick(now, WALL) == ()
                assert end.next_deadline > now
            case "lost":
                outputs = end.lost()
        saw.extend(outputs)
    closes = [position for position, output in enumerate(saw) if isinstance(output, Close)]
    assert closes in ([], [len(saw) - 1])
    numbers = [
        message.first for message in sent(tuple(saw), Direction.FROM_DEFENDER) if isinstance(message, Events)
    ]
    assert numbers == list(range(1, len(numbers) + 1))
