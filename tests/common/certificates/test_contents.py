"""What files hold: certificates, keys, and everything that is there instead of them."""

import subprocess
from pathlib import Path
from shutil import which

import pytest
from cryptography.hazmat.primitives import serialization

from common.certificates import FaultKind, Severity
from common.certificates.contents import MAX_ANCHORS, certificates_of, key_of, printable
from common.certificates.pem import encode_block
from tests.common.certificates.pki import key, key_pem, make_ca, make_server

CA = make_ca("ca")
LEAF = make_server(CA)
TRADITIONAL = serialization.PrivateFormat.TraditionalOpenSSL


def kinds_of_certificates(data: bytes) -> list[FaultKind]:
    return [fault.kind for fault in certificates_of("f.pem", data, MAX_ANCHORS)[1]]


def key_fault(data: bytes) -> tuple[FaultKind, str]:
    found, faults = key_of("k.pem", data)
    assert found is None
    assert len(faults) == 1
    return faults[0].kind, str(faults[0])


# --- certificates


def test_certificates_in_their_order_with_their_places() -> None:
    held, faults = certificates_of("f.pem", LEAF.pem + CA.pem, 5)
    assert faults == ()
    assert [one.place for one in held] == ["certificate 1 (CN=server)", "certificate 2 (CN=ca)"]
    assert certificates_of("f.pem", CA.pem, 5)[0][0].place == "certificate (CN=ca)"


def test_the_old_label_is_taken() -> None:
    held, faults = certificates_of("f.pem", encode_block("X509 CERTIFICATE", CA.der), 5)
    assert (len(held), faults) == (1, ())


def test_one_bad_certificate_among_good_ones() -> None:
    bad = encode_block("CERTIFICATE", CA.der[:-20])
    held, faults = certificates_of("f.pem", CA.pem + bad + LEAF.pem, 5)
    assert len(held) == 2
    assert [fault.kind for fault in faults] == [FaultKind.MALFORMED]
    assert "certificate 2 (line " in str(faults[0])


def test_duplicates() -> None:
    held, faults = certificates_of("f.pem", CA.pem + LEAF.pem + CA.pem, 5)
    assert len(held) == 2
    assert [fault.kind for fault in faults] == [FaultKind.DUPLICATE]
    assert "certificate 3 is the same as certificate 1 (CN=ca)" in str(faults[0])


def test_too_many() -> None:
    assert [fault.kind for fault in certificates_of("f.pem", CA.pem * 3, 2)[1]] == [FaultKind.TOO_MANY]


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("CERTIFICATE REQUEST", "that the CA made from it"),
        ("TRUSTED CERTIFICATE", "openssl x509"),
        ("PKCS7", "openssl pkcs7"),
        ("X509 CRL", "put certificates there"),
        ("PUBLIC KEY", "put certificates there"),
        ("EC PARAMETERS", "holds no certificate"),
    ],
)
def test_blocks_that_are_no_certificates(label: str, words: str) -> None:
    block = encode_block(label, b"whatever")
    held, faults = certificates_of("f.pem", block, 5)
    assert held == ()
    assert [(fault.kind, fault.severity) for fault in faults] == [(FaultKind.WRONG_BLOCK, Severity.ERROR)]
    assert words in str(faults[0])


def test_beside_a_certificate_they_are_a_warning() -> None:
    held, faults = certificates_of("f.pem", CA.pem + encode_block("X509 CRL", b"x"), 5)
    assert len(held) == 1
    assert [(fault.kind, fault.severity) for fault in faults] == [(FaultKind.WRONG_BLOCK, Severity.WARNING)]


def test_a_key_beside_a_certificate_is_a_warning() -> None:
    """As `cat server.crt server.key` makes it for the upload form (product facts §4)."""
    _, faults = certificates_of("f.pem", LEAF.pem + LEAF.key_pem, 5)
    assert [fault.severity for fault in faults] == [Severity.WARNING]
    assert "holds a private key" in str(faults[0])


def test_der() -> None:
    assert kinds_of_certificates(CA.der) == [FaultKind.DER]


# --- keys


@pytest.mark.parametrize("kind", ["rsa2048", "p256", "p384", "p521"])
@pytest.mark.parametrize("form", [serialization.PrivateFormat.PKCS8, TRADITIONAL])
def test_forms_of_keys(kind: str, form: serialization.PrivateFormat) -> None:
    found, faults = key_of("k.pem", key_pem(key(kind), form))
    assert faults == ()
    assert found is not None
    assert found.public_key() == key(kind).public_key()


