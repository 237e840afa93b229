import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from common.certificates import (
    CertificateSet,
    ChannelStatus,
    DirectoryState,
    Fault,
    FaultKind,
    Role,
)
from common.certificates.report import remaining
from console.fleet.drain import DrainState, RemovedTrust, Replaced
from console.fleet.draining import Tally
from console.fleet.lines import channel_lines
from console.fleet.report import certificates_report
from tests.console.fleet.moving import mixed
from tests.pki import PKI

START = datetime(2026, 11, 21, 20, 0, tzinfo=UTC)
NOW = datetime.now(UTC)
PKI_ = PKI()
SERVER = mixed(Role.DEFENDER_SERVER, PKI_)
HTTPS = PKI_.set(Role.HTTPS_SERVER)


@dataclass
class Fleet:
    certificates: CertificateSet | None = SERVER
    drain: DrainState | None = None
    removed_trust: RemovedTrust | None = None


@dataclass
class Web:
    certificates: CertificateSet | None = HTTPS
    draining: int = 0


def drain() -> DrainState:
    tally: Tally[str] = Tally(0.0)
    for key in "abc":
        tally.join(key, welcomed=True)
    tally.asked("a")
    tally.failed("a", "web-a", "unknownCa")
    replaced = (Replaced("ab" * 32, "custom", 3),)
    return DrainState(START, False, tally.counts, tally.failures, replaced, 451.26)


def test_two_channels_without_news() -> None:
    found = certificates_report(Fleet(), Web(), {})
    assert json.loads(json.dumps(found)) == found
    https, defender = found["channels"]
    assert https == {
        "channel": "https",
        "source": "generated",
        "fingerprint": HTTPS.fingerprint,
        "notAfter": HTTPS.not_after.isoformat(),
        "names": ["DNS:localhost", "IP:127.0.0.1"],
        "watcher": None,
        "drains": [],
    }
    assert (defender["channel"], defender["source"]) == ("defender", "custom")
    assert list(channel_lines(defender, now=NOW)) == [
        "defender:",
        f"  certificates  custom, set {SERVER.fingerprint[:16]}",
        f"  valid until   {SERVER.not_after:%Y-%m-%d %H:%M:%S} UTC ({remaining(SERVER.not_after, NOW)})",
        "  names         DNS:localhost, IP:127.0.0.1",
        "  directory     is not watched",
    ]


def test_a_move_is_told_with_its_failures_and_removed_trust() -> None:
    ends = datetime(2026, 11, 21, 20, 5, tzinfo=UTC)
    found = certificates_report(Fleet(drain=drain(), removed_trust=RemovedTrust(2, ends)), Web(), {})
    (told,) = found["channels"][1]["drains"]
    assert json.loads(json.dumps(told)) == told
    assert told == {
        "begun": START.isoformat(),
        "over": False,
        "total": 3,
        "waiting": 2,
        "pending": 0,
        "asked": 1,
        "moved": 0,
        "failed": 1,
        "closed": 0,
        "trustEnded": 0,
        "gone": 0,
        "left": 3,
        "failures": ["web-a: unknownCa"],
        "replaced": [{"fingerprint": "ab" * 32, "source": "custom", "connections": 3}],
        "handshakesPerSecond": 451.3,
        "trustRemoved": 2,
        "trustEnds": ends.isoformat(),
    }
    assert list(channel_lines(found["channels"][1], now=NOW))[5:] == [
        (
            "  move          under way, begun 2026-11-21 20:00:00 UTC: 3 to move, 1 asked, 0 moved, "
            "1 failed, 0 closed without an attempt, 0 gone, 3 left"
        ),
        "  replaced      3 connections left on custom, set abababababababab",
        "  failed        web-a: unknownCa",
        (
            "  trust         2 connections of a removed CA, until 2026-11-21 20:05:00 UTC; "
            "end them now: garrison console end-removed-trust"
        ),
    ]


def test_trust_that_has_ended() -> None:
    state = drain()
    state = replace(state, over=True, counts=replace(state.counts, cut=1))
    (_, defender) = certificates_report(Fleet(drain=state), Web(), {})["channels"]
    lines = list(channel_lines(defender, now=NOW))
    assert "  move          over, begun" in lines[5]
    assert lines[-1] == "  trust         1 connection ended, because the CA was removed"


def directory(status: ChannelStatus, **fleet: CertificateSet | None) -> list[str]:
    found = certificates_report(Fleet(**fleet), Web(), {Role.DEFENDER_SERVER: status})  # type: ignore[arg-type]
    assert found["channels"][0]["watcher"] is None
    return [line[16:] for line in channel_lines(found["channels"][1], now=NOW)][4:]


def test_what_the_directory_holds() -> None:
    generated = PKI_.set(Role.DEFENDER_SERVER)
    missing = ("defender-ca.pem", "defender-server-key.pem")
    assert directory(ChannelStatus(DirectoryState.ABSENT)) == ["holds nothing for this channel"]
    assert directory(ChannelStatus(DirectoryState.GOOD, "ab" * 32)) == ["holds the set in use"]
    assert directory(ChannelStatus(DirectoryState.SETTLING)) == ["is looked at, since it has just changed"]
    incomplete = ChannelStatus(DirectoryState.INCOMPLETE, missing=missing)
    assert directory(incomplete, certificates=generated) == [
        "waits for defender-ca.pem, defender-server-key.pem"
    ]
    assert directory(incomplete) == [
        "lacks defender-ca.pem, defender-server-key.pem now; what was loaded stays in use, until a restart"
    ]
    fault = Fault("defender-ca.pem", FaultKind.EMPTY, "is empty", "copy it again")
    assert directory(ChannelStatus(DirectoryState.BAD, faults=(fault,))) == [
        "holds what cannot be used; the set above is kept",
        "defender-ca.pem: is empty; copy it again",
    ]


def test_https_tells_who_is_left() -> None:
    (https, _) = certificates_report(Fleet(), Web(draining=1), {})["channels"]
    assert https["drains"] == [{"left": 1}]
    assert (
        list(channel_lines(https, now=NOW))[-1]
        == "  replaced      1 connection left on replaced certificates"
    )


def test_a_port_that_is_off_has_none() -> None:
    (https, _) = certificates_report(Fleet(), Web(None), {})["channels"]
    assert https["fingerprint"] is None
    assert list(channel_lines(https, now=NOW)) == ["https:", "  no certificates"]
