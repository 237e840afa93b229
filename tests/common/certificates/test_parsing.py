"""From DER to values: every field, and bytes that become none."""

import warnings

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from common.certificates import FaultKind
from common.certificates.parsing import (
    KeyRefusal,
    key_fits,
    name_key,
    parse_certificate,
    parse_key,
    signed_by,
    spki_fingerprint,
    to_private_key,
)
from tests.common.certificates.pki import (
    CLIENT,
    DAY,
    NOW,
    SERVER,
    issue,
    key,
    key_pem,
    make_ca,
    make_server,
    name,
    usage,
    with_old_hash,
)

CA = make_ca("ca", path_length=3)
LEAF = make_server(CA, names=["Console.test", "127.0.0.1", "::1", "console.test"], purposes=[SERVER, CLIENT])


def test_every_field() -> None:
    certificate = LEAF.parsed.certificate
    assert certificate.der == LEAF.der
    assert (certificate.subject, certificate.issuer) == ("CN=server", "CN=ca")
    assert certificate.serial == LEAF.x509.serial_number
    assert str(certificate.names) == "DNS:console.test, IP:127.0.0.1, IP:::1"
    assert (certificate.not_before, certificate.not_after) == (NOW - DAY, NOW + 30 * DAY)
    assert certificate.fingerprint == LEAF.x509.fingerprint(hashes.SHA256()).hex()
    assert certificate.algorithm == "ECDSA P-256"
    assert not certificate.is_ca
    assert certificate.path_length is None
    assert certificate.key_usage == frozenset({"digital_signature"})
    assert certificate.purposes == frozenset({SERVER.dotted_string, CLIENT.dotted_string})
    assert not certificate.self_signed
    assert certificate.aki == CA.parsed.certificate.ski is not None
    ca = CA.parsed.certificate
    assert (ca.is_ca, ca.path_length, ca.self_signed) == (True, 3, True)


def test_what_is_not_there_is_none() -> None:
    bare = issue("bare", ca=None, identifiers=False).parsed
    certificate = bare.certificate
    assert (certificate.ski, certificate.aki, certificate.key_usage, certificate.purposes) == (None,) * 4
    assert not certificate.names
    assert bare.constraints is None
    assert bare.netscape_type is None
    assert bare.unknown_critical == ()


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("p256", "ECDSA P-256"),
        ("p384", "ECDSA P-384"),
        ("p521", "ECDSA P-521"),
        ("secp256k1", "ECDSA secp256k1"),
        ("rsa2048", "RSA 2048"),
        ("ed25519", "Ed25519"),
        ("ed448", "1.3.101.113"),
    ],
)
def test_algorithms(kind: str, text: str) -> None:
    assert issue("x", CA, key_=key(kind)).parsed.certificate.algorithm == text


def test_a_key_for_pss_only_is_of_another_kind() -> None:
    """OpenSSL takes it for RSA-PSS; the library, for RSA. The identifiers differ in one byte."""
    leaf = make_server(CA, key_=key("rsa2048"))
    rsa, pss = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01", b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a"
    parsed = parse_certificate(leaf.der.replace(rsa, pss))
    assert parsed is None or (parsed.key is None and parsed.certificate.algorithm == "RSA-PSS")


def test_a_serial_number_that_is_not_positive() -> None:
    der = LEAF.der
    serial = LEAF.x509.serial_number.to_bytes(20, "big")
    at = der.index(serial.lstrip(b"\0"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parse_certificate(der[:at] + b"\xff" + der[at + 1 :]) is None


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_damage_is_none_or_a_certificate(data: st.DataObject) -> None:
    der = bytearray(LEAF.der)
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    parsed = parse_certificate(bytes(der))
    assert parsed is None or parsed.certificate.der == bytes(der)


@settings(deadline=None, max_examples=100)
@given(st.binary())
def test_any_bytes_are_no_key(data: bytes) -> None:
    assert isinstance(parse_key(data), KeyRefusal)


def test_names_compare_as_openssl_compares_them() -> None:
    assert name_key(name("A  b ")) == name_key(name("a B"))
    assert name_key(name("a")) != name_key(name("b"))
    printable = x509.Name(
        [x509.NameAttribute(x509.NameOID.COMMON_NAME, "a", x509.name._ASN1Type.PrintableString)]
    )
    assert name_key(printable) == name_key(name("a"))


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048", "ed25519"])
def test_signatures(kind: str) -> None:
    ca = make_ca("signer", key_=key(kind, 40))
    leaf = make_server(ca)
    assert ca.parsed.key is not None
    assert signed_by(leaf.x509, ca.parsed.key)
    for other in ("p256", "p384", "rsa2048", "ed25519"):
        wrong = make_ca("signer", key_=key(other, 41)).parsed.key
        assert wrong is not None
        assert not signed_by(leaf.x509, wrong)


@pytest.mark.parametrize("hash_", [hashes.SHA1(), hashes.MD5()])
def test_old_signatures_still_verify(hash_: hashes.HashAlgorithm) -> None:
    ca = make_ca("old", key_=key("rsa2048", 42))
    leaf = with_old_hash(make_server(ca), ca, hash_)
    assert ca.parsed.key is not None
    assert signed_by(leaf.x509, ca.parsed.key)
    assert with_old_hash(ca, ca, hash_).parsed.certificate.self_signed
    assert leaf.parsed.signature_hash == hash_.name


@pytest.mark.parametrize("kind", ["p256", "rsa2048", "ed25519"])
def test_keys_and_their_values(kind: str) -> None:
    private = parse_key(key_pem(key(kind), encoding=serialization.Encoding.DER))
    assert not isinstance(private, KeyRefusal)
    value = to_private_key(private)
    assert value.fingerprint == spki_fingerprint(private.public_key())
    assert value.pem.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert key_fits(private, private.public_key())
    other = key(kind, 50).public_key()
    assert not key_fits(private, other)  # type: ignore[arg-type]


def test_a_key_fits_no_key_of_another_kind() -> None:
    private = key("p256")
    assert not key_fits(private, key("rsa2048").public_key())  # type: ignore[arg-type]


def test_refusals_of_keys() -> None:
    der = serialization.Encoding.DER
    assert parse_key(key_pem(key(), password=b"x", encoding=der)) == KeyRefusal(FaultKind.ENCRYPTED_KEY)
    dsa = parse_key(key_pem(key("dsa"), encoding=der))
    assert isinstance(dsa, KeyRefusal)
    assert dsa.kind is FaultKind.UNSUPPORTED_KEY
    assert parse_key(b"") == KeyRefusal(FaultKind.MALFORMED)


def test_critical_extensions_that_are_known() -> None:
    known = issue("x", CA, key_usage=usage("digital_signature"), extra=[(x509.OCSPNoCheck(), True)]).parsed
    assert known.unknown_critical == ()
    critical_ski = x509.SubjectKeyIdentifier(b"x" * 20)
    odd = issue("x", CA, identifiers=False, extra=[(critical_ski, True)]).parsed
    assert odd.unknown_critical == ("2.5.29.14",)
