import hashlib

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from hypothesis import given, settings
from hypothesis import strategies as st

from common.protocol.identity import (
    CONTEXT,
    ProofFault,
    instance_key_der,
    leaf_digest,
    sign_hello,
    transcript,
    verify_hello,
)
from common.protocol.messages import Hello, decode_claims, decode_from_defender, encode
from tests.common.protocol.helpers import LEAF, NONCE, OTHER_LEAF, claims, instance_key


def hello(key: int = 1) -> Hello:
    return sign_hello(instance_key(key), claims(), nonce=NONCE, leaf=LEAF)


def changed(original: Hello, **fields: object) -> Hello:
    return msgspec.structs.replace(original, **fields)


def test_a_hello_proves_its_key() -> None:
    assert verify_hello(hello(), nonce=NONCE, leaf=LEAF) is None


def test_a_hello_is_the_same_after_the_wire() -> None:
    received = decode_from_defender(encode(hello()))
    assert isinstance(received, Hello)
    assert verify_hello(received, nonce=NONCE, leaf=LEAF) is None
    assert decode_claims(bytes(received.body)) == claims()


def test_what_a_newer_defender_adds_is_signed_too() -> None:
    key = instance_key()
    body = encode(claims())[:-1] + b',"newField": {"a": [1]}}'
    public = instance_key_der(key.public_key())
    text = transcript(nonce=NONCE, leaf=LEAF, instance_key=public, body=body)
    newer = Hello(public, key.sign(text, ec.ECDSA(SHA256())), msgspec.Raw(body))
    received = decode_from_defender(encode(newer))
    assert isinstance(received, Hello)
    assert verify_hello(received, nonce=NONCE, leaf=LEAF) is None
    assert decode_claims(bytes(received.body)) == claims()
    # The negative control: without the field that we don't know, the signature doesn't hold.
    stripped = changed(newer, body=msgspec.Raw(encode(claims())))
    assert verify_hello(stripped, nonce=NONCE, leaf=LEAF) is ProofFault.BAD_SIGNATURE


def test_a_replayed_hello_proves_nothing() -> None:
    assert verify_hello(hello(), nonce=bytes(32), leaf=LEAF) is ProofFault.BAD_SIGNATURE


def test_a_hello_passed_on_by_a_man_in_the_middle_proves_nothing() -> None:
    """He terminates TLS with a certificate of his own; the Defender signs what it saw."""
    passed_on = sign_hello(instance_key(), claims(), nonce=NONCE, leaf=OTHER_LEAF)
    assert verify_hello(passed_on, nonce=NONCE, leaf=LEAF) is ProofFault.BAD_SIGNATURE


def test_a_changed_host_name_proves_nothing() -> None:
    forged = changed(hello(), body=msgspec.Raw(encode(claims(hostname="web-2"))))
    assert verify_hello(forged, nonce=NONCE, leaf=LEAF) is ProofFault.BAD_SIGNATURE


def test_a_body_that_only_looks_the_same_proves_nothing() -> None:
    spaced = changed(hello(), body=msgspec.Raw(encode(claims()).replace(b'":', b'": ')))
    assert decode_claims(bytes(spaced.body)) == claims()
    assert verify_hello(spaced, nonce=NONCE, leaf=LEAF) is ProofFault.BAD_SIGNATURE


def test_another_key_proves_nothing() -> None:
    other = instance_key_der(instance_key(2).public_key())
    assert (
        verify_hello(changed(hello(), instance_key=other), nonce=NONCE, leaf=LEAF) is ProofFault.BAD_SIGNATURE
    )


def test_another_signature_proves_nothing() -> None:
    for signature in (b"", bytes(70), hello(2).signature, hello().signature[:-1]):
        forged = changed(hello(), signature=signature)
        assert verify_hello(forged, nonce=NONCE, leaf=LEAF) is ProofFault.BAD_SIGNATURE


