"""Certificates of every kind that a loader meets, good and bad, made on the spot."""

import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.certificates import FILES, FileSet, Judgement, Role, Source, judge
from common.certificates.contents import Held
from common.certificates.parsing import Parsed, parse_certificate

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)

Key = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | dsa.DSAPrivateKey
)
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


@functools.cache
def key(kind: str = "p256", index: int = 0) -> Key:
    """The index-th key of a kind: made once, since RSA takes its time."""
    match kind:
        case "p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "p521":
            return ec.generate_private_key(ec.SECP521R1())
        case "secp256k1":
            return ec.generate_private_key(ec.SECP256K1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "ed448":
            return ed448.Ed448PrivateKey.generate()
        case "dsa":
            return dsa.generate_private_key(2048)
    return rsa.generate_private_key(65537, int(kind.removeprefix("rsa")))


def name(common_name: str | None) -> x509.Name:
    if common_name is None:
        return x509.Name([])
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def usage(*names: str) -> x509.KeyUsage:
    every = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{one: one in names for one in every})


def san(*names: str) -> x509.SubjectAlternativeName:
    general: list[x509.GeneralName] = []
    for text in names:
        try:
            general.append(x509.IPAddress(ip_address(text)))
        except ValueError:
            general.append(x509.DNSName(text))
    return x509.SubjectAlternativeName(general)


@dataclass(frozen=True)
class Cert:
    """A certificate with its key."""

    x509: x509.Certificate
    key: Key

    @property
    def der(self) -> bytes:
        return self.x509.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.x509.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return key_pem(self.key)

    @property
    def parsed(self) -> Parsed:
        parsed = parse_certificate(self.der)
        assert parsed is not None
        return parsed

    @property
    def held(self) -> Held:
        return Held("file.pem", "certificate", self.parsed)


def key_pem(
    key_: Key,
    form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8,
    password: bytes | None = None,
    encoding: serialization.Encoding = serialization.Encoding.PEM,
) -> bytes:
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key_.private_bytes(encoding, form, protection)


def issue(
    subject: str | None,
    issuer: Cert | None = None,
    *,
    key_: Key | None = None,
    ca: bool | None = False,
    path_length: int | None = None,
    key_usage: x509.KeyUsage | None = None,
    purposes: Sequence[x509.ObjectIdentifier] | None = None,
    names: Sequence[str] = (),
    begin: datetime = NOW - DAY,
    end: datetime = NOW + 30 * DAY,
    hash_: hashes.HashAlgorithm | None = None,
    pss: bool = False,
    identifiers: bool = True,
    issuer_name: x509.Name | None = None,
    subject_name: x509.Name | None = None,
    extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
    serial: int | None = None,
) -> Cert:
    """One certificate; self-signed without an issuer. `ca=None` leaves basicConstraints out."""
    own = key_ or key("p256", zlib.crc32(repr(subject).encode()))
    signer = issuer.key if issuer else own
    own_name = subject_name or name(subject)
    builder = x509.CertificateBuilder(
        subject_name=own_name,
        issuer_name=issuer_name or (issuer.x509.subject if issuer else own_name),
        public_key=own.public_key(),
        serial_number=serial or x509.random_serial_number(),
        not_valid_before=begin,
        not_valid_after=end,
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length), critical=True)
    if key_usage is not None:
        builder = builder.add_extension(key_usage, critical=True)
    if purposes is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    if names:
        builder = builder.add_extension(san(*names), critical=False)
    if identifiers:
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False
        )
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    for extension, critical in extra:
        builder = builder.add_extension(extension, critical=critical)
    assert not isinstance(signer, ed448.Ed448PrivateKey | dsa.DSAPrivateKey)
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hash_ or hashes.SHA256()
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 32) if pss else None
    return Cert(builder.sign(signer, algorithm, rsa_padding=scheme), own)  # type: ignore[arg-type]


def make_ca(subject: str, issuer: Cert | None = None, **more: object) -> Cert:
    options: dict[str, object] = {"ca": True, "key_usage": usage("key_cert_sign", "crl_sign"), **more}
    return issue(subject, issuer, **options)  # type: ignore[arg-type]


def make_server(issuer: Cert | None, subject: str = "server", **more: object) -> Cert:
    options: dict[str, object] = {
        "names": ["console.test", "127.0.0.1"],
        "purposes": [SERVER],
        "key_usage": usage("digital_signature"),
        **more,
    }
    return issue(subject, issuer, **options)  # type: ignore[arg-type]


def make_client(issuer: Cert | None, subject: str = "client", **more: object) -> Cert:
    options: dict[str, object] = {
        "purposes": [CLIENT],
        "key_usage": usage("digital_signature"),
        **more,
    }
    return issue(subject, issuer, **options)  # type: ignore[arg-type]


def files_of(
    role: Role, *, ca: bytes | None = None, certificate: bytes | None = None, key: bytes | None = None
) -> dict[str, bytes]:
    """The files of a role; what is not given is not there."""
    names = FILES[role]
    found = {names.ca: ca, names.certificate: certificate, names.key: key}
    return {file: data for file, data in found.items() if file is not None and data is not None}


def files_for(
    role: Role, leaf: Cert, anchors: Sequence[Cert] = (), chain: Sequence[Cert] = ()
) -> dict[str, bytes]:
    return files_of(
        role,
        ca=b"".join(one.pem for one in anchors),
        certificate=b"".join(one.pem for one in (leaf, *chain)),
        key=leaf.key_pem,
    )


def judged(
    role: Role,
    leaf: Cert,
    anchors: Sequence[Cert] = (),
    chain: Sequence[Cert] = (),
    *,
    now: datetime = NOW,
) -> Judgement:
    return judge_files(role, files_for(role, leaf, anchors, chain), now=now)


def judge_files(role: Role, files: dict[str, bytes], *, now: datetime = NOW) -> Judgement:
    return judge(FileSet.from_bytes(role, files), now=now, source=Source.CUSTOM)


def with_old_hash(cert: Cert, signer: Cert, hash_: hashes.HashAlgorithm) -> Cert:
    """The same certificate under an RSA signature with SHA-1 or MD5, which the library no longer makes.

    The identifiers of these algorithms (RFC 8017 appendix C) differ in one byte only, so that the DER around
    them stays as it is.
    """
    sha256, old = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b", {"sha1": 5, "md5": 4}[hash_.name]
    replacement = sha256[:-1] + bytes([old])
    assert isinstance(signer.key, rsa.RSAPrivateKey)
    signed = cert.x509.tbs_certificate_bytes.replace(sha256, replacement)
    signature = signer.key.sign(signed, padding.PKCS1v15(), hash_)
    der = cert.der.replace(sha256, replacement)
    der = der[: -len(signature)] + signature
    assert signed in der
    return Cert(x509.load_der_x509_certificate(der), cert.key)
