"""The rules for single certificates and for a path; each returns its faults."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from common.certificates.constraints import violation
from common.certificates.contents import Held, printable
from common.certificates.model import SERVER_AUTH, Fault, FaultKind, Role, Severity
from common.certificates.parsing import CURVES, MAX_RSA_BITS

MIN_RSA_BITS: Final = 2048
"""OpenSSL's security level 2 (112 bits), which tls.py sets."""

_STRONG_HASHES: Final = frozenset({"sha224", "sha256", "sha384", "sha512"})

# Bits of the Netscape type (first byte of the BIT STRING), which OpenSSL still honours.
_NETSCAPE_CLIENT: Final = 0x80
_NETSCAPE_SERVER: Final = 0x40

_PURPOSE_NAMES: Final = {True: "server (serverAuth)", False: "client (clientAuth)"}


def when(instant: datetime) -> str:
    """An instant as the sentences have it: UTC, to the second."""
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


def check_strength(held: Held) -> Iterator[Fault]:
    """Key and signature: what OpenSSL's security level 2 takes, and no kind of key that we don't test."""
    parsed, certificate = held.parsed, held.parsed.certificate
    match parsed.key:
        case None:
            yield _fault(
                held,
                FaultKind.UNSUPPORTED_KEY,
                f"has a key of a kind that is not supported ({certificate.algorithm})",
                "use RSA, ECDSA (P-256, P-384, P-521) or Ed25519",
            )
        case rsa.RSAPublicKey(key_size=bits) if bits < MIN_RSA_BITS:
            yield _fault(
                held,
                FaultKind.WEAK_KEY,
                f"has an RSA key of {bits} bits",
                f"use at least {MIN_RSA_BITS} bits, or ECDSA P-256",
            )
        case rsa.RSAPublicKey(key_size=bits) if bits > MAX_RSA_BITS:
            yield _fault(
                held,
                FaultKind.UNSUPPORTED_KEY,
                f"has an RSA key of {bits} bits",
                f"use at most {MAX_RSA_BITS} bits",
            )
        case ec.EllipticCurvePublicKey(curve=curve) if curve.name not in CURVES:
            yield _fault(
                held, FaultKind.WEAK_KEY, f"has a key on the curve {curve.name}", "use P-256, P-384 or P-521"
            )
    if parsed.unknown_critical:
        yield _fault(
            held,
            FaultKind.UNKNOWN_EXTENSION,
            f"has the critical extension {', '.join(parsed.unknown_critical)}, which nobody here understands",
            "issue it without, or not critical",
        )


def check_signature(held: Held) -> Iterator[Fault]:
    """The hash of a signature on which trust rests: not that of a self-signed CA, which is trusted itself."""
    parsed = held.parsed
    if parsed.certificate.is_ca and parsed.certificate.self_signed:
        return
    if parsed.signature_hash is not None and parsed.signature_hash not in _STRONG_HASHES:
        yield _fault(
            held,
            FaultKind.WEAK_SIGNATURE,
            f"is signed with {parsed.signature_hash.upper()}",
            "issue it again with SHA-256",
        )


def check_ca(held: Held) -> Iterator[Fault]:
    """What is above a leaf must be a CA that may sign certificates (RFC 5280 §4.2.1.9, §4.2.1.3)."""
    certificate = held.parsed.certificate
    if not certificate.is_ca:
        yield _fault(
            held,
            FaultKind.NOT_A_CA,
            "is no CA certificate (basicConstraints)",
            "put the certificate of the CA there that issued the others",
        )
    elif certificate.key_usage is not None and "key_cert_sign" not in certificate.key_usage:
        yield _fault(
            held,
            FaultKind.CA_CANNOT_SIGN,
            "is a CA that may not sign certificates (keyUsage)",
            "issue it again with keyCertSign",
        )


def check_time(held: Held, now: datetime, severity: Severity = Severity.ERROR) -> Iterator[Fault]:
    """Validity at `now`."""
    certificate = held.parsed.certificate
    if now < certificate.not_before:
        yield _fault(
            held,
            FaultKind.NOT_YET_VALID,
            f"is not valid before {when(certificate.not_before)}",
            f"wait, or set this host's clock (it says {when(now)})",
            severity,
        )
    elif not certificate.valid_at(now):
        yield _fault(
            held,
            FaultKind.EXPIRED,
            f"expired at {when(certificate.not_after)}",
            "renew it" if severity is Severity.ERROR else "remove it",
            severity,
        )


