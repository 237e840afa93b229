"""The Console's own certificate authorities: minted, sealed into the store, shown as files."""

from console.pki.generated import VIEW_NAME, GeneratedSets
from console.pki.install import DEFENDER_TYPES, InstallBundle, Refused

__all__ = ["DEFENDER_TYPES", "VIEW_NAME", "GeneratedSets", "InstallBundle", "Refused"]
