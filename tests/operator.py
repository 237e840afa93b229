"""An operator at the directory of custom certificates, and what ports present then."""

import asyncio
import hashlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.certificates import FILES, CertificateSet, FileSet, Role, Source, judge
from tests.pki import PKI

PATIENCE = 30.0


@dataclass
class Operator:
    """Somebody with a CA and a directory.

    Attributes:
        directory: What the processes watch.
        pki: The operator's own CA.
    """

    directory: Path
    pki: PKI = field(default_factory=lambda: PKI(name="Operator's CA"), repr=False)

    def copy(self, files: Mapping[str, bytes], *, to: Path | None = None) -> None:
        """Copy files in place, one after the other, as `cp` does."""
        directory = to or self.directory
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            path = directory / name
            path.write_bytes(data)
            path.chmod(0o600)

    def move(self, files: Mapping[str, bytes]) -> None:
        """Write files beside and rename each over its place, as `install` or a careful script does."""
        for name, data in files.items():
            beside = self.directory.parent / f".{name}.new"
            beside.write_bytes(data)
            beside.chmod(0o600)
            beside.replace(self.directory / name)

    def renew(self, role: Role) -> CertificateSet:
        """Put a new set of the role in place, of the present CA; returns it as its process will judge it."""
        files = self.pki.files(role)
        self.move(files)
        return self.judged(role, files)

    def judged(self, role: Role, files: Mapping[str, bytes]) -> CertificateSet:
        """What the loader makes of these files."""
        found = judge(FileSet.from_bytes(role, files), now=self.pki.now, source=Source.CUSTOM)
        assert found.set is not None, found.faults
        return found.set

    def remove(self, role: Role, *names: str) -> None:
        """Remove files of a role, all of them by default."""
        for name in names or FILES[role].all:
            (self.directory / name).unlink(missing_ok=True)


async def presented(port: int) -> str:
    """SHA-256 of the leaf that a port answers with, hex; no certificate of ours is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with asyncio.timeout(PATIENCE):
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return hashlib.sha256(der).hexdigest()