def check_leaf(held: Held, role: Role) -> Iterator[Fault]:
    """What a leaf must be for its role."""
    certificate = held.parsed.certificate
    if certificate.is_ca:
        yield _fault(
            held,
            FaultKind.LEAF_IS_CA,
            "is a CA certificate, where a leaf is due",
            "issue a leaf (basicConstraints CA:FALSE) with a key of its own",
        )
    purpose = _PURPOSE_NAMES[role.is_server]
    if certificate.purposes is not None and role.purpose not in certificate.purposes:
        yield _fault(
            held,
            FaultKind.WRONG_PURPOSE,
            f"is not meant for a TLS {purpose}",
            f"issue it with the extended key usage of a {purpose}",
        )
    if not _netscape_allows(held, role):
        yield _fault(
            held,
            FaultKind.WRONG_PURPOSE,
            f"is not meant for a TLS {purpose} (nsCertType)",
            "issue it without the Netscape extension",
        )
    if certificate.key_usage is not None and "digital_signature" not in certificate.key_usage:
        yield _fault(
            held,
            FaultKind.WRONG_PURPOSE,
            "may not make signatures (keyUsage)",
            "issue it with digitalSignature",
        )  # RFC 8446 §4.4.2.2
    if role.is_server and not certificate.names:
        yield _fault(
            held,
            FaultKind.NO_NAME,
            "has no DNS name or address (subjectAltName)",
            "issue it with the names that clients use; the common name doesn't count",
        )
    if role is Role.DEFENDER_CLIENT:
        yield from _two_faced(held)


def _netscape_allows(held: Held, role: Role) -> bool:
    bits = held.parsed.netscape_type
    return bits is None or bool(bits & (_NETSCAPE_SERVER if role.is_server else _NETSCAPE_CLIENT))


def _two_faced(held: Held) -> Iterator[Fault]:
    """Every Defender holds this key; as a server certificate it lets each of them pass for those names."""
    certificate = held.parsed.certificate
    if certificate.names and (certificate.purposes is None or SERVER_AUTH in certificate.purposes):
        yield _fault(
            held,
            FaultKind.TWO_FACED,
            f"can serve as well, as {printable(str(certificate.names))}",
            "issue it for clientAuth only",
            Severity.WARNING,
        )


def check_path(steps: Sequence[Held], role: Role, now: datetime) -> Iterator[Fault]:
    """The CAs of a path, from the leaf's issuer on: validity, purpose, path length, name constraints."""
    below = 0  # CAs between this one and the leaf that aren't self-issued (RFC 5280 §4.2.1.9)
    for index, held in enumerate(steps[1:], 1):
        certificate = held.parsed.certificate
        yield from check_time(held, now)
        if certificate.purposes is not None and role.purpose not in certificate.purposes:
            yield _fault(
                held,
                FaultKind.WRONG_PURPOSE,
                f"is a CA that may not issue for a TLS {_PURPOSE_NAMES[role.is_server]}",
                "have the leaf issued by a CA without this restriction",
            )
        if certificate.path_length is not None and below > certificate.path_length:
            yield _fault(
                held,
                FaultKind.PATH_TOO_LONG,
                f"allows {certificate.path_length} CAs below it, and there are {below}",
                "have the leaf issued by a CA nearer to it",
            )
        yield from _check_constraints(held, steps[:index])
        below += not held.parsed.self_issued


def _check_constraints(ca: Held, below: Sequence[Held]) -> Iterator[Fault]:
    if ca.parsed.constraints is None:
        return
    for index, held in enumerate(below):
        if index and held.parsed.self_issued:
            continue  # RFC 5280 §6.1.3 (b)
        name = violation(held.parsed, ca.parsed.constraints, leaf=index == 0)
        if name is not None:
            yield _fault(
                held,
                FaultKind.NAME_CONSTRAINT,
                f"has the name {printable(name)}, for which "
                f"{printable(ca.parsed.certificate.subject)} may not vouch",
                "issue it for names that its CA may vouch for",
            )


def _fault(held: Held, kind: FaultKind, what: str, remedy: str, severity: Severity = Severity.ERROR) -> Fault:
    return Fault(held.file, kind, f"{held.place} {what}", remedy, severity)
