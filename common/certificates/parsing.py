"""From DER to the values of the model; what cannot become one is a fault."""

import hashlib
import threading
import warnings
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtensionOID as Oid

from common.certificates.model import Certificate, FaultKind, PrivateKey
from common.certificates.names import Names, names_of

_T = TypeVar("_T", bound=x509.ExtensionType)

SupportedPublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
SupportedPrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}

MAX_RSA_BITS: Final = 8192
"""A handshake with a longer key takes the listener a tenth of a second and more."""

_PSS_KEY: Final = "1.2.840.113549.1.1.10"
_NETSCAPE_TYPE: Final = "2.16.840.1.113730.1.1"

# Critical extensions that OpenSSL acts upon (X509_supported_extension); it refuses a chain with any other.
_KNOWN: Final = {
    _NETSCAPE_TYPE,
    Oid.KEY_USAGE.dotted_string,
    Oid.SUBJECT_ALTERNATIVE_NAME.dotted_string,
    Oid.BASIC_CONSTRAINTS.dotted_string,
    Oid.CERTIFICATE_POLICIES.dotted_string,
    Oid.CRL_DISTRIBUTION_POINTS.dotted_string,
    Oid.EXTENDED_KEY_USAGE.dotted_string,
    Oid.OCSP_NO_CHECK.dotted_string,
    Oid.POLICY_CONSTRAINTS.dotted_string,
    Oid.NAME_CONSTRAINTS.dotted_string,
    Oid.POLICY_MAPPINGS.dotted_string,
    Oid.INHIBIT_ANY_POLICY.dotted_string,
}

_KEY_USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)

# catch_warnings works on the process's filters: two threads in it at once would leave them changed.
_WARNINGS = threading.Lock()

# All that the library raises at hostile bytes (seen over its own test vectors).
_REFUSALS: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A certificate with what only the loader asks about it.

    Attributes:
        certificate: What the rest of the house sees.
        raw: The library's view, for signatures.
        key: Its public key; None if it is of a kind that no channel uses.
        issuer_key: Its issuer's name in the form in which names are compared.
        subject_key: Its own name in that form.
        signature_hash: Such as `sha256`; None where the algorithm has its own.
        unknown_critical: Dotted identifiers of extensions that must be understood, and are not.
        constraints: Its name constraints.
        aki_serial: The serial number by which it names its issuer.
        aki_issuer: The name of its issuer's issuer, in the form in which names are compared.
        netscape_type: The bits of the old Netscape type; None if it has none.
    """

    certificate: Certificate
    raw: x509.Certificate = field(repr=False)
    key: SupportedPublicKey | None = field(repr=False)
    issuer_key: tuple[object, ...] = field(repr=False)
    subject_key: tuple[object, ...] = field(repr=False)
    signature_hash: str | None
    unknown_critical: tuple[str, ...]
    constraints: x509.NameConstraints | None
    aki_serial: int | None
    aki_issuer: tuple[object, ...] | None = field(repr=False)
    netscape_type: int | None

    @property
    def self_issued(self) -> bool:
        """Its issuer has its own name (RFC 5280 §3.2)."""
        return self.subject_key == self.issuer_key


def parse_certificate(der: bytes) -> Parsed | None:
    """A certificate, or None if the bytes are not one that can be read in full."""
    with _WARNINGS, warnings.catch_warnings():
        # The library warns where it will refuse one day, such as at a serial number that isn't positive.
        # An operator reads our faults, not its warnings.
        warnings.simplefilter("ignore")
        try:
            return _parse(x509.load_der_x509_certificate(der), der)
        except _REFUSALS:
            return None


def _parse(raw: x509.Certificate, der: bytes) -> Parsed:
    extensions = raw.extensions
    if raw.serial_number <= 0:
        raise ValueError("serial number is not positive (RFC 5280 §4.1.2.2)")
    key = _supported_key(raw)
    aki = _extension(extensions, x509.AuthorityKeyIdentifier)
    aki_text = _hex(aki.key_identifier if aki else None)
    identifier = _extension(extensions, x509.SubjectKeyIdentifier)
    ski = _hex(identifier.digest if identifier else None)
    basic = _extension(extensions, x509.BasicConstraints)
    certificate = Certificate(
        der=der,
        subject=raw.subject.rfc4514_string(),
        issuer=raw.issuer.rfc4514_string(),
        serial=raw.serial_number,
        names=_names(extensions),
        not_before=raw.not_valid_before_utc,
        not_after=raw.not_valid_after_utc,
        fingerprint=hashlib.sha256(der).hexdigest(),
        algorithm=algorithm_text(key) if key else _foreign_algorithm(raw),
        key_fingerprint=spki_fingerprint(key) if key else "",
        is_ca=bool(basic and basic.ca),
        path_length=basic.path_length if basic else None,
        key_usage=_key_usage(extensions),
        purposes=_purposes(extensions),
        self_signed=key is not None and _is_self_signed(raw, key, ski, aki_text),
        ski=ski,
        aki=aki_text,
    )
    return Parsed(
        certificate=certificate,
        raw=raw,
        key=key,
        issuer_key=name_key(raw.issuer),
        subject_key=name_key(raw.subject),
        signature_hash=_signature_hash(raw),
        unknown_critical=tuple(
            e.oid.dotted_string for e in extensions if e.critical and e.oid.dotted_string not in _KNOWN
        ),
        constraints=_extension(extensions, x509.NameConstraints),
        aki_serial=aki.authority_cert_serial_number if aki else None,
        aki_issuer=_directory_name(aki),
        netscape_type=_netscape_type(extensions),
    )


def _supported_key(raw: x509.Certificate) -> SupportedPublicKey | None:
    """Its key, if it is of a kind that TLS channels use here.

    A key that is only good for RSA-PSS reads as plain RSA; OpenSSL treats it as its own kind.
    """
    if raw.public_key_algorithm_oid.dotted_string == _PSS_KEY:
        return None
    try:
        key = raw.public_key()
    except (UnsupportedAlgorithm, ValueError):
        return None
    if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        return key
    return None


def _foreign_algorithm(raw: x509.Certificate) -> str:
    oid = raw.public_key_algorithm_oid
    return "RSA-PSS" if oid.dotted_string == _PSS_KEY else oid.dotted_string


def algorithm_text(key: SupportedPublicKey) -> str:
    """A key's kind and size, such as `ECDSA P-256`, `RSA 3072` or `Ed25519`."""
    match key:
        case rsa.RSAPublicKey():
            return f"RSA {key.key_size}"
        case ec.EllipticCurvePublicKey():
            return f"ECDSA {CURVES.get(key.curve.name, key.curve.name)}"
    return "Ed25519"


