"""All that a Console makes for itself at its first start, and for each generation after it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from common.certificates.authority import LIFETIME, RSA_3072, Authority, Issued, KeyAlgorithm
from common.certificates.model import FILES, Role
from common.certificates.names import WEBHOOK_SERVICE, Names, webhook_names

CONSOLE_CA_FILE: Final = "ca.pem"
"""The Console CA's certificate in the view (product facts §1)."""


@dataclass(frozen=True, slots=True)
class MintOptions:
    """What a Console's certificates say.

    Attributes:
        console_cn: CONSOLE_CN: the common name of what the Console shows.
        defender_cn: DEFENDER_CN: the common name of what the Defenders show.
        names: The Console's names, as `names_for` makes them.
        namespace: The Kubernetes namespace of the admission webhook.
        generation: The n-th Defender CA.
        algorithm: Of the CAs' keys.
        lifetime: Of CAs and leaves.
    """

    console_cn: str
    defender_cn: str
    names: Names
    namespace: str = "twistlock"
    generation: int = 1
    algorithm: KeyAlgorithm = RSA_3072
    lifetime: timedelta = LIFETIME


@dataclass(frozen=True, slots=True)
class DefenderMaterial:
    """A generation of the Defender channel: its CA and the three leaves."""

    authority: Authority
    server: Issued
    client: Issued
    admission: Issued

    @property
    def files(self) -> Mapping[str, bytes]:
        """Name → PEM, as in the view: all but the CA's key."""
        files = {"defender-ca.pem": self.authority.certificate_pem}
        for role, issued in (
            (Role.DEFENDER_SERVER, self.server),
            (Role.DEFENDER_CLIENT, self.client),
            (Role.ADMISSION_SERVER, self.admission),
        ):
            files |= _pair(role, issued)
        return files


@dataclass(frozen=True, slots=True)
class ConsoleMaterial:
    """The Console CA and the certificate of web UI and API."""

    authority: Authority
    web: Issued

    @property
    def files(self) -> Mapping[str, bytes]:
        """Name → PEM, as in the view: all but the CA's key."""
        return {CONSOLE_CA_FILE: self.authority.certificate_pem, **_pair(Role.HTTPS_SERVER, self.web)}


@dataclass(frozen=True, slots=True)
class Minted:
    """Both."""

    defender: DefenderMaterial
    console: ConsoleMaterial

    @property
    def files(self) -> Mapping[str, bytes]:
        """Name → PEM of the whole view."""
        return {**self.defender.files, **self.console.files}


def mint(now: datetime, options: MintOptions) -> Minted:
    """The first generation: both CAs and all leaves."""
    return Minted(mint_defender(now, options), mint_console(now, options))


def mint_defender(now: datetime, options: MintOptions) -> DefenderMaterial:
    """A generation of the Defender channel, all of it with one moment of issue."""
    authority = Authority.create(
        "Garrison Defender CA",
        now=now,
        lifetime=options.lifetime,
        algorithm=options.algorithm,
        generation=options.generation,
    )

    def issue(role: Role, common_name: str, names: Names | None) -> Issued:
        return authority.issue(role, common_name=common_name, names=names, now=now, lifetime=options.lifetime)

    return DefenderMaterial(
        authority,
        server=issue(Role.DEFENDER_SERVER, options.console_cn, options.names),
        # No names: nobody looks a Defender up, and with names it could be taken for a server.
        client=issue(Role.DEFENDER_CLIENT, options.defender_cn, None),
        admission=issue(Role.ADMISSION_SERVER, WEBHOOK_SERVICE, webhook_names(options.namespace)),
    )


def mint_console(now: datetime, options: MintOptions) -> ConsoleMaterial:
    """The Console CA with the web certificate."""
    authority = Authority.create(
        "Garrison Console CA", now=now, lifetime=options.lifetime, algorithm=options.algorithm
    )
    web = authority.issue(
        Role.HTTPS_SERVER,
        common_name=options.console_cn,
        names=options.names,
        now=now,
        lifetime=options.lifetime,
    )
    return ConsoleMaterial(authority, web)


def _pair(role: Role, issued: Issued) -> dict[str, bytes]:
    return {FILES[role].certificate: issued.chain, FILES[role].key: issued.key}
