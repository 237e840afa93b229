"""A CA of the tests' own, and certificate sets signed by it, good ones and such as must be refused."""

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from common.certificates import (
    FILES,
    Authority,
    CertificateSet,
    FileSet,
    Issued,
    KeyAlgorithm,
    Role,
    Source,
    judge,
)
from common.certificates.names import names_of

LOCAL = names_of(("localhost",), (ip_address("127.0.0.1"),))
DAY = timedelta(days=1)


@dataclass
class PKI:
    """A Defender CA with what it signs.

    Attributes:
        now: The moment at which everything is issued.
        name: The CA's common name.
    """

    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    name: str = "Test CA"
    authority: Authority = field(init=False)

    def __post_init__(self) -> None:
        self.authority = Authority.create(self.name, now=self.now - 30 * DAY, algorithm=KeyAlgorithm.P256)

    def issue(self, role: Role, **more: object) -> Issued:
        """A leaf of the role, for localhost."""
        names = None if role is Role.DEFENDER_CLIENT else LOCAL
        return self.authority.issue(role, common_name="test", names=names, now=self.now, **more)  # type: ignore[arg-type]

    def files(self, role: Role, issued: Issued | None = None) -> dict[str, bytes]:
        """What an operator would copy for the role, by file name."""
        issued = issued or self.issue(role)
        files = FILES[role]
        bundle = {files.ca: self.authority.certificate_pem} if files.ca else {}
        return {**bundle, files.certificate: issued.chain, files.key: issued.key}

    def set(
        self, role: Role, issued: Issued | None = None, *, source: Source = Source.GENERATED
    ) -> CertificateSet:
        """A judged set of the role."""
        judgement = judge(FileSet.from_bytes(role, self.files(role, issued)), now=self.now, source=source)
        assert judgement.set is not None, judgement.faults
        return judgement.set

    def bare_client(self, issued: Issued | None, *, folder: str) -> ssl.SSLContext:
        """A client's context that shows anything at all, without our loader's judgement."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.authority.certificate_pem.decode())
        if issued is not None:
            chain, key = f"{folder}/chain.pem", f"{folder}/key.pem"
            with open(chain, "wb") as file:  # noqa: PTH123
                file.write(issued.chain)
            with open(key, "wb") as file:  # noqa: PTH123
                file.write(issued.key)
            context.load_cert_chain(chain, key)
        return context
