"""The Console's own certificate authorities: minted, sealed into the store, shown as files."""

from console.pki.generated import VIEW_NAME, GeneratedSets
from console.pki.install import InstallBundle, Refused

__all__ = ["VIEW_NAME", "GeneratedSets", "InstallBundle", "Refused"]
