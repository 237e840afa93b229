"""The certificate set that the Defender presents and trusts, and where it comes from.

The Console's own: from INSTALL_BUNDLE if it carries certificates, else from `<DATA_FOLDER>/certificates` (a
mounted Secret, or what a deployment copied there). A DaemonSet's bundle carries none: there the Secret does.
A set that the operator put into the directory of custom certificates wins over both; the watcher brings it.
"""

import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from common.bundle import decode_bundle
from common.certificates import (
    CertificateSet,
    Fault,
    FaultKind,
    FileSet,
    Judgement,
    Role,
    Source,
    client_context,
    judge_files,
    read_files,
)
from common.errors import CertificateSetError, ExpiredError, NoCertificatesError
from common.protocol import HeldSet

log = logging.getLogger(__name__)

CHANNEL: Final = "defender-client"
"""The channel's name in events and claims."""
FOLDER: Final = "certificates"

_TLS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@dataclass(frozen=True, slots=True, eq=False)
class Credentials:
    """A set that was judged good, and the TLS context made of it.

    Attributes:
        set: The set.
        context: For connections to the Console; never changed.
        place: Where it was found, as a message calls it.
    """

    set: CertificateSet
    context: ssl.SSLContext = field(repr=False)
    place: str

    @classmethod
    def of(cls, set_: CertificateSet, place: object, *, tls_minimum: str = "1.3") -> "Credentials":
        """Make a set's context.

        Args:
            set_: Of the role DEFENDER_CLIENT.
            place: Where it was found.
            tls_minimum: `1.3` or `1.2`.

        Raises:
            CertificateSetError: if OpenSSL refuses what the loader passed.
        """
        return cls(set_, client_context(set_, minimum=_TLS[tls_minimum]), str(place))

    def same(self, other: "Credentials") -> bool:
        """Whether the other set is this one, wherever it was found."""
        return self is other or self.set.fingerprint == other.set.fingerprint

    def held(self, *, proved: bool) -> HeldSet:
        """What the Console is told of it.

        Args:
            proved: Whether a Welcome was received over it.
        """
        leaf, source = self.set.leaf.fingerprint, self.set.source.value
        return HeldSet(CHANNEL, leaf, self.set.not_after, source, proved=proved)


class CredentialSource:
    """Where the set comes from.

    Args:
        install_bundle: INSTALL_BUNDLE, or an empty text.
        data_folder: Where to look without one.
        tls_minimum: `1.3` or `1.2`.

    Raises:
        BundleError: if the bundle cannot be read.
    """

    def __init__(self, install_bundle: str, data_folder: Path, *, tls_minimum: str = "1.3") -> None:
        secrets = decode_bundle(install_bundle).secrets if install_bundle else {}
        self._given = FileSet.from_bytes(Role.DEFENDER_CLIENT, secrets) if secrets else None
        self._directory = data_folder / FOLDER
        self._minimum = tls_minimum
        self._seen = ""  # the fingerprint of what was used last
        self._told = ""  # and of what was refused last

    @property
    def place(self) -> str:
        """What to call it in a message."""
        return "INSTALL_BUNDLE" if self._given else str(self._directory)

    def load(self, now: datetime) -> Credentials:
        """The set as it is now.

        Raises:
            NoCertificatesError: if there is none.
            ExpiredError: if it would do, but for its dates.
            CertificateSetError: if it must not be used, with every fault.
        """
        files = self._files()
        self._seen = files.fingerprint
        if files.absent:
            raise NoCertificatesError(
                self.place,
                "holds no certificates for this Defender",
                "get an install bundle (garrison console install-bundle --address HOST on the Console's "
                "host, or GET /api/v1/defenders/install-bundle?consoleaddr=HOST) and start with "
                "INSTALL_BUNDLE set to it",
            )
        judgement = judge_files(files, now=now, source=Source.GENERATED)
        for warning in judgement.warnings:
            log.warning("%s: %s", self.place, warning)
        return self._credentials(judgement)

    def reload(self, now: datetime) -> Credentials | Sequence[str] | None:
        """The set again, if its files have changed: a deployment may have brought others.

        A set that can't be used is judged at each call (it may be valid later, or the host has had a trouble
        of its own), but its faults are returned once.

        Returns:
            The new credentials, or what is wrong with them, or None if there is nothing new.
        """
        if self._given is not None:
            return None
        files = self._files()
        if files.missing:
            return None
        if files.fingerprint == self._seen:
            self._told = ""
            return None
        try:
            found = self._credentials(judge_files(files, now=now, source=Source.GENERATED))
        except CertificateSetError as error:
            told, self._told = self._told, files.fingerprint
            return None if told == self._told else [str(fault) for fault in error.faults]
        self._seen, self._told = files.fingerprint, ""
        return found

    def _files(self) -> FileSet:
        return self._given or read_files(self._directory, Role.DEFENDER_CLIENT)

    def _credentials(self, judgement: Judgement) -> Credentials:
        if judgement.set is None:
            kind = ExpiredError if _only_dates(judgement.errors) else CertificateSetError
            raise kind(f"certificates of {self.place}", judgement.faults)
        return Credentials.of(judgement.set, self.place, tls_minimum=self._minimum)


def _only_dates(faults: Sequence[Fault]) -> bool:
    return all(fault.kind in (FaultKind.EXPIRED, FaultKind.NOT_YET_VALID) for fault in faults)
