"""What the handlers stand on: services that know nothing of HTTP."""

from dataclasses import dataclass
from typing import Protocol

from common.clock import Clock
from console.fleet.directory import DefenderDirectory, LiveFleet
from console.identity import IdentityService
from console.pki import InstallBundle, Refused


class Certificates(Protocol):
    """What the API serves of the Console's certificates."""

    def ca_pem(self) -> bytes:
        """The certificate of the CA that signs the Console's web certificate; never a key."""
        ...

    def install_bundle(self, address: str, defender_type: str) -> InstallBundle | Refused:
        """A bundle for a Defender that dials `address`, or why there is none. Holds a private key."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything that a request may need.

    Attributes:
        identity: Who it is.
        directory: The Defenders.
        certificates: Public certificates and install bundles.
        live: The connected Defenders, for pages that follow them.
        clock: The host's clocks.
    """

    identity: IdentityService
    directory: DefenderDirectory
    certificates: Certificates
    live: LiveFleet
    clock: Clock
