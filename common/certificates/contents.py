"""What the files of a set hold: certificates and a key, or faults."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from common.certificates.model import Fault, FaultKind, Severity
from common.certificates.parsing import (
    KeyRefusal,
    Parsed,
    SupportedPrivateKey,
    parse_certificate,
    parse_key,
)
from common.certificates.pem import Block, parse_blocks

MAX_CHAIN: Final = 16
"""Certificates of a chain file; each is sent in every handshake."""

MAX_ANCHORS: Final = 512
"""Certificates of a bundle: three times a public root store."""

_CERTIFICATE: Final = ("CERTIFICATE", "X509 CERTIFICATE")
_KEY: Final = ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY")
_FOREIGN_KEY: Final = ("DSA PRIVATE KEY", "OPENSSH PRIVATE KEY")
_ENCRYPTED: Final = "ENCRYPTED PRIVATE KEY"
# openssl ecparam -genkey writes them before the key; they say nothing that the key doesn't.
_PARAMETERS: Final = ("EC PARAMETERS", "DH PARAMETERS")

_DECRYPT: Final = "decrypt it: openssl pkey -in OLD -out NEW"


@dataclass(frozen=True, slots=True)
class Held:
    """A certificate and its place.

    Attributes:
        file: The file it is in.
        place: How a fault names it, such as `certificate 2 (CN=defender)`.
        parsed: The certificate.
    """

    file: str
    place: str
    parsed: Parsed


def certificates_of(file: str, data: bytes, limit: int) -> tuple[tuple[Held, ...], tuple[Fault, ...]]:
    """The certificates of a file, each once, and what is wrong with it.

    Args:
        file: The file's name.
        data: What it holds.
        limit: More certificates than this are not looked at.
    """
    blocks, faults = parse_blocks(file, data)
    wanted = [block for block in blocks if block.label in _CERTIFICATE]
    told = [*faults, *_strangers(file, blocks, found=bool(wanted))]
    if len(wanted) > limit:
        what = f"holds {len(wanted)} certificates, more than {limit}"
        return (), (*told, Fault(file, FaultKind.TOO_MANY, what, "keep only those that the channel needs"))
    held: dict[bytes, Held] = {}
    for number, block in enumerate(wanted, 1):
        parsed = None if block.der in held else parse_certificate(block.der)
        if block.der in held:
            told.append(_duplicate(file, number, held[block.der]))
        elif parsed is None:
            told.append(_damaged(file, f"certificate {number} (line {block.line})"))
        else:
            place = _place(number, len(wanted), parsed.certificate.subject)
            held[block.der] = Held(file, place, parsed)
    if not wanted and not told:
        what = f"holds no certificate, but a {blocks[0].label} block"
        told.append(Fault(file, FaultKind.WRONG_BLOCK, what, "put certificates there"))
    return tuple(held.values()), tuple(told)


def _place(number: int, count: int, subject: str) -> str:
    name = printable(subject) or "no subject"
    return f"certificate ({name})" if count == 1 else f"certificate {number} ({name})"


def printable(text: str) -> str:
    """A name from a certificate, fit for one line of a log, and not longer than one."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown if len(shown) <= 200 else shown[:197] + "..."


def _strangers(file: str, blocks: Sequence[Block], *, found: bool) -> list[Fault]:
    """Blocks that are no certificates: a key is a leak, others matter where there is nothing else."""
    faults = []
    for label in dict.fromkeys(block.label for block in blocks):
        if label in _CERTIFICATE or label in _PARAMETERS:
            continue
        if "PRIVATE KEY" in label:
            what = "holds a private key, too; a certificate's file is nobody's secret"
            remedy = "keep the key in its own file only"
        else:
            what, remedy = f"holds a {label} block", _remedy(label)
        severity = Severity.WARNING if found else Severity.ERROR
        faults.append(Fault(file, FaultKind.WRONG_BLOCK, what, remedy, severity))
    return faults


def _remedy(label: str) -> str:
    match label:
        case "TRUSTED CERTIFICATE":
            return "convert it: openssl x509 -in OLD -out NEW"
        case "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST":
            return "put the certificate there that the CA made from it"
        case "PKCS7":
            return "convert it: openssl pkcs7 -print_certs -in OLD -out NEW"
    return "put certificates there"


def _duplicate(file: str, number: int, first: Held) -> Fault:
    what = f"certificate {number} is the same as {first.place}"
    return Fault(file, FaultKind.DUPLICATE, what, "remove one of them")


def _damaged(file: str, place: str) -> Fault:
    return Fault(
        file, FaultKind.MALFORMED, f"{place} is damaged", "copy the file again from where it is whole"
    )


def key_of(file: str, data: bytes) -> tuple[SupportedPrivateKey | None, tuple[Fault, ...]]:
    """The private key of a file, and what is wrong with it."""
    blocks, faults = parse_blocks(file, data)
    keys = [block for block in blocks if "PRIVATE KEY" in block.label]
    if len(keys) > 1:
        what = f"holds {len(keys)} private keys"
        return None, (*faults, Fault(file, FaultKind.SEVERAL_KEYS, what, "keep the certificate's own only"))
    if not keys:
        return None, faults or (_no_key(file, blocks),)
    key = _open_key(file, keys[0])
    return (None, (*faults, key)) if isinstance(key, Fault) else (key, faults)


def _no_key(file: str, blocks: Sequence[Block]) -> Fault:
    what = f"holds no private key, but a {blocks[0].label} block"
    return Fault(file, FaultKind.WRONG_BLOCK, what, "put the certificate's private key there")


def _open_key(file: str, block: Block) -> SupportedPrivateKey | Fault:
    headers = "".join(block.headers).upper()
    if block.label == _ENCRYPTED or "ENCRYPTED" in headers:
        return Fault(file, FaultKind.ENCRYPTED_KEY, "is encrypted", _DECRYPT)
    if block.label not in _KEY:
        return _unsupported(file, block.label)
    key = parse_key(block.der)
    if not isinstance(key, KeyRefusal):
        return key
    match key.kind:
        case FaultKind.ENCRYPTED_KEY:
            return Fault(file, FaultKind.ENCRYPTED_KEY, "is encrypted", _DECRYPT)
        case FaultKind.UNSUPPORTED_KEY:
            return _unsupported(file, key.algorithm)
    return _damaged(file, "the private key")


def _unsupported(file: str, kind: str) -> Fault:
    what = f"holds a private key of a kind that is not supported{f' ({kind})' if kind else ''}"
    remedy = "use RSA, ECDSA (P-256, P-384, P-521) or Ed25519, as PKCS#8, PKCS#1 or SEC1"
    return Fault(file, FaultKind.UNSUPPORTED_KEY, what, remedy)
