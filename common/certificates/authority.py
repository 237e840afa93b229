"""The Console's own CAs, and the leaves that they sign.

Why an RSA-3072 CA over P-256 leaves is the default: measured on one core (OpenSSL 3.0.19, in turn, medians),
verifying a leaf takes 50 µs with it and 95 µs with a P-256 CA (39 with RSA-2048, 145 with Ed25519, 695 with
P-384), and the server's share of a whole mutual TLS 1.3 handshake 698 µs against 747 µs. Verification is what
a listener does for every Defender that connects; signing with the CA, which RSA makes slower, happens once in
1.5 years. RSA-2048 would save 6 % more, and is too weak to be chosen unasked for three years.
"""

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.certificates.model import Certificate, Role
from common.certificates.names import Names
from common.certificates.parsing import (
    SupportedPrivateKey,
    SupportedPublicKey,
    parse_certificate,
    to_private_key,
)
from common.certificates.pem import encode_block

LIFETIME: Final = timedelta(days=3 * 365)
"""Three years (product facts §3), counted from the moment of issue."""

BACKDATED: Final = timedelta(days=1)
"""How far before the moment of issue the validity begins.

A Defender's clock may be behind the Console's: by drift, or by up to 14 hours where somebody set it to the
local time of another zone. A day covers both. It gives nothing away: the key did not exist before.
"""

ORGANIZATION: Final = "Garrison"

MAX_COMMON_NAME: Final = 64
"""Characters (ub-common-name, RFC 5280 appendix A.1)."""


class KeyAlgorithm(StrEnum):
    """The kinds of key that are made."""

    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"
    P256 = "ecdsa-p256"
    P384 = "ecdsa-p384"
    ED25519 = "ed25519"


RSA_3072: Final = KeyAlgorithm.RSA_3072
P256: Final = KeyAlgorithm.P256


def generate_key(algorithm: KeyAlgorithm) -> SupportedPrivateKey:
    """A new private key."""
    match algorithm:
        case KeyAlgorithm.P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyAlgorithm.P384:
            return ec.generate_private_key(ec.SECP384R1())
        case KeyAlgorithm.ED25519:
            return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, int(algorithm.removeprefix("rsa-")))


