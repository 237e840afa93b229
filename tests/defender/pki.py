"""The certificates of a Console and of its Defenders, made for a test."""

import os
import random
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from common.bundle import Bundle, encode_bundle
from common.certificates import (
    FILES,
    P256,
    Authority,
    FileSet,
    Issued,
    Role,
    Source,
    judge_files,
    parse_san,
    server_context,
)
from defender.credentials import Credentials

DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Pki:
    """A CA with what it issued to a Console and to a Defender."""

    authority: Authority
    server: Issued
    client: Issued

    @classmethod
    def create(
        cls,
        *,
        san: str = "DNS:localhost IP:127.0.0.1",
        server_ends: timedelta = 30 * DAY,
        client_ends: timedelta = 30 * DAY,
        server_role: Role = Role.DEFENDER_SERVER,
        client_role: Role = Role.DEFENDER_CLIENT,
        authority: Authority | None = None,
        client_authority: Authority | None = None,
    ) -> "Pki":
        now = datetime.now(UTC)
        authority = authority or Authority.create("Test CA", now=now - 5 * DAY, algorithm=P256)

        def issue(by: Authority, role: Role, ends: timedelta) -> Issued:
            # Issued in the past, so that an end may lie there, too; validity begins a day before.
            return by.issue(
                role,
                common_name="test",
                names=parse_san(san),
                now=now - 3 * DAY,
                lifetime=3 * DAY + ends,
            )

        server = issue(authority, server_role, server_ends)
        return cls(authority, server, issue(client_authority or authority, client_role, client_ends))

    def reissued(self) -> "Pki":
        """The same CA, with new certificates and keys for both."""
        return Pki.create(authority=self.authority)

    def credentials(self, source: Source = Source.GENERATED, place: str = "the test") -> Credentials:
        """What a Defender makes of its files."""
        files = FileSet.from_bytes(Role.DEFENDER_CLIENT, self.defender_files())
        judgement = judge_files(files, now=datetime.now(UTC), source=source)
        assert judgement.set is not None, judgement.faults
        return Credentials.of(judgement.set, place)

    def defender_files(self, trust: Authority | None = None) -> Mapping[str, bytes]:
        names = FILES[Role.DEFENDER_CLIENT]
        anchors = (trust or self.authority).certificate_pem
        if self.client.certificate.aki != self.authority.certificate.ski:
            # The loader wants our own chain to end in our own bundle.
            anchors += self.authority.certificate_pem
        return {
            names.ca or "": anchors,
            names.certificate: self.client.chain,
            names.key: self.client.key,
        }

    def deploy(self, data_folder: Path, extra_trust: bytes = b"") -> None:
        """Put the Defender's files where it looks for them."""
        folder = data_folder / "certificates"
        folder.mkdir(parents=True, exist_ok=True)
        for name, pem in self.defender_files().items():
            path = folder / name
            path.write_bytes(pem + (extra_trust if name == "defender-ca.pem" else b""))
            path.chmod(0o600)

    def copy_custom(self, data_folder: Path, *names: str) -> Path:
        """Put files of the Defender's, or all, into its directory of custom certificates, as `mv` does."""
        folder = data_folder / "custom-certificates"
        folder.mkdir(parents=True, exist_ok=True)
        for name, pem in self.defender_files().items():
            if not names or name in names:
                beside = data_folder / name
                beside.write_bytes(pem)
                beside.chmod(0o600)
                beside.replace(folder / name)
        return folder

    def bundle(self) -> str:
        return encode_bundle(Bundle(self.defender_files()))

    def server_files(self) -> dict[str, bytes]:
        names = FILES[Role.DEFENDER_SERVER]
        return {
            names.ca or "": self.authority.certificate_pem,
            names.certificate: self.server.chain,
            names.key: self.server.key,
        }

    def context(self) -> ssl.SSLContext:
        """The listener's; one that our own judgement would refuse is built by hand."""
        files = FileSet.from_bytes(Role.DEFENDER_SERVER, self.server_files())
        judgement = judge_files(files, now=datetime.now(UTC), source=Source.GENERATED)
        if judgement.set is not None:
            return server_context(judgement.set)
        return self.bare_context()

    def bare_context(self, *, mutual: bool = True) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        path = f"/dev/shm/garrison-test-{os.getpid()}-{random.randrange(2**60)}.pem"
        Path(path).touch(0o600)
        Path(path).write_bytes(self.server.chain + self.server.key)
        try:
            context.load_cert_chain(path)
        finally:
            Path(path).unlink()
        context.num_tickets = 0
        if mutual:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=self.authority.certificate_pem.decode())
        return context
