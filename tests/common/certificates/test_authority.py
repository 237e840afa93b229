"""The CAs and leaves that the Console makes for itself."""

from datetime import UTC, datetime, timedelta, timezone
from typing import TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from common.certificates import (
    BACKDATED,
    LIFETIME,
    Authority,
    KeyAlgorithm,
    Role,
    generate_key,
    names_for,
    parse_san,
)
from common.certificates.authority import MAX_COMMON_NAME, short_common_name
from common.certificates.parsing import parse_certificate, signed_by

NOW = datetime(2026, 11, 21, 20, 0, 0, 123456, tzinfo=UTC)
WHOLE = NOW.replace(microsecond=0)
NAMES = parse_san("DNS:console.test IP:192.0.2.1")
CA = Authority.create("Test CA", now=NOW)
Extension = TypeVar("Extension", bound=x509.ExtensionType)


def raw(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def value(certificate: x509.Certificate, kind: type[Extension], *, critical: bool) -> Extension:
    extension = certificate.extensions.get_extension_for_class(kind)
    assert extension.critical is critical
    return extension.value


def test_the_ca_is_one_and_no_more() -> None:
    certificate = raw(CA.certificate_pem)
    basic = value(certificate, x509.BasicConstraints, critical=True)
    assert (basic.ca, basic.path_length) == (True, 0)
    usage = value(certificate, x509.KeyUsage, critical=True)
    assert usage.key_cert_sign
    assert usage.crl_sign
    assert not usage.digital_signature
    ski = value(certificate, x509.SubjectKeyIdentifier, critical=False).digest
    assert value(certificate, x509.AuthorityKeyIdentifier, critical=False).key_identifier == ski
    assert CA.certificate.self_signed
    assert CA.certificate.algorithm == "RSA 3072"


@pytest.mark.parametrize(
    ("role", "purpose"),
    [
        (Role.HTTPS_SERVER, ExtendedKeyUsageOID.SERVER_AUTH),
        (Role.DEFENDER_SERVER, ExtendedKeyUsageOID.SERVER_AUTH),
        (Role.ADMISSION_SERVER, ExtendedKeyUsageOID.SERVER_AUTH),
        (Role.DEFENDER_CLIENT, ExtendedKeyUsageOID.CLIENT_AUTH),
    ],
)
def test_a_leaf_is_for_one_purpose(role: Role, purpose: x509.ObjectIdentifier) -> None:
    issued = CA.issue(role, common_name="leaf", names=NAMES, now=NOW)
    certificate = raw(issued.chain)
    assert list(value(certificate, x509.ExtendedKeyUsage, critical=False)) == [purpose]
    assert not value(certificate, x509.BasicConstraints, critical=True).ca
    usage = value(certificate, x509.KeyUsage, critical=True)
    assert usage.digital_signature
    assert [usage.key_cert_sign, usage.key_encipherment, usage.key_agreement] == [False] * 3
    assert issued.certificate.aki == CA.certificate.ski
    assert issued.certificate.ski != CA.certificate.ski
    assert issued.certificate.names == NAMES
    assert issued.certificate.algorithm == "ECDSA P-256"
    assert signed_by(certificate, CA.key.public_key())


def test_validity() -> None:
    for certificate in (CA.certificate, CA.issue(Role.DEFENDER_CLIENT, common_name="x", now=NOW).certificate):
        assert certificate.not_before == WHOLE - BACKDATED
        assert certificate.not_after == WHOLE + LIFETIME
    assert timedelta(days=1095) == LIFETIME


def test_now_in_any_zone_is_the_same_moment() -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=9)))
    assert Authority.create("x", now=elsewhere).certificate.not_after == WHOLE + LIFETIME


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2000), st.integers(1, 3000), st.integers(1, 3000))
def test_a_leaf_never_outlives_its_ca(after: int, ca_days: int, leaf_days: int) -> None:
    ca = Authority.create("x", now=NOW, lifetime=timedelta(days=ca_days), algorithm=KeyAlgorithm.P256)
    later = NOW + timedelta(days=min(after, ca_days - 1))
    leaf = ca.issue(
        Role.DEFENDER_CLIENT, common_name="x", now=later, lifetime=timedelta(days=leaf_days)
    ).certificate
    assert ca.certificate.not_before <= leaf.not_before < leaf.not_after <= ca.certificate.not_after


