"""The rules one by one, at their edges; that they are applied is test_judging's."""

from datetime import datetime, timedelta

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from common.certificates import Fault, FaultKind, Role, Severity
from common.certificates.checks import (
    check_ca,
    check_leaf,
    check_path,
    check_signature,
    check_strength,
    check_time,
    when,
)
from tests.common.certificates.pki import (
    CLIENT,
    DAY,
    NOW,
    SERVER,
    Cert,
    issue,
    key,
    make_ca,
    make_client,
    make_server,
    usage,
)

CA = make_ca("ca")
SECOND = timedelta(seconds=1)


def kinds(faults: object) -> list[FaultKind]:
    found = list(faults)  # type: ignore[call-overload]
    assert all(isinstance(fault, Fault) and fault.file == "file.pem" for fault in found)
    assert all(fault.what.startswith("certificate") and fault.remedy for fault in found)
    return [fault.kind for fault in found]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("rsa1024", [FaultKind.WEAK_KEY]),
        ("rsa2047", [FaultKind.WEAK_KEY]),
        ("rsa2048", []),
        ("p256", []),
        ("p384", []),
        ("p521", []),
        ("ed25519", []),
        ("secp256k1", [FaultKind.WEAK_KEY]),
        ("ed448", [FaultKind.UNSUPPORTED_KEY]),
        ("dsa", [FaultKind.UNSUPPORTED_KEY]),
    ],
)
def test_strength(kind: str, expected: list[FaultKind]) -> None:
    assert kinds(check_strength(issue("x", CA, key_=key(kind)).held)) == expected


def test_strength_names_what_it_found() -> None:
    (fault,) = check_strength(issue("x", CA, key_=key("rsa1024")).held)
    assert str(fault) == (
        "file.pem: certificate has an RSA key of 1024 bits; use at least 2048 bits, or ECDSA P-256"
    )


def test_signature_of_today_is_no_fault() -> None:
    assert kinds(check_signature(issue("x", CA).held)) == []
    assert kinds(check_signature(issue("x", make_ca("ed", key_=key("ed25519"))).held)) == []


@pytest.mark.parametrize(
    ("ca", "key_usage", "expected"),
    [
        (True, usage("key_cert_sign"), []),
        (True, None, []),
        (True, usage("digital_signature"), [FaultKind.CA_CANNOT_SIGN]),
        (False, None, [FaultKind.NOT_A_CA]),
        (None, None, [FaultKind.NOT_A_CA]),
    ],
)
def test_ca(ca: bool | None, key_usage: x509.KeyUsage | None, expected: list[FaultKind]) -> None:
    assert kinds(check_ca(issue("x", ca=ca, key_usage=key_usage).held)) == expected


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (NOW - SECOND, [FaultKind.NOT_YET_VALID]),
        (NOW, []),
        (NOW + DAY - SECOND, []),
        (NOW + DAY, [FaultKind.EXPIRED]),
        (NOW + 1000 * DAY, [FaultKind.EXPIRED]),
    ],
)
def test_time(now: datetime, expected: list[FaultKind]) -> None:
    held = issue("x", begin=NOW, end=NOW + DAY).held
    assert kinds(check_time(held, now)) == expected
    for fault in check_time(held, now, Severity.WARNING):
        assert fault.severity is Severity.WARNING


@settings(deadline=None, max_examples=100)
@given(st.timedeltas(-10 * DAY, 10 * DAY))
def test_time_agrees_with_the_value(offset: timedelta) -> None:
    one = issue("x", begin=NOW - DAY, end=NOW + DAY)
    now = NOW + offset
    assert (not kinds(check_time(one.held, now))) is one.parsed.certificate.valid_at(now)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(
    "purposes", [None, [SERVER], [CLIENT], [SERVER, CLIENT], [x509.ObjectIdentifier("1.2.3")]]
)
def test_purposes(role: Role, purposes: list[x509.ObjectIdentifier] | None) -> None:
    leaf = issue("x", CA, purposes=purposes, names=["console.test"])
    due = SERVER if role.is_server else CLIENT
    errors = [fault.kind for fault in check_leaf(leaf.held, role) if fault.severity is Severity.ERROR]
    assert errors == ([] if purposes is None or due in purposes else [FaultKind.WRONG_PURPOSE])