def public_bytes(key: PublicKeyTypes) -> bytes:
    """Its SubjectPublicKeyInfo, DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def spki_fingerprint(key: SupportedPublicKey) -> str:
    """SHA-256 of its SubjectPublicKeyInfo, hex."""
    return hashlib.sha256(public_bytes(key)).hexdigest()


def name_key(name: x509.Name) -> tuple[object, ...]:
    """A name in the form in which OpenSSL compares names (X509_NAME_cmp).

    Letter case and runs of spaces don't count, nor does the string type (RFC 5280 §7.1).
    """
    return tuple(
        frozenset((part.oid.dotted_string, _folded(part.value)) for part in relative)
        for relative in name.rdns
    )


def _folded(value: str | bytes) -> str | bytes:
    return " ".join(value.split()).lower() if isinstance(value, str) else value


def signed_by(raw: x509.Certificate, key: SupportedPublicKey) -> bool | None:
    """Whether `key` made this certificate's signature: by cryptography, not by names.

    None if nobody can say any more: the library has given up on the hash (MD5). `check_signature` refuses
    such a certificate where trust would rest on it.
    """
    signature, signed = raw.signature, raw.tbs_certificate_bytes
    try:
        how = raw.signature_algorithm_parameters
        match key, how:
            case rsa.RSAPublicKey(), padding.PKCS1v15() | padding.PSS() | None:
                # The library has no parameters for what it would not sign any more (MD5), but verifies it.
                key.verify(signature, signed, how or padding.PKCS1v15(), _hash(raw))
            case ec.EllipticCurvePublicKey(), ec.ECDSA():
                key.verify(signature, signed, how)
            case ed25519.Ed25519PublicKey(), None:
                key.verify(signature, signed)
            case _:
                return False
    except UnsupportedAlgorithm:
        return None
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _is_self_signed(raw: x509.Certificate, key: SupportedPublicKey, ski: str | None, aki: str | None) -> bool:
    """Where the signature can't be checked, OpenSSL's own criterion: the key identifiers don't disagree."""
    if name_key(raw.subject) != name_key(raw.issuer):
        return False
    verified = signed_by(raw, key)
    return (aki is None or aki == ski) if verified is None else verified


def _hash(raw: x509.Certificate) -> hashes.HashAlgorithm:
    if raw.signature_hash_algorithm is None:
        raise ValueError("an RSA signature without a hash")
    return raw.signature_hash_algorithm


def _extension(extensions: x509.Extensions, kind: type[_T]) -> _T | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _directory_name(aki: x509.AuthorityKeyIdentifier | None) -> tuple[object, ...] | None:
    for name in (aki.authority_cert_issuer if aki else None) or ():
        if isinstance(name, x509.DirectoryName):
            return name_key(name.value)
    return None


def _signature_hash(raw: x509.Certificate) -> str | None:
    try:
        return raw.signature_hash_algorithm.name if raw.signature_hash_algorithm else None
    except UnsupportedAlgorithm:
        return raw.signature_algorithm_oid.dotted_string


