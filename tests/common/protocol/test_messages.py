import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.protocol.codes import MAX_REASON_BYTES, CloseCode
from common.protocol.messages import (
    MAX_EVENTS,
    MAX_LINES,
    MAX_MESSAGE_BYTES,
    MAX_NUMBER,
    Ack,
    Challenge,
    Command,
    CommandResult,
    Direction,
    Events,
    FromConsole,
    FromDefender,
    Heartbeat,
    HeartbeatAck,
    HeldSet,
    Hello,
    HostFacts,
    Limits,
    Malformed,
    Reconnect,
    ReconnectFailed,
    SpoolState,
    Unknown,
    Welcome,
    decode,
    decode_claims,
    encode,
    require_utc,
)
from tests.common.protocol.helpers import NONCE, TIME, claims

CLAIMS = (
    '{"hostname":"web-1","fqdn":"web-1.example.test","version":"0.1.0","type":"serverLinux",'
    '"os":"Debian GNU/Linux 12","arch":"x86_64",'
    '"spool":{"epoch":"epoch-1","first":1,"next":1,"dropped":0},"protocol":0,"capabilities":["reconnect"],'
    '"certificates":[{"channel":"defender-client","fingerprint":"' + "ab" * 32 + '",'
    '"notAfter":"2026-11-21T20:00:00Z","source":"generated","generation":1,"proved":false}]}'
)

# The wire format. A line here changes only with a new field, at its end, or a new minor version.
FROM_CONSOLE: list[tuple[FromConsole, str]] = [
    (
        Challenge(NONCE, "0.1.0", capabilities=("reconnect",)),
        (
            '{"kind":"challenge","nonce":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=","version":"0.1.0",'
            '"protocol":0,"capabilities":["reconnect"]}'
        ),
    ),
    (
        Welcome("d-abc", 3, 30.0, "epoch-1", 17, 1_795_300_000_123),
        (
            '{"kind":"welcome","defenderId":"d-abc","session":3,"heartbeatSeconds":30.0,"epoch":"epoch-1",'
            '"ackedThrough":17,"time":1795300000123,"limits":{"eventWindow":256,"messageBytes":262144}}'
        ),
    ),
    (Ack("epoch-1", 18), '{"kind":"ack","epoch":"epoch-1","through":18}'),
    (HeartbeatAck(4, 1_795_300_000_123), '{"kind":"heartbeatAck","sequence":4,"time":1795300000123}'),
    (
        Command("c-1", "fetchLogs", {"lines": 100}),
        '{"kind":"command","id":"c-1","name":"fetchLogs","arguments":{"lines":100}}',
    ),
    (
        Reconnect(2.5, 60.0, "certificates rotated"),
        '{"kind":"reconnect","slotSeconds":2.5,"deadlineSeconds":60.0,"reason":"certificates rotated"}',
    ),
]
FROM_DEFENDER: list[tuple[FromDefender, str]] = [
    (
        Hello(b"key", b"signature", msgspec.Raw(encode(claims()))),
        '{"kind":"hello","instanceKey":"a2V5","signature":"c2lnbmF0dXJl","body":' + CLAIMS + "}",
    ),
    (Heartbeat(4, 1_795_300_000_000), '{"kind":"heartbeat","sequence":4,"time":1795300000000}'),
    (
        Events("epoch-1", 18, [msgspec.Raw(b'{"time":"2026-11-21T20:00:00Z","type":"started"}')], dropped=2),
        (
            '{"kind":"events","epoch":"epoch-1","first":18,'
            '"items":[{"time":"2026-11-21T20:00:00Z","type":"started"}],"dropped":2}'
        ),
    ),
    (
        CommandResult("c-1", ok=True, value={"lines": ["one", "two"]}),
        '{"kind":"commandResult","id":"c-1","ok":true,"value":{"lines":["one","two"]}}',
    ),
    (
        CommandResult("c-2", ok=False, error="unsupported"),
        '{"kind":"commandResult","id":"c-2","ok":false,"error":"unsupported"}',
    ),
    (
        ReconnectFailed("UNKNOWN_CA", "not in defender-ca.pem"),
        '{"kind":"reconnectFailed","reason":"UNKNOWN_CA","detail":"not in defender-ca.pem"}',
    ),
    (
        HostFacts("6.1.0-28-amd64", 2, 7.5, 100, 40),
        (
            '{"kind":"hostFacts","kernelVersion":"6.1.0-28-amd64","cpuCount":2,"memoryGB":7.5,'
            '"totalDiskSpaceGB":100,"freeDiskSpaceGB":40}'
        ),
    ),
]
GOLDEN = [
    *((Direction.FROM_CONSOLE, message, text) for message, text in FROM_CONSOLE),
    *((Direction.FROM_DEFENDER, message, text) for message, text in FROM_DEFENDER),
]