def test_every_ca_differs_in_name_key_and_identifiers() -> None:
    cas = [
        Authority.create("Test CA", now=NOW, generation=generation, algorithm=KeyAlgorithm.P256)
        for generation in (1, 2, 2, 3)
    ]
    for what in ("subject", "ski", "aki", "serial", "key_fingerprint"):
        assert len({getattr(ca.certificate, what) for ca in cas}) == len(cas)
    assert "Test CA 3 " in cas[3].certificate.subject


def test_serials_are_long_positive_and_random() -> None:
    serials = [CA.issue(Role.DEFENDER_CLIENT, common_name="x", now=NOW).certificate.serial for _ in range(20)]
    assert len(set(serials)) == 20
    assert all(0 < serial < 1 << 159 for serial in serials)  # at most 20 octets, RFC 5280 §4.1.2.2
    assert max(serials).bit_length() > 150


@pytest.mark.parametrize("algorithm", KeyAlgorithm)
def test_each_algorithm_for_ca_and_leaf(algorithm: KeyAlgorithm) -> None:
    ca = Authority.create("x", now=NOW, algorithm=algorithm)
    leaf = ca.issue(Role.DEFENDER_CLIENT, common_name="x", now=NOW, algorithm=algorithm)
    shown = leaf.certificate.algorithm.replace("ECDSA P-", "ecdsa-p").replace("RSA ", "rsa-").lower()
    assert shown == algorithm.value
    assert signed_by(raw(leaf.chain), ca.key.public_key())


def test_a_server_needs_names_and_a_client_has_none() -> None:
    with pytest.raises(ValueError, match="needs names"):
        CA.issue(Role.DEFENDER_SERVER, common_name="x", now=NOW)
    assert not CA.issue(Role.DEFENDER_CLIENT, common_name="x", now=NOW).certificate.names


def test_an_address_as_common_name_is_an_address_among_the_names() -> None:
    issued = CA.issue(Role.HTTPS_SERVER, common_name="192.0.2.9", names=names_for("192.0.2.9"), now=NOW)
    assert "IP:192.0.2.9" in list(issued.certificate.names)
    assert "DNS:192.0.2.9" not in list(issued.certificate.names)


def test_a_long_name_is_whole_among_the_names() -> None:
    name = ".".join(["a" * 60, "b" * 60, "example.com"])
    issued = CA.issue(Role.HTTPS_SERVER, common_name=name, names=names_for(name), now=NOW)
    assert raw(issued.chain).subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "a" * 60
    assert issued.certificate.names.dns[0] == name


@given(st.text(min_size=1, max_size=300))
def test_a_common_name_always_fits(name: str) -> None:
    short = short_common_name(name)
    assert 0 < len(short) <= MAX_COMMON_NAME
    assert name.startswith(short)


def test_restore_brings_it_back() -> None:
    again = Authority.restore(CA.certificate_pem, CA.key_pem)
    assert again == CA
    leaf = again.issue(Role.DEFENDER_CLIENT, common_name="x", now=NOW)
    assert signed_by(raw(leaf.chain), CA.key.public_key())


def test_restore_refuses_another_key() -> None:
    other = Authority.create("x", now=NOW)
    with pytest.raises(ValueError, match="not the certificate's"):
        Authority.restore(CA.certificate_pem, other.key_pem)
    with pytest.raises(ValueError, match=r"."):
        Authority.restore(b"rubbish", CA.key_pem)


def test_certify_signs_a_key_that_stays_where_it_is() -> None:
    key = generate_key(KeyAlgorithm.P256)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    chain = CA.certify(Role.DEFENDER_CLIENT, key.public_key(), common_name="d-1", now=NOW)
    parsed = parse_certificate(raw(chain).public_bytes(Encoding.DER))
    assert parsed is not None
    assert parsed.key == key.public_key()
    assert parsed.certificate.subject == "CN=d-1,O=Garrison"


def test_keys_do_not_show() -> None:
    issued = CA.issue(Role.DEFENDER_CLIENT, common_name="x", now=NOW)
    for text in (repr(CA), str(CA), repr(issued), str(issued)):
        assert "PRIVATE KEY" not in text
        assert CA.key_pem.splitlines()[1].decode() not in text