def test_parameters_before_the_key_are_no_fault() -> None:
    """As `openssl ecparam -genkey` writes them."""
    data = encode_block("EC PARAMETERS", b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07")
    found, faults = key_of("k.pem", data + key_pem(key(), TRADITIONAL))
    assert found is not None
    assert faults == ()


def test_certificates_beside_the_key_are_no_fault() -> None:
    found, faults = key_of("k.pem", LEAF.pem + LEAF.key_pem)
    assert found is not None
    assert faults == ()


def test_encrypted_pkcs8() -> None:
    kind, sentence = key_fault(key_pem(key(), password=b"secret"))
    assert kind is FaultKind.ENCRYPTED_KEY
    assert sentence == "k.pem: is encrypted; decrypt it: openssl pkey -in OLD -out NEW"


def test_encrypted_in_the_old_form() -> None:
    """As the product's server-certs.sh carries it (product facts §1)."""
    data = key_pem(key("rsa2048"), TRADITIONAL, password=b"secret")
    assert b"Proc-Type: 4,ENCRYPTED" in data
    assert key_fault(data)[0] is FaultKind.ENCRYPTED_KEY


def test_encrypted_under_the_wrong_label() -> None:
    data = key_pem(key(), password=b"secret").replace(b"ENCRYPTED PRIVATE KEY", b"PRIVATE KEY")
    assert key_fault(data)[0] is FaultKind.ENCRYPTED_KEY


@pytest.mark.parametrize("kind", ["dsa", "ed448"])
def test_kinds_that_are_not_supported(kind: str) -> None:
    assert key_fault(key_pem(key(kind)))[0] is FaultKind.UNSUPPORTED_KEY


def test_openssh() -> None:
    kind, sentence = key_fault(key_pem(key(), serialization.PrivateFormat.OpenSSH))
    assert kind is FaultKind.UNSUPPORTED_KEY
    assert "OPENSSH PRIVATE KEY" in sentence


def test_several_keys() -> None:
    assert key_fault(key_pem(key()) + key_pem(key("p384")))[0] is FaultKind.SEVERAL_KEYS


@pytest.mark.parametrize("label", ["PUBLIC KEY", "CERTIFICATE", "CERTIFICATE REQUEST"])
def test_no_key_at_all(label: str) -> None:
    kind, sentence = key_fault(encode_block(label, CA.der))
    assert kind is FaultKind.WRONG_BLOCK
    assert f"but a {label} block" in sentence


def test_der_key() -> None:
    data = key_pem(key("rsa2048"), encoding=serialization.Encoding.DER)
    assert key_fault(data)[0] is FaultKind.DER


def test_a_damaged_rsa_key_is_seen() -> None:
    """Its public half is still right: only a check of its numbers, or its use, shows it."""
    good = key_pem(key("rsa2048"), TRADITIONAL, encoding=serialization.Encoding.DER)
    assert key_of("k.pem", encode_block("RSA PRIVATE KEY", good))[0] is not None
    for at in range(-20, -len(good) + 300, -37):  # after the modulus and the public exponent
        damaged = bytearray(good)
        damaged[at] ^= 1
        kind, _ = key_fault(encode_block("RSA PRIVATE KEY", bytes(damaged)))
        assert kind is FaultKind.MALFORMED


def test_a_giant_rsa_key_is_refused_at_once() -> None:
    """Made of numbers that belong together but for their being primes, which would take minutes to find."""
    p, q = (1 << 8191) + 1, (1 << 8190) + 3
    d = pow(65537, -1, (p - 1) * (q - 1))
    numbers = [0, p * q, 65537, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p)]
    body = b"".join(tagged(2, number.to_bytes(number.bit_length() // 8 + 1, "big")) for number in numbers)
    kind, sentence = key_fault(encode_block("RSA PRIVATE KEY", tagged(0x30, body)))
    assert kind is FaultKind.UNSUPPORTED_KEY
    assert "RSA 16382" in sentence


def tagged(tag: int, body: bytes) -> bytes:
    """DER with a length of two bytes."""
    return (
        bytes([tag, 0x82]) + len(body).to_bytes(2, "big") + body
        if len(body) > 255
        else bytes([tag, len(body)] if len(body) < 128 else [tag, 0x81, len(body)]) + body
    )


@pytest.mark.skipif(which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize(
    "command",
    [
        "genrsa -traditional 2048",
        "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048",
        "ecparam -name prime256v1 -genkey",
        "genpkey -algorithm ED25519",
    ],
)
def test_what_openssl_writes(command: str, tmp_path: Path) -> None:
    made = subprocess.run(["openssl", *command.split()], capture_output=True, check=True, timeout=30).stdout
    found, faults = key_of("k.pem", made)
    assert found is not None
    assert faults == ()


def test_a_line_stays_one_and_not_too_long() -> None:
    assert printable("a\nb\x1b[0m") == "a?b?[0m"
    assert len(printable("x" * 5000)) == 200