def test_a_signature_for_another_purpose_proves_nothing() -> None:
    """The key may sign CSRs later: without our context string a signature is none."""
    good = hello()
    text = transcript(nonce=NONCE, leaf=LEAF, instance_key=good.instance_key, body=bytes(good.body))
    elsewhere = instance_key().sign(text[4 + len(CONTEXT) :], ec.ECDSA(SHA256()))
    assert (
        verify_hello(changed(good, signature=elsewhere), nonce=NONCE, leaf=LEAF) is ProofFault.BAD_SIGNATURE
    )


def test_what_is_not_a_key_is_refused() -> None:
    for junk in (b"", b"junk", bytes(91), instance_key_der(instance_key().public_key())[:-1]):
        assert (
            verify_hello(changed(hello(), instance_key=junk), nonce=NONCE, leaf=LEAF) is ProofFault.NOT_A_KEY
        )


def test_a_point_that_is_not_on_the_curve_is_refused() -> None:
    der = bytearray(instance_key_der(instance_key().public_key()))
    der[-1] ^= 1
    assert (
        verify_hello(changed(hello(), instance_key=bytes(der)), nonce=NONCE, leaf=LEAF)
        is ProofFault.NOT_A_KEY
    )


def test_keys_of_other_kinds_are_refused() -> None:
    keys: list[PublicKeyTypes] = [
        ec.generate_private_key(ec.SECP384R1()).public_key(),
        ed25519.Ed25519PrivateKey.generate().public_key(),
        rsa.generate_private_key(65537, 1024).public_key(),
    ]
    for key in keys:
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert verify_hello(changed(hello(), instance_key=der), nonce=NONCE, leaf=LEAF) is ProofFault.NOT_P256


def test_one_key_has_one_encoding() -> None:
    """An ID is made of the key's bytes: a compressed point mustn't give the same key a second one."""
    key = instance_key().public_key()
    point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    algorithm = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
    bits = b"\x03" + bytes([len(point) + 1]) + b"\0" + point
    der = b"\x30" + bytes([len(algorithm) + len(bits)]) + algorithm + bits
    assert (
        verify_hello(changed(hello(), instance_key=der), nonce=NONCE, leaf=LEAF) is ProofFault.NOT_CANONICAL
    )


def spki(point: bytes, algorithm: str = "301306072a8648ce3d020106082a8648ce3d030107") -> bytes:
    """A SubjectPublicKeyInfo in DER around this point."""
    bits = b"\x03" + bytes([len(point) + 1]) + b"\0" + point
    body = bytes.fromhex(algorithm) + bits
    return b"\x30" + bytes([len(body)]) + body


def judged(instance_key: bytes) -> ProofFault | None:
    return verify_hello(changed(hello(), instance_key=instance_key), nonce=NONCE, leaf=LEAF)


def test_canonical_is_what_our_own_encoder_writes() -> None:
    for number in range(1, 20):
        der = instance_key_der(instance_key(number).public_key())
        point = instance_key(number).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        assert der == spki(point)
        assert (len(der), der[26]) == (91, 4)
        assert judged(der) in (None, ProofFault.BAD_SIGNATURE)


def test_every_other_encoding_of_the_same_key_is_refused() -> None:
    point = instance_key().public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    der = spki(point)
    hybrid = bytes([6 | point[-1] & 1]) + point[1:]
    others = (
        spki(hybrid),
        der + b"\0",  # something behind it
        b"\x30\x81\x59" + der[2:],  # a length in its long form
        der[:23] + b"\x03\x42\x01" + der[26:],  # one unused bit
    )
    for other in others:
        assert judged(other) in (ProofFault.NOT_A_KEY, ProofFault.NOT_CANONICAL)
    assert judged(der) is None


