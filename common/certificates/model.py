"""Certificate sets and what can be wrong with them: values, without I/O."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from common.certificates.names import Names

CLIENT_AUTH: Final = "1.3.6.1.5.5.7.3.2"
SERVER_AUTH: Final = "1.3.6.1.5.5.7.3.1"


class Role(StrEnum):
    """What a set is for: one side of a channel."""

    HTTPS_SERVER = "https-server"
    DEFENDER_SERVER = "defender-server"
    DEFENDER_CLIENT = "defender-client"
    ADMISSION_SERVER = "admission-server"

    @property
    def purpose(self) -> str:
        """The extended key usage that its leaf must have (RFC 5280 §4.2.1.12)."""
        return CLIENT_AUTH if self is Role.DEFENDER_CLIENT else SERVER_AUTH

    @property
    def is_server(self) -> bool:
        """Whether its leaf is looked up by name, so that it needs names."""
        return self is not Role.DEFENDER_CLIENT


class Source(StrEnum):
    """Where a set came from; the directory wins over the others."""

    GENERATED = "generated"
    UPLOADED = "uploaded"
    CUSTOM = "custom"


@dataclass(frozen=True, slots=True)
class SetFiles:
    """The file names of a set.

    Attributes:
        ca: The CAs whose peers are trusted; None where the channel asks for no certificate of its peer.
        certificate: The leaf and its intermediates.
        key: The leaf's private key.
    """

    ca: str | None
    certificate: str
    key: str

    @property
    def all(self) -> tuple[str, ...]:
        """Every name, the bundle first."""
        return (*((self.ca,) if self.ca else ()), self.certificate, self.key)


# Product facts §1.
FILES: Final[Mapping[Role, SetFiles]] = MappingProxyType(
    {
        Role.HTTPS_SERVER: SetFiles(None, "console-cert.pem", "console-key.pem"),
        Role.DEFENDER_SERVER: SetFiles(
            "defender-ca.pem", "defender-server-cert.pem", "defender-server-key.pem"
        ),
        Role.DEFENDER_CLIENT: SetFiles(
            "defender-ca.pem", "defender-client-cert.pem", "defender-client-key.pem"
        ),
        Role.ADMISSION_SERVER: SetFiles("defender-ca.pem", "admission-cert.pem", "admission-key.pem"),
    }
)


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate, as far as anything here asks about it.

    Attributes:
        der: Its encoding.
        subject: Its name, RFC 4514.
        issuer: Its issuer's name, RFC 4514.
        serial: Its serial number.
        names: The DNS names and addresses of its subject alternative name.
        not_before: First instant of its validity, UTC.
        not_after: Last instant of its validity, UTC.
        fingerprint: SHA-256 of `der`, hex.
        algorithm: Its key, such as `ECDSA P-256`.
        key_fingerprint: SHA-256 of its SubjectPublicKeyInfo, hex; empty for a kind of key that is not
            supported.
        is_ca: Its basic constraints say that it is a CA.
        path_length: How many CAs may stand between it and a leaf; None for any number.
        key_usage: RFC 5280 names of its key usages; None if it doesn't restrict them.
        purposes: Dotted identifiers of its extended key usages; None if it doesn't restrict them.
        self_signed: Its own key made its signature.
        ski: Its subject key identifier, hex.
        aki: Its issuer's key identifier, hex.
    """

    der: bytes = field(repr=False)
    subject: str
    issuer: str
    serial: int
    names: Names
    not_before: datetime
    not_after: datetime
    fingerprint: str
    algorithm: str
    key_fingerprint: str
    is_ca: bool
    path_length: int | None
    key_usage: frozenset[str] | None
    purposes: frozenset[str] | None
    self_signed: bool
    ski: str | None
    aki: str | None

    def valid_at(self, now: datetime) -> bool:
        """Whether OpenSSL takes it at `now`: from `not_before` on, until before `not_after`.

        RFC 5280 §4.1.2.5 counts the last second in; X509_cmp_time does not, and it is OpenSSL that decides.
        """
        return self.not_before <= now < self.not_after


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A private key, which no repr shows.

    Attributes:
        pem: PKCS#8, not encrypted.
        algorithm: Such as `RSA 3072`.
        fingerprint: SHA-256 of its SubjectPublicKeyInfo, hex: equal to its certificate's `key_fingerprint`.
    """

    pem: bytes = field(repr=False)
    algorithm: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class CertificateSet:
    """All that one side of a channel needs, judged as a whole.

    Attributes:
        role: The side it is for.
        source: Where it came from.
        chain: What is sent: the leaf, its issuer, and so on.
        anchors: The CAs whose peers are trusted; empty where no certificate is asked for.
        path: The way from the leaf to what was found trusted: part of `chain`, then an anchor.
        key: The leaf's.
    """

    role: Role
    source: Source
    chain: tuple[Certificate, ...]
    anchors: tuple[Certificate, ...]
    path: tuple[Certificate, ...] = field(repr=False)
    key: PrivateKey

    @property
    def leaf(self) -> Certificate:
        """The certificate that names this side."""
        return self.chain[0]

    @property
    def names(self) -> Names:
        """The leaf's names."""
        return self.leaf.names

    @property
    def not_before(self) -> datetime:
        """From when on all of `path` is valid."""
        return max(certificate.not_before for certificate in self.path)

    @property
    def not_after(self) -> datetime:
        """Until when all of `path` is valid."""
        return min(certificate.not_after for certificate in self.path)

    @property
    def fingerprint(self) -> str:
        """SHA-256, hex, over role, chain and bundle, in whatever form and order the files had them.

        The leaf stands for its key. The source doesn't count: the same set from elsewhere needs no swap.
        """
        parts = [
            self.role.value,
            *(certificate.fingerprint for certificate in self.chain),
            "anchors",
            *sorted(certificate.fingerprint for certificate in self.anchors),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class Severity(StrEnum):
    """Whether a set with this fault may be used."""

    ERROR = "error"
    WARNING = "warning"


class FaultKind(StrEnum):
    """What is wrong, by name: for metrics, tests and API answers."""

    # The file
    MISSING = "missing"
    UNREADABLE = "unreadable"
    NOT_A_FILE = "not-a-file"
    TOO_LARGE = "too-large"
    CHANGING = "changing"
    EXPOSED_KEY = "exposed-key"
    # Its form
    EMPTY = "empty"
    NOT_PEM = "not-pem"
    DER = "der"
    TRUNCATED = "truncated"
    MALFORMED = "malformed"
    WRONG_BLOCK = "wrong-block"
    ENCRYPTED_KEY = "encrypted-key"
    SEVERAL_KEYS = "several-keys"
    TOO_MANY = "too-many"
    DUPLICATE = "duplicate"
    # What it holds
    UNSUPPORTED_KEY = "unsupported-key"
    WEAK_KEY = "weak-key"
    WEAK_SIGNATURE = "weak-signature"
    UNKNOWN_EXTENSION = "unknown-extension"
    KEY_MISMATCH = "key-mismatch"
    LEAF_IS_CA = "leaf-is-ca"
    NOT_A_CA = "not-a-ca"
    CA_CANNOT_SIGN = "ca-cannot-sign"
    WRONG_PURPOSE = "wrong-purpose"
    NO_NAME = "no-name"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    # How it hangs together
    UNTRUSTED = "untrusted"
    BAD_SIGNATURE = "bad-signature"
    AMBIGUOUS_ISSUER = "ambiguous-issuer"
    PATH_TOO_LONG = "path-too-long"
    NAME_CONSTRAINT = "name-constraint"
    UNRELATED = "unrelated"
    TWO_FACED = "two-faced"
    # Not the set's own
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a set.

    Attributes:
        file: The file that shows it, by its plain name; the directory's path where that can't be read.
        kind: What is wrong, by name.
        what: What is wrong, as a sentence's end: `<file>: <what>`.
        remedy: What to do about it.
        severity: Whether the set may be used all the same.
    """

    file: str
    kind: FaultKind
    what: str
    remedy: str
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        return f"{self.file}: {self.what}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A set, or why there is none.

    Attributes:
        set: The set, if it may be used.
        faults: All that is wrong, in the order of the files; with a set, warnings only.
    """

    set: CertificateSet | None
    faults: tuple[Fault, ...] = ()

    @property
    def errors(self) -> tuple[Fault, ...]:
        """What keeps the set from being used."""
        return tuple(fault for fault in self.faults if fault.severity is Severity.ERROR)

    @property
    def warnings(self) -> tuple[Fault, ...]:
        """What an operator should mend, though the set is used."""
        return tuple(fault for fault in self.faults if fault.severity is Severity.WARNING)