@dataclass(frozen=True, slots=True)
class Issued:
    """A leaf and its key.

    Attributes:
        chain: PEM: the leaf. The CA is self-signed, so there is nothing between them.
        key: PEM, PKCS#8; never shown.
        certificate: The leaf's facts.
    """

    chain: bytes
    key: bytes = field(repr=False)
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class Authority:
    """A self-signed CA. Make one with `create`, bring one back with `restore`.

    Attributes:
        certificate: Its facts.
        certificate_pem: PEM.
        key_pem: PEM, PKCS#8; never shown, and never in a file beside its leaves' (D11).
    """

    certificate: Certificate
    certificate_pem: bytes
    key_pem: bytes = field(repr=False)

    @classmethod
    def create(
        cls,
        common_name: str,
        *,
        now: datetime,
        lifetime: timedelta = LIFETIME,
        algorithm: KeyAlgorithm = RSA_3072,
        generation: int = 1,
    ) -> "Authority":
        """A new CA with a new key.

        Its name holds the generation and 32 random bits, so that no two CAs ever share one: not two
        generations, nor those of a Console that was set up anew. Software that looks issuers up by name
        alone then cannot take one for the other.

        Args:
            common_name: What it is, such as `Garrison Defender CA`; at most 40 characters.
            now: The moment of issue; aware.
            lifetime: From `now` to the end of its validity.
            algorithm: Of its key.
            generation: The n-th CA of its channel.
        """
        key = generate_key(algorithm)
        name = _name(f"{common_name} {generation} {secrets.token_hex(4)}")
        begin, end = _validity(now, lifetime)
        ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = (
            x509.CertificateBuilder(subject_name=name, issuer_name=name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            # It signs leaves and nothing else: a leaf's key never makes another CA.
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(ski, critical=False)
            .add_extension(_authority_key_identifier(ski), critical=False)
        )
        der = builder.sign(key, _hash_for(key)).public_bytes(serialization.Encoding.DER)
        return cls(_facts(der), encode_block("CERTIFICATE", der), to_private_key(key).pem)

    @classmethod
    def restore(cls, certificate_pem: bytes, key_pem: bytes) -> "Authority":
        """A CA that `create` made, from what was kept of it.

        Raises:
            ValueError: if they are not a certificate and its key.
        """
        der = x509.load_pem_x509_certificate(certificate_pem).public_bytes(serialization.Encoding.DER)
        authority = cls(_facts(der), encode_block("CERTIFICATE", der), key_pem)
        if to_private_key(authority.key).fingerprint != authority.certificate.key_fingerprint:
            raise ValueError("the key is not the certificate's")
        return authority

    @property
    def key(self) -> SupportedPrivateKey:
        """Its private key."""
        key = serialization.load_pem_private_key(self.key_pem, None, unsafe_skip_rsa_key_validation=True)
        assert isinstance(key, SupportedPrivateKey)
        return key

    def issue(
        self,
        role: Role,
        *,
        common_name: str,
        names: Names | None = None,
        now: datetime,
        lifetime: timedelta = LIFETIME,
        algorithm: KeyAlgorithm = P256,
    ) -> Issued:
        """A leaf with a new key, for one role and no other.

        Args:
            role: Sets its extended key usage.
            common_name: Of its subject.
            names: Its subject alternative names; a server needs some.
            now: The moment of issue; aware.
            lifetime: From `now` on; it ends with its CA at the latest.
            algorithm: Of its key.

        Raises:
            ValueError: if a server has no names.
        """
        key = generate_key(algorithm)
        chain = self.certify(
            role, key.public_key(), common_name=common_name, names=names, now=now, lifetime=lifetime
        )
        facts = _facts(x509.load_pem_x509_certificate(chain).public_bytes(serialization.Encoding.DER))
        return Issued(chain, to_private_key(key).pem, facts)

    def certify(
        self,
        role: Role,
        public_key: SupportedPublicKey,
        *,
        common_name: str,
        names: Names | None = None,
        now: datetime,
        lifetime: timedelta = LIFETIME,
    ) -> bytes:
        """A leaf over a key that stays where it was made (D9), PEM; see `issue`.

        Raises:
            ValueError: if a server has no names.
        """
        if role.is_server and not names:
            raise ValueError(f"a certificate for {role} needs names")
        begin, end = _validity(now, lifetime)
        issuer = x509.load_pem_x509_certificate(self.certificate_pem)
        builder = (
            x509.CertificateBuilder(subject_name=_name(common_name), issuer_name=issuer.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(begin, self.certificate.not_before))
            .not_valid_after(min(end, self.certificate.not_after))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            # All that a TLS 1.3 peer does with its key (RFC 8446 §4.4.2.2); RSA key transport is off.
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([_purpose(role)]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(_authority_key_identifier(_ski(issuer)), critical=False)
        )
        if names:
            builder = builder.add_extension(_alternative_names(names), critical=False)
        signed = builder.sign(self.key, _hash_for(self.key))
        return encode_block("CERTIFICATE", signed.public_bytes(serialization.Encoding.DER))


def _facts(der: bytes) -> Certificate:
    parsed = parse_certificate(der)
    if parsed is None:
        raise ValueError("not a certificate that can be read")
    return parsed.certificate


def _validity(now: datetime, lifetime: timedelta) -> tuple[datetime, datetime]:
    """Whole seconds, since X.509 has no others (RFC 5280 §4.1.2.5)."""
    moment = now.astimezone(UTC).replace(microsecond=0)
    return moment - BACKDATED, moment + lifetime


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, short_common_name(common_name)),
        ]
    )


def short_common_name(name: str) -> str:
    """A name that fits the common name's 64 characters.

    A longer host name is cut to its first label (63 at most): it reads best, and nobody verifies it, since
    the whole name is among the alternative names.
    """
    if len(name) <= MAX_COMMON_NAME:
        return name
    return name.partition(".")[0][:MAX_COMMON_NAME] or name[:MAX_COMMON_NAME]


def _purpose(role: Role) -> x509.ObjectIdentifier:
    return ExtendedKeyUsageOID.SERVER_AUTH if role.is_server else ExtendedKeyUsageOID.CLIENT_AUTH


def _ski(issuer: x509.Certificate) -> x509.SubjectKeyIdentifier:
    return issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value


def _authority_key_identifier(ski: x509.SubjectKeyIdentifier) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski)


def _alternative_names(names: Names) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([*map(x509.DNSName, names.dns), *map(x509.IPAddress, names.addresses)])


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _hash_for(key: SupportedPrivateKey) -> hashes.SHA256 | hashes.SHA384 | None:
    """SHA-256, but what P-384 promises, and none for Ed25519, which has its own."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return None
    is_p384 = isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size > 256
    return hashes.SHA384() if is_p384 else hashes.SHA256()