def comparable(message: Any) -> object:
    """Raw compares by identity: compare what it holds."""
    return json.loads(encode(message))


@pytest.mark.parametrize(("direction", "message", "text"), GOLDEN)
def test_the_wire_format(direction: Direction, message: Any, text: str) -> None:
    assert encode(message).decode() == text
    decoded = decode(text.encode(), direction)
    assert type(decoded) is type(message)
    assert comparable(decoded) == comparable(message)


def test_every_message_is_in_the_golden_list() -> None:
    assert {type(message) for _, message, _ in GOLDEN} == {*FromConsole.__args__, *FromDefender.__args__}


def test_claims_are_told_as_they_are() -> None:
    assert encode(claims()).decode() == CLAIMS
    assert decode_claims(CLAIMS.encode()) == claims()


@pytest.mark.parametrize(("direction", "message", "text"), GOLDEN)
def test_fields_that_only_a_newer_peer_knows_are_ignored(
    direction: Direction, message: Any, text: str
) -> None:
    newer = text[:-1] + ',"added":{"deeply":[1,{"x":null}]}}'
    assert comparable(decode(newer.encode(), direction)) == comparable(message)


@pytest.mark.parametrize(("direction", "message", "text"), GOLDEN)
def test_a_message_of_the_other_direction_is_unknown(direction: Direction, message: Any, text: str) -> None:
    other = Direction.FROM_DEFENDER if direction is Direction.FROM_CONSOLE else Direction.FROM_CONSOLE
    assert decode(text.encode(), other) == Unknown(json.loads(text)["kind"])


@pytest.mark.parametrize(("direction", "message", "text"), GOLDEN)
def test_each_missing_field_is_named_or_has_a_default(direction: Direction, message: Any, text: str) -> None:
    fields = json.loads(text)
    for field in fields.keys() - {"kind"}:
        shorter = json.dumps({key: value for key, value in fields.items() if key != field})
        decoded = decode(shorter.encode(), direction)
        if isinstance(decoded, Malformed):
            assert decoded == Malformed(f"{fields['kind']}: bad {field}")
        else:
            assert type(decoded) is type(message)


def test_a_kind_that_only_a_newer_peer_knows() -> None:
    for direction in Direction:
        assert decode(b'{"kind":"renewal","csr":"..."}', direction) == Unknown("renewal")


@pytest.mark.parametrize(
    "data", [b"{}", b"[]", b"7", b"null", b'"x"', b'{"kind":7}', b'{"kind":"a b"}', b'{"kind":""}']
)
def test_what_has_no_kind(data: bytes) -> None:
    assert decode(data, Direction.FROM_DEFENDER) == Malformed("no message kind")


def test_a_kind_is_short() -> None:
    assert decode(b'{"kind":"%s"}' % (b"k" * 65), Direction.FROM_CONSOLE) == Malformed("no message kind")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"{'kind'}", b"\xef\xbb\xbf{}", b'{"kind":"heartbeat","sequence":1}x', b"\0"]
)
def test_what_is_not_json(data: bytes) -> None:
    assert decode(data, Direction.FROM_DEFENDER) == Malformed("message: not JSON", CloseCode.INVALID_DATA)


def test_what_is_not_utf8() -> None:
    assert decode(b'{"kind":"\xff"}', Direction.FROM_DEFENDER).__class__ is Malformed
    fault = decode(b'{"kind":"reconnectFailed","reason":"\xff"}', Direction.FROM_DEFENDER)
    assert fault == Malformed("message: not UTF-8", CloseCode.INVALID_DATA)


def test_what_is_nested_too_deeply() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    fault = decode(b'{"kind":"heartbeat","sequence":1,"x":' + deep + b"}", Direction.FROM_DEFENDER)
    assert fault == Malformed("message: nested too deeply")
    unknown = decode(b'{"kind":"new","x":' + deep + b"}", Direction.FROM_DEFENDER)
    assert isinstance(unknown, Malformed | Unknown)


@pytest.mark.parametrize("direction", Direction)
def test_a_message_that_is_too_big_is_not_even_read(direction: Direction) -> None:
    text = b'{"kind":"new"}'
    assert decode(text.ljust(MAX_MESSAGE_BYTES), direction) == Unknown("new")
    too_big = Malformed("message too big", CloseCode.TOO_BIG)
    assert decode(text.ljust(MAX_MESSAGE_BYTES + 1), direction) == too_big


