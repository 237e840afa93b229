"""The Console's own certificate authorities: minted, sealed into the store, shown as files."""

from console.pki.active import ActiveSets
from console.pki.generated import VIEW_NAME, GeneratedSets
from console.pki.install import InstallBundle, Refused

__all__ = ["VIEW_NAME", "ActiveSets", "GeneratedSets", "InstallBundle", "Refused"]