def test_a_coordinate_beyond_the_field_is_no_second_encoding() -> None:
    """x and x + p are the same point; 32 octets have room for both where x is small."""
    p = 2**256 - 2**224 + 2**192 + 2**96 - 1
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B

    def on_curve(x: int) -> int | None:
        square = (pow(x, 3, p) - 3 * x + b) % p
        y = pow(square, (p + 1) // 4, p)
        return y if y * y % p == square else None

    x, y = next((x, y) for x in range(1, 1000) if (y := on_curve(x)) is not None)
    marker, tail = b"\x04", y.to_bytes(32, "big")
    assert judged(spki(marker + x.to_bytes(32, "big") + tail)) is ProofFault.BAD_SIGNATURE, "the point is one"
    assert judged(spki(marker + (x + p).to_bytes(32, "big") + tail)) is ProofFault.NOT_A_KEY


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 90), st.integers(0, 7), st.sampled_from([b"", b"\0"]))
def test_a_key_that_is_taken_is_what_our_own_encoder_writes(place: int, bit: int, more: bytes) -> None:
    der = bytearray(instance_key_der(instance_key().public_key()))
    der[place] ^= 1 << bit
    changed_key = bytes(der) + more
    if judged(changed_key) is ProofFault.BAD_SIGNATURE:
        key = load_der_public_key(changed_key)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert instance_key_der(key) == changed_key


def test_only_p256_signs() -> None:
    with pytest.raises(ValueError, match="P-256"):
        sign_hello(ec.generate_private_key(ec.SECP384R1()), claims(), nonce=NONCE, leaf=LEAF)


def test_claims_that_no_console_would_take_are_not_signed() -> None:
    with pytest.raises(ValueError, match="bad hostname"):
        sign_hello(instance_key(), claims(hostname="two\nlines"), nonce=NONCE, leaf=LEAF)


@pytest.mark.parametrize(("nonce", "leaf"), [(NONCE[:-1], LEAF), (NONCE, LEAF.hex().encode()), (b"", LEAF)])
def test_lengths_are_checked(nonce: bytes, leaf: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        transcript(nonce=nonce, leaf=leaf, instance_key=b"k", body=b"b")


def test_the_transcript_does_not_change_unnoticed() -> None:
    text = transcript(nonce=NONCE, leaf=LEAF, instance_key=b"key", body=b"{}")
    assert text == (
        b"\0\0\0\x1agarrison.defender.v1 hello"
        + (b"\0\0\0\x20" + NONCE)
        + (b"\0\0\0\x20" + LEAF)
        + (b"\0\0\0\x20" + hashlib.sha256(b"key").digest())
        + (b"\0\0\0\x20" + hashlib.sha256(b"{}").digest())
    )


def test_a_leaf_is_known_by_its_fingerprint() -> None:
    assert leaf_digest(b"der").hex() == hashlib.sha256(b"der").hexdigest()


_BYTES32 = st.binary(min_size=32, max_size=32)
_PARTS = st.tuples(_BYTES32, _BYTES32, st.binary(max_size=40), st.binary(max_size=40))


@settings(deadline=None, max_examples=100)
@given(_PARTS, _PARTS)
def test_no_two_transcripts_read_the_same(
    one: tuple[bytes, bytes, bytes, bytes], other: tuple[bytes, bytes, bytes, bytes]
) -> None:
    texts = [transcript(nonce=n, leaf=leaf, instance_key=k, body=b) for n, leaf, k, b in (one, other)]
    assert (texts[0] == texts[1]) == (one == other)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10_000), st.integers(0, 7))
def test_no_changed_bit_passes(position: int, bit: int) -> None:
    good = hello()
    fields = {"instance_key": good.instance_key, "signature": good.signature, "body": bytes(good.body)}
    sizes = [(name, len(value)) for name, value in fields.items()]
    position %= sum(size for _, size in sizes)
    for name, size in sizes:
        if position < size:
            flipped = bytearray(fields[name])
            flipped[position] ^= 1 << bit
            value = msgspec.Raw(bytes(flipped)) if name == "body" else bytes(flipped)
            assert verify_hello(changed(good, **{name: value}), nonce=NONCE, leaf=LEAF) is not None
            return
        position -= size
