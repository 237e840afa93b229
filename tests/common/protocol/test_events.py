import json
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.protocol.events import (
    MAX_EVENT_BYTES,
    RAW,
    UNREADABLE,
    CertificateLoaded,
    CertificateProved,
    CertificateRejected,
    ConnectionFailed,
    ConnectionLost,
    Event,
    Known,
    Started,
    Stopped,
    details,
    encode_event,
    read_event,
    report,
)
from tests.common.protocol.helpers import TIME

PRINT = "ab" * 32
UNIX_EPOCH = datetime.fromtimestamp(0, UTC)

# The stored form: a line changes only with a new field, at its end.
GOLDEN: list[tuple[Known, str, str]] = [
    (Started("0.1.0"), "started", '{"version":"0.1.0"}'),
    (Stopped("SIGTERM"), "stopped", '{"reason":"SIGTERM"}'),
    (
        CertificateLoaded("defender-client", "custom", PRINT, TIME),
        "certificateLoaded",
        '{"channel":"defender-client","source":"custom","fingerprint":"' + PRINT + '",'
        '"notAfter":"2026-11-21T20:00:00Z"}',
    ),
    (
        CertificateRejected("defender-client", "custom", ("key.pem: of another",)),
        "certificateRejected",
        '{"channel":"defender-client","source":"custom","faults":["key.pem: of another"]}',
    ),
    (
        CertificateProved("defender-client", "generated", PRINT, TIME),
        "certificateProved",
        '{"channel":"defender-client","source":"generated","fingerprint":"' + PRINT + '",'
        '"notAfter":"2026-11-21T20:00:00Z"}',
    ),
    (ConnectionLost("reset by peer", 1006), "connectionLost", '{"reason":"reset by peer","code":1006}'),
    (
        ConnectionFailed("EXPIRED", "the Console's certificate", 3),
        "connectionFailed",
        '{"reason":"EXPIRED","detail":"the Console\'s certificate","attempts":3}',
    ),
]


@pytest.mark.parametrize(("known", "kind", "fields"), GOLDEN)
def test_the_stored_form(known: Known, kind: str, fields: str) -> None:
    event = report(known, TIME)
    text = '{"time":"2026-11-21T20:00:00Z","type":"' + kind + '","fields":' + fields + "}"
    assert encode_event(event).decode() == text
    assert read_event(text.encode()) == event
    assert details(event) == known


def test_every_type_is_in_the_golden_list() -> None:
    assert {type(known) for known, _, _ in GOLDEN} == set(Known.__args__)


def test_an_event_is_told_in_utc() -> None:
    berlin = datetime(2026, 11, 21, 21, 0, tzinfo=timezone(timedelta(hours=1)))
    assert report(Started("1"), berlin).time == TIME
    assert report(Started("1"), berlin).time.utcoffset() == timedelta(0)
    with pytest.raises(ValueError, match="UTC"):
        Event(berlin, "started")


def test_a_type_that_only_a_newer_defender_knows_is_kept_as_it_is() -> None:
    event = read_event(b'{"time":"2026-11-21T20:00:00Z","type":"diskFull","fields":{"path":"/","free":0}}')
    assert event == Event(TIME, "diskFull", {"path": "/", "free": 0})
    assert details(event) is None
    assert read_event(encode_event(event)) == event


def test_fields_of_another_shape_are_kept_as_text() -> None:
    event = read_event(b'{"time":"2026-11-21T20:00:00Z","type":"tree","fields":{"a":{"b":{"c":1}}}}')
    assert event == Event(TIME, "tree", {RAW: '{"a":{"b":{"c":1}}}'})


def test_known_types_with_other_fields_are_no_details() -> None:
    assert details(Event(TIME, "started", {})) is None
    assert details(Event(TIME, "started", {"version": 7})) is None
    assert details(Event(TIME, "started", {"version": "1", "added": "later"})) == Started("1")
    assert details(Event(TIME, "started", {"version": "1", "type": "stopped"})) == Started("1")


