"""The values: names of files, fingerprints, what shows and what doesn't."""

from dataclasses import FrozenInstanceError, replace
from datetime import timedelta

import pytest

from common.certificates import (
    FILES,
    CertificateSet,
    Fault,
    FaultKind,
    Judgement,
    PrivateKey,
    Role,
    Severity,
    Source,
)
from tests.common.certificates.pki import DAY, NOW, judged, make_ca, make_client, make_server

CA, OTHER = make_ca("ca"), make_ca("other")


def a_set(role: Role = Role.DEFENDER_SERVER) -> CertificateSet:
    leaf = make_server(CA) if role.is_server else make_client(CA)
    found = judged(role, leaf, [CA, OTHER]).set
    assert found is not None
    return found


ONE = a_set()


def test_the_files_are_the_product_s() -> None:
    assert {role: files.all for role, files in FILES.items()} == {
        Role.HTTPS_SERVER: ("console-cert.pem", "console-key.pem"),
        Role.DEFENDER_SERVER: ("defender-ca.pem", "defender-server-cert.pem", "defender-server-key.pem"),
        Role.DEFENDER_CLIENT: ("defender-ca.pem", "defender-client-cert.pem", "defender-client-key.pem"),
        Role.ADMISSION_SERVER: ("defender-ca.pem", "admission-cert.pem", "admission-key.pem"),
    }


def test_roles_know_their_purpose() -> None:
    assert {role for role in Role if role.is_server} == set(Role) - {Role.DEFENDER_CLIENT}
    assert Role.DEFENDER_CLIENT.purpose == "1.3.6.1.5.5.7.3.2"
    assert {role.purpose for role in Role if role.is_server} == {"1.3.6.1.5.5.7.3.1"}


def test_the_fingerprint_covers_all_parts_but_not_order_or_source() -> None:
    assert replace(ONE, source=Source.GENERATED).fingerprint == ONE.fingerprint
    assert replace(ONE, anchors=ONE.anchors[::-1]).fingerprint == ONE.fingerprint
    different = [
        replace(ONE, role=Role.ADMISSION_SERVER),
        replace(ONE, anchors=ONE.anchors[:1]),
        replace(ONE, chain=(*ONE.chain, ONE.anchors[0])),
        a_set(),
        a_set(Role.DEFENDER_CLIENT),
    ]
    assert len({one.fingerprint for one in (ONE, *different)}) == len(different) + 1


def test_an_anchor_cannot_stand_in_for_a_link() -> None:
    """The parts are kept apart: moving a certificate from one to another changes the fingerprint."""
    moved = replace(ONE, chain=(*ONE.chain, ONE.anchors[0]), anchors=ONE.anchors[1:])
    assert moved.fingerprint != ONE.fingerprint


def test_validity_is_that_of_the_path() -> None:
    leaf, ca = ONE.path
    path = (
        replace(leaf, not_after=NOW + 5 * DAY),
        replace(ca, not_before=NOW - DAY / 2, not_after=NOW + 4 * DAY),
    )
    short = replace(ONE, path=path)
    assert (short.not_before, short.not_after) == (NOW - DAY / 2, NOW + 4 * DAY)
    assert short.names == ONE.leaf.names


def test_valid_at() -> None:
    leaf = ONE.leaf
    assert leaf.valid_at(leaf.not_before)
    assert not leaf.valid_at(leaf.not_before - timedelta(microseconds=1))
    assert not leaf.valid_at(leaf.not_after)


def test_values_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        ONE.source = Source.UPLOADED  # type: ignore[misc]
    with pytest.raises(TypeError):
        FILES[Role.HTTPS_SERVER] = FILES[Role.DEFENDER_SERVER]  # type: ignore[index]


def test_a_private_key_masks_itself() -> None:
    key = PrivateKey(b"-----BEGIN PRIVATE KEY-----secret", "RSA 3072", "ab12")
    assert "secret" not in repr(key) + str(key) + f"{key!r}"
    assert "RSA 3072" in repr(key)


def test_a_fault_is_a_sentence() -> None:
    fault = Fault("console-key.pem", FaultKind.ENCRYPTED_KEY, "is encrypted", "decrypt it")
    assert str(fault) == "console-key.pem: is encrypted; decrypt it"


def test_a_judgement_sorts_its_faults() -> None:
    error = Fault("a", FaultKind.EMPTY, "is empty", "copy it")
    warning = Fault("b", FaultKind.EXPOSED_KEY, "is open", "close it", Severity.WARNING)
    judgement = Judgement(None, (warning, error))
    assert judgement.errors == (error,)
    assert judgement.warnings == (warning,)