@pytest.mark.parametrize(
    ("key_usage", "fine"),
    [
        (None, True),
        (usage("digital_signature"), True),
        (usage("digital_signature", "key_encipherment"), True),
        (usage("key_encipherment"), False),
        (usage("key_agreement"), False),
    ],
)
def test_a_leaf_makes_signatures(key_usage: x509.KeyUsage | None, fine: bool) -> None:
    leaf = make_server(CA, key_usage=key_usage)
    assert (kinds(check_leaf(leaf.held, Role.DEFENDER_SERVER)) == []) is fine


def test_only_servers_need_names() -> None:
    assert kinds(check_leaf(make_client(CA).held, Role.DEFENDER_CLIENT)) == []
    nameless = make_server(CA, names=())
    for role in (Role.HTTPS_SERVER, Role.DEFENDER_SERVER, Role.ADMISSION_SERVER):
        assert kinds(check_leaf(nameless.held, role)) == [FaultKind.NO_NAME]


def test_a_client_that_can_serve_is_told_of_as_a_warning() -> None:
    for purposes, expected in ((None, 1), ([CLIENT], 0), ([CLIENT, SERVER], 1)):
        leaf = make_client(CA, purposes=purposes, names=["console.test"])
        found = list(check_leaf(leaf.held, Role.DEFENDER_CLIENT))
        assert [fault.kind for fault in found] == [FaultKind.TWO_FACED] * expected
        assert all(fault.severity is Severity.WARNING and "console.test" in fault.what for fault in found)


def path_kinds(*steps: Cert, role: Role = Role.DEFENDER_SERVER, now: datetime = NOW) -> list[FaultKind]:
    return kinds(check_path([step.held for step in steps], role, now))


@pytest.mark.parametrize("limit", [0, 1, 2, None])
@pytest.mark.parametrize("between", [0, 1, 2, 3])
def test_path_length(limit: int | None, between: int) -> None:
    root = make_ca("root", path_length=limit)
    way = [root]
    for number in range(between):
        way.insert(0, make_ca(f"i{number}", way[0]))
    leaf = make_server(way[0])
    allowed = limit is None or between <= limit
    assert path_kinds(leaf, *way) == ([] if allowed else [FaultKind.PATH_TOO_LONG])


def test_the_leaf_s_own_time_is_not_the_path_s() -> None:
    leaf = make_server(CA, end=NOW - SECOND)
    assert path_kinds(leaf, CA) == []
    assert path_kinds(leaf, CA, now=NOW + 60 * DAY) == [FaultKind.EXPIRED]


def test_the_purpose_of_each_ca_counts() -> None:
    narrow = make_ca("narrow", CA, purposes=[CLIENT])
    assert path_kinds(make_server(narrow), narrow, CA) == [FaultKind.WRONG_PURPOSE]
    assert path_kinds(make_client(narrow), narrow, CA, role=Role.DEFENDER_CLIENT) == []


def test_constraints_bind_all_below_but_not_self_issued_cas() -> None:
    only = x509.NameConstraints([x509.DirectoryName(x509.Name([]))], [x509.DNSName("bad.test")])
    ca = make_ca("ca", extra=[(only, True)])
    rollover = make_ca("ca", ca, key_=key("p256", 900))
    assert path_kinds(make_server(rollover, names=["good.test"]), rollover, ca) == []
    assert path_kinds(make_server(rollover, names=["x.bad.test"]), rollover, ca) == [
        FaultKind.NAME_CONSTRAINT
    ]


def test_instants_are_utc_to_the_second() -> None:
    assert when(datetime.fromisoformat("2026-11-21T20:00:00.9+00:00")) == "2026-11-21T20:00:00Z"