def beyond_bounds() -> Iterator[tuple[Direction, str, str]]:
    to_console, to_defender = Direction.FROM_DEFENDER, Direction.FROM_CONSOLE
    yield to_console, '{"kind":"heartbeat","sequence":-1}', "heartbeat: bad sequence"
    yield to_console, '{"kind":"heartbeat","sequence":true}', "heartbeat: bad sequence"
    yield to_console, '{"kind":"heartbeat","sequence":1.5}', "heartbeat: bad sequence"
    yield to_console, f'{{"kind":"heartbeat","sequence":{MAX_NUMBER + 1}}}', "heartbeat: bad sequence"
    yield to_console, f'{{"kind":"heartbeat","sequence":1{"0" * 400}}}', "heartbeat: bad sequence"
    yield to_console, '{"kind":"hello","instanceKey":"!","signature":"","body":{}}', "hello: bad instanceKey"
    long = "A" * 400
    yield (
        to_console,
        f'{{"kind":"hello","instanceKey":"{long}","signature":"","body":{{}}}}',
        "hello: bad instanceKey",
    )
    yield (
        to_console,
        f'{{"kind":"hello","instanceKey":"","signature":"{long}","body":{{}}}}',
        "hello: bad signature",
    )
    yield to_console, '{"kind":"events","epoch":"e","first":0,"items":[1]}', "events: bad first"
    yield to_console, '{"kind":"events","epoch":"e","first":1,"items":[]}', "events: bad items"
    many = ",".join(["1"] * (MAX_EVENTS + 1))
    yield to_console, f'{{"kind":"events","epoch":"e","first":1,"items":[{many}]}}', "events: bad items"
    yield to_console, '{"kind":"events","epoch":"a b","first":1,"items":[1]}', "events: bad epoch"
    yield to_console, '{"kind":"events","epoch":"","first":1,"items":[1]}', "events: bad epoch"
    yield to_console, '{"kind":"commandResult","id":"1","ok":1}', "commandResult: bad ok"
    yield to_console, '{"kind":"commandResult","id":"1\\n","ok":true}', "commandResult: bad id"
    yield (
        to_console,
        '{"kind":"commandResult","id":"1","ok":true,"error":"a\\nb"}',
        "commandResult: bad error",
    )
    yield (
        to_console,
        '{"kind":"commandResult","id":"1","ok":true,"value":{"secret":{"x":[1]}}}',
        ("commandResult: bad value[...][...]"),
    )
    lines = ",".join(["1"] * (MAX_LINES + 1))
    yield (
        to_console,
        f'{{"kind":"commandResult","id":"1","ok":true,"value":{{"l":[{lines}]}}}}',
        ("commandResult: bad value[...]"),
    )
    fields = ",".join(f'"k{number}":1' for number in range(65))
    yield (
        to_console,
        f'{{"kind":"commandResult","id":"1","ok":true,"value":{{{fields}}}}}',
        "commandResult: bad value",
    )
    yield to_console, '{"kind":"commandResult","id":"1","ok":true,"value":{"":1}}', "commandResult: bad value"
    yield (
        to_console,
        f'{{"kind":"commandResult","id":"1","ok":true,"value":{{"k":"{"x" * 4097}"}}}}',
        ("commandResult: bad value[...]"),
    )
    yield to_console, '{"kind":"hostFacts","memoryGB":-1}', "hostFacts: bad memoryGB"
    yield (
        to_console,
        '{"kind":"hostFacts","certificates":[{"channel":"c"}]}',
        "hostFacts: bad certificates[0]",
    )
    yield to_defender, '{"kind":"challenge","nonce":"AAAA","version":"1"}', "challenge: bad nonce"
    yield to_defender, '{"kind":"ack","epoch":"e","through":-1}', "ack: bad through"
    welcome = (
        '{"kind":"welcome","defenderId":"d","session":1,"heartbeatSeconds":%s,"epoch":"e","ackedThrough":0%s}'
    )
    for seconds in ("0", "0.01", "3601", "-1", "1e999", '"30"'):
        yield to_defender, welcome % (seconds, ""), "welcome: bad heartbeatSeconds"
    yield to_defender, welcome % ("30", ',"limits":{"eventWindow":0}'), "welcome: bad limits.eventWindow"
    yield to_defender, welcome % ("30", ',"limits":{"messageBytes":10}'), "welcome: bad limits.messageBytes"
    yield (
        to_defender,
        '{"kind":"reconnect","slotSeconds":-1,"deadlineSeconds":1,"reason":""}',
        ("reconnect: bad slotSeconds"),
    )