@pytest.mark.parametrize(
    "item",
    [
        b"7",
        b"[]",
        b"null",
        b"{}",
        b'{"time":"yesterday","type":"x"}',
        b'{"time":"2026-11-21T20:00:00","type":"x"}',
        b'{"time":"0001-01-01T00:00:00+10:00","type":"x"}',
        b'{"time":"2026-11-21T20:00:00Z","type":"two words"}',
        b'{"time":"2026-11-21T20:00:00Z","type":"\xff"}',
        b'{"time":"2026-11-21T20:00:00Z","type":"x","fields":' + b"[" * 90_000 + b"]" * 90_000 + b"}",
        b"{",
        b"",
    ],
)
def test_what_is_no_event_becomes_one_that_says_so(item: bytes) -> None:
    event = read_event(item)
    assert (event.time, event.type) == (UNIX_EPOCH, UNREADABLE)
    assert str(event.fields[RAW]).startswith(item[:20].decode(errors="replace"))
    assert read_event(encode_event(event)) == event


def test_text_is_cut_and_cleaned() -> None:
    event = report(CertificateRejected("c", "custom", ("x" * 5000, "nul \0", "\udcff.pem")), TIME)
    faults = event.fields["faults"]
    assert faults == ["x" * 1024, "nul �", "?.pem"]
    many = report(CertificateRejected("c", "custom", ("x",) * 100), TIME)
    assert many.fields["faults"] == ["x"] * 32


def test_an_event_that_is_too_long_keeps_its_place() -> None:
    event = Event(TIME, "huge", {f"k{number}": "x" * 4096 for number in range(10)})
    data = encode_event(event)
    assert len(data) <= MAX_EVENT_BYTES
    assert read_event(data) == Event(TIME, "huge", {"omittedBytes": len(msgspec.json.encode(event))})


def test_an_event_that_breaks_its_bounds_keeps_its_place() -> None:
    event = Event(TIME, "odd", {"k": "x" * 4097})
    assert read_event(encode_event(event)).fields == {"omittedBytes": len(msgspec.json.encode(event))}
    assert read_event(encode_event(Event(TIME, "odd", {"k": "\ud800"}))) == Event(
        TIME, "odd", {"omittedBytes": 0}
    )


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=50)
)
_KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
_FLAT = st.dictionaries(_KEYS, _SCALARS, max_size=5)
_FIELDS = st.dictionaries(_KEYS, _SCALARS | _FLAT | st.lists(_SCALARS | _FLAT, max_size=5), max_size=5)


@settings(deadline=None, max_examples=100)
@given(
    st.datetimes(timezones=st.just(UTC)), st.from_regex(r"[a-z][A-Za-z0-9]{0,63}", fullmatch=True), _FIELDS
)
def test_whatever_an_event_says_comes_back(time: datetime, kind: str, fields: dict[str, object]) -> None:
    event = Event(time, kind, fields)  # type: ignore[arg-type]
    assert read_event(encode_event(event)) == event


@settings(deadline=None, max_examples=100)
@given(
    st.text(st.characters(), max_size=3000), st.lists(st.text(st.characters(), max_size=3000), max_size=60)
)
def test_whatever_is_reported_fits(reason: str, faults: list[str]) -> None:
    for known in (ConnectionFailed(reason, reason), CertificateRejected(reason, reason, tuple(faults))):
        event = report(known, TIME)
        assert "omittedBytes" not in read_event(encode_event(event)).fields or len(faults) > 3
        assert read_event(encode_event(event)).type == event.type


@settings(deadline=None, max_examples=100)
@given(
    st.binary(max_size=200)
    | st.recursive(st.text(), st.lists, max_leaves=5).map(lambda x: json.dumps(x).encode())
)
def test_whatever_arrives_becomes_an_event_that_can_be_sent_on(item: bytes) -> None:
    event = read_event(item)
    assert read_event(encode_event(event)) == event
