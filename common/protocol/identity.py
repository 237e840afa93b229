"""The proof of a Defender's identity: its Hello, signed with its instance key (D9a). Pure cryptography.

What is signed binds four things, each length-prefixed so that no two transcripts read the same:

- a context string: the signature means nothing in any other protocol that uses the key;
- the Console's nonce: a Hello can't be replayed on another connection;
- the SHA-256 of the server's leaf certificate (DER), as the Defender saw it: one who terminates TLS with
  another certificate can't pass the Hello on;
- the SHA-256 of the instance key and of the Hello's body, byte by byte as sent.

The body is signed as bytes and not in a canonical form: a Console that knows fewer fields than the Defender
still checks what the Defender signed.
"""

import hashlib
from enum import StrEnum
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from common.protocol.messages import NONCE_BYTES, Claims, Hello, Malformed, decode_claims, encode

CONTEXT: Final = b"garrison.defender.v1 hello"
_ECDSA: Final = ec.ECDSA(SHA256())
_DIGEST_BYTES: Final = 32
_SPKI_PREFIX: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
"""id-ecPublicKey, prime256v1, the head of a bit string, an uncompressed point (RFC 5480 §2, §2.2)."""
_SPKI_BYTES: Final = len(_SPKI_PREFIX) + 2 * 32


class ProofFault(StrEnum):
    """Why a Hello proves nothing; the text may be sent to the peer."""

    NOT_A_KEY = "instance key is not a key"
    NOT_P256 = "instance key is not of P-256"
    NOT_CANONICAL = "instance key is not in canonical form"
    BAD_SIGNATURE = "signature doesn't fit key, nonce, server certificate and claims"


def leaf_digest(der: bytes) -> bytes:
    """The SHA-256 of a certificate (DER): 32 bytes, the same as its fingerprint in hex."""
    return hashlib.sha256(der).digest()


def instance_key_der(key: ec.EllipticCurvePublicKey) -> bytes:
    """The instance key as the Hello carries it and the store binds it: SubjectPublicKeyInfo, DER."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def transcript(*, nonce: bytes, leaf: bytes, instance_key: bytes, body: bytes) -> bytes:
    """What a Hello's signature is over.

    Args:
        nonce: The Challenge's, 32 bytes.
        leaf: `leaf_digest` of the server's certificate on this connection.
        instance_key: SubjectPublicKeyInfo, DER.
        body: The claims as they are sent.

    Raises:
        ValueError: A nonce or a leaf of another length (a bug of the caller).
    """
    if len(nonce) != NONCE_BYTES or len(leaf) != _DIGEST_BYTES:
        raise ValueError("a nonce and a SHA-256 have 32 bytes each")
    parts = (CONTEXT, nonce, leaf, hashlib.sha256(instance_key).digest(), hashlib.sha256(body).digest())
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def sign_hello(key: ec.EllipticCurvePrivateKey, claims: Claims, *, nonce: bytes, leaf: bytes) -> Hello:
    """The Hello of this key with these claims, for this Challenge on this connection.

    Raises:
        ValueError: The key isn't of P-256, the nonce or leaf isn't 32 bytes long, or the claims are beyond
            their bounds (a host name with control characters): no Console would take them.
    """
    if not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("an instance key is of P-256")
    body = encode(claims)
    fault = decode_claims(body)
    if isinstance(fault, Malformed):
        raise ValueError(fault.reason)
    public = instance_key_der(key.public_key())
    text = transcript(nonce=nonce, leaf=leaf, instance_key=public, body=body)
    return Hello(public, key.sign(text, _ECDSA), msgspec.Raw(body))


def _is_canonical(der: bytes) -> bool:
    """Whether this is the encoding that `instance_key_der` gives, of a P-256 key that was read from it.

    Nothing is left to choose once the header, the form of the point and the length are these: the rest are
    the coordinates, and OpenSSL takes none beyond the field (a second encoding of the same point).
    """
    return len(der) == _SPKI_BYTES and der.startswith(_SPKI_PREFIX)


def verify_hello(hello: Hello, *, nonce: bytes, leaf: bytes) -> ProofFault | None:
    """Judge a Hello: None if its key made it, for this nonce and this leaf.

    The key must be in the one canonical encoding: an ID is made of its bytes, and one key mustn't have two.
    """
    try:
        key = load_der_public_key(hello.instance_key)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return ProofFault.NOT_A_KEY
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return ProofFault.NOT_P256
    if not _is_canonical(hello.instance_key):
        return ProofFault.NOT_CANONICAL
    text = transcript(nonce=nonce, leaf=leaf, instance_key=hello.instance_key, body=bytes(hello.body))
    try:
        key.verify(hello.signature, text, _ECDSA)
    except InvalidSignature:
        return ProofFault.BAD_SIGNATURE
    return None