def _names(extensions: x509.Extensions) -> Names:
    san = _extension(extensions, x509.SubjectAlternativeName)
    if san is None:
        return Names()
    addresses = [
        a for a in san.get_values_for_type(x509.IPAddress) if isinstance(a, IPv4Address | IPv6Address)
    ]
    return names_of((name.lower() for name in san.get_values_for_type(x509.DNSName)), addresses)


def _key_usage(extensions: x509.Extensions) -> frozenset[str] | None:
    usage = _extension(extensions, x509.KeyUsage)
    return None if usage is None else frozenset(name for name in _KEY_USAGES if getattr(usage, name))


def _purposes(extensions: x509.Extensions) -> frozenset[str] | None:
    usage = _extension(extensions, x509.ExtendedKeyUsage)
    return None if usage is None else frozenset(purpose.dotted_string for purpose in usage)


def _netscape_type(extensions: x509.Extensions) -> int | None:
    """The first byte of a BIT STRING (X.690 §8.6): tag, length, unused bits, then the bits."""
    for extension in extensions:
        value = extension.value
        if extension.oid.dotted_string == _NETSCAPE_TYPE and isinstance(value, x509.UnrecognizedExtension):
            return value.value[3] if len(value.value) > 3 else 0
    return None


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()


@dataclass(frozen=True, slots=True)
class KeyRefusal:
    """Why bytes are no key that a channel can use.

    Attributes:
        kind: ENCRYPTED_KEY, UNSUPPORTED_KEY or MALFORMED.
        algorithm: Of an unsupported one, as far as it is known.
    """

    kind: FaultKind
    algorithm: str = ""


def parse_key(der: bytes) -> SupportedPrivateKey | KeyRefusal:
    """A private key (PKCS#8, PKCS#1 or SEC1).

    Of an RSA key the library would test the primes, which takes 0.5 s at 4096 bits and 12 s at 8192: too
    long to stand still for. That its numbers belong together is arithmetic; that it signs, `key_fits` tries.
    """
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            key = serialization.load_der_private_key(der, None, unsafe_skip_rsa_key_validation=True)
        except TypeError:
            return KeyRefusal(FaultKind.ENCRYPTED_KEY)
        except UnsupportedAlgorithm:
            return KeyRefusal(FaultKind.UNSUPPORTED_KEY)
        except ValueError:
            return KeyRefusal(FaultKind.MALFORMED)
    if isinstance(key, rsa.RSAPrivateKey):
        return _sound(key)
    if isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        return key
    return KeyRefusal(FaultKind.UNSUPPORTED_KEY, type(key).__name__.removesuffix("PrivateKey"))


def _sound(key: rsa.RSAPrivateKey) -> rsa.RSAPrivateKey | KeyRefusal:
    """An RSA key whose numbers belong together (RFC 8017 §3.2)."""
    if key.key_size > MAX_RSA_BITS:
        return KeyRefusal(FaultKind.UNSUPPORTED_KEY, f"RSA {key.key_size}")
    numbers = key.private_numbers()
    p, q, d, public = numbers.p, numbers.q, numbers.d, numbers.public_numbers
    sound = (
        min(p, q, d, public.e) > 2
        and p % 2 == q % 2 == public.e % 2 == 1
        and public.n == p * q
        and d * public.e % (p - 1) == d * public.e % (q - 1) == 1
        and (numbers.dmp1, numbers.dmq1) == (d % (p - 1), d % (q - 1))
        and numbers.iqmp * q % p == 1
    )
    return key if sound else KeyRefusal(FaultKind.MALFORMED)


def to_private_key(key: SupportedPrivateKey) -> PrivateKey:
    """The model's value of a key."""
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key()
    return PrivateKey(pem, algorithm_text(public), spki_fingerprint(public))


def key_fits(private: SupportedPrivateKey, public: SupportedPublicKey) -> bool:
    """Whether a signature of one verifies with the other.

    Comparing the public halves is not enough: a file can carry the right public half beside a private one
    that is not its own.
    """
    probe = b"garrison: does this key belong to this certificate?"
    try:
        match private, public:
            case rsa.RSAPrivateKey(), rsa.RSAPublicKey():
                scheme = padding.PKCS1v15()
                public.verify(private.sign(probe, scheme, hashes.SHA256()), probe, scheme, hashes.SHA256())
            case ec.EllipticCurvePrivateKey(), ec.EllipticCurvePublicKey():
                method = ec.ECDSA(hashes.SHA256())
                public.verify(private.sign(probe, method), probe, method)
            case ed25519.Ed25519PrivateKey(), ed25519.Ed25519PublicKey():
                public.verify(private.sign(probe), probe)
            case _:
                return False
    except (InvalidSignature, *_REFUSALS):
        return False
    return True
