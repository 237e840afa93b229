"""Sets to swap between, and what a drain says and counts."""

from dataclasses import replace

import pytest

from common.certificates import CertificateSet, Role, Source
from console.fleet.draining import Counts
from console.fleet.fleet import Fleet
from tests.console.fleet.moving import mixed
from tests.peers import Peer
from tests.pki import PKI

OLD, NEW = PKI(name="Old CA"), PKI(name="New CA")
# Issued once: what a swap is made of is what differs between tests, not keys.
SERVER, CLIENT = Role.DEFENDER_SERVER, Role.DEFENDER_CLIENT
A, B, C = (mixed(SERVER, OLD) for _ in range(3))
WIDE = mixed(SERVER, NEW, NEW, OLD)
"""The new CA's server, which still takes the old CA's Defenders."""
NARROW = mixed(SERVER, NEW)
"""It takes them no more."""
OF_OLD = mixed(CLIENT, OLD, OLD, NEW)
OF_NEW = mixed(CLIENT, NEW, OLD, NEW)


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What the drain logged."""
    return [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "console.fleet.drain"]


def counts(fleet: Fleet) -> Counts:
    return fleet._drain._tally.counts


async def idle(fleet: Fleet, certificates: CertificateSet = OF_OLD, **more: object) -> Peer:
    """A Defender that is welcomed and does nothing that it is asked for."""
    peer = Peer(**more)  # type: ignore[arg-type]
    await peer.connect(fleet.port, certificates)
    await peer.welcomed()
    return peer


def presented(peer: Peer | None) -> bytes:
    assert peer is not None
    assert peer.connection is not None
    der: bytes = peer.connection.transport.get_extra_info("peer_chain")[0]
    return der


def from_source(certificates: CertificateSet, source: Source) -> CertificateSet:
    """The same set, from elsewhere."""
    return replace(certificates, source=source)