@pytest.mark.parametrize(("direction", "text", "reason"), list(beyond_bounds()))
def test_what_is_beyond_its_bounds_is_named_but_not_repeated(
    direction: Direction, text: str, reason: str
) -> None:
    assert decode(text.encode(), direction) == Malformed(reason, CloseCode.POLICY)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hostname", "x" * 256),
        ("hostname", "two\nlines"),
        ("hostname", "line\u2028separator"),
        ("hostname", "bell\x9b"),
        ("version", None),
        ("capabilities", ["a"] * 65),
        ("capabilities", ["not a token"]),
        ("certificates", [{}]),
        ("spool", {"epoch": "e", "first": 2, "next": 1}),
        ("spool", {"epoch": "e", "first": 0, "next": 1}),
        ("spool", {"epoch": "e" * 65, "first": 1, "next": 1}),
        ("protocol", -1),
    ],
)
def test_claims_beyond_their_bounds(field: str, value: object) -> None:
    body = json.dumps({**json.loads(CLAIMS), field: value})
    fault = decode_claims(body.encode())
    assert isinstance(fault, Malformed)
    assert fault.reason.startswith(f"hello.body: bad {field}")


def test_claims_that_are_not_json() -> None:
    assert decode_claims(b"{") == Malformed("hello.body: not JSON", CloseCode.INVALID_DATA)
    assert decode_claims(b"[]") == Malformed("hello.body: bad structure")


def test_times_in_records_are_utc() -> None:
    """0001-01-01 at +10:00 has no UTC that Python can tell: nothing may stumble over it later."""
    text = '{"kind":"hostFacts","certificates":[%s]}'
    held = '{"channel":"c","fingerprint":"' + "ab" * 32 + '","notAfter":"%s","source":"custom"}'
    good = decode((text % (held % "2026-11-21T20:00:00Z")).encode(), Direction.FROM_DEFENDER)
    assert good == HostFacts(certificates=(HeldSet("c", "ab" * 32, TIME, "custom"),))
    for time in ("0001-01-01T00:00:00+10:00", "2026-11-21T20:00:00", "2026-11-21T20:00:00+01:00", "soon", 7):
        fault = decode((text % (held % time)).encode(), Direction.FROM_DEFENDER)
        assert isinstance(fault, Malformed)
        assert fault.reason.startswith("hostFacts: bad certificates[0]")


def test_require_utc() -> None:
    require_utc(TIME)
    require_utc(datetime(2026, 1, 1, tzinfo=timezone(timedelta(0))))
    for time in (datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1))), TIME.replace(tzinfo=None)):
        with pytest.raises(ValueError, match="UTC"):
            require_utc(time)


def test_a_spool_state_is_in_order() -> None:
    assert SpoolState("e", 1, 1).dropped == 0
    with pytest.raises(ValueError, match="behind"):
        SpoolState("e", 2, 1)


def test_messages_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Heartbeat(1).sequence = 2  # type: ignore[misc]


def test_limits_that_everybody_knows() -> None:
    assert Limits() == Limits(256, 262144)


_SECRET = "hunter2"
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.just(_SECRET)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.just(_SECRET), inner, max_size=4)
    ),
    max_leaves=12,
)
_KINDS = st.sampled_from([json.loads(text)["kind"] for _, _, text in GOLDEN])
_FIELDS = st.sampled_from(sorted({field for _, _, text in GOLDEN for field in json.loads(text)}))


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(list(Direction)), _KINDS, st.dictionaries(_FIELDS, _JSON, max_size=8))
def test_whatever_arrives_is_a_value_and_its_reason_can_be_sent(
    direction: Direction, kind: str, fields: dict[str, object]
) -> None:
    decoded = decode(json.dumps({**fields, "kind": kind}).encode(), direction)
    if isinstance(decoded, Malformed):
        assert len(decoded.reason.encode()) <= MAX_REASON_BYTES
        assert _SECRET not in decoded.reason


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(GOLDEN), st.data())
def test_whatever_is_cut_or_changed_is_a_value(
    golden: tuple[Direction, object, str], data: st.DataObject
) -> None:
    direction, _, text = golden
    raw = bytearray(text.encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    for damaged in (bytes(raw), bytes(raw[: data.draw(st.integers(0, len(raw)))])):
        decoded = decode(damaged, direction)
        if isinstance(decoded, Malformed):
            assert len(decoded.reason.encode()) <= MAX_REASON_BYTES
        if isinstance(decoded, Hello):
            assert not isinstance(decode_claims(bytes(decoded.body)), Exception)


def test_time_zero_is_not_sent() -> None:
    assert encode(Heartbeat(1)) == b'{"kind":"heartbeat","sequence":1}'
