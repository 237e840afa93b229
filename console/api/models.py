"""Requests and responses, named as in api.json (release 34.04); fields that are ours are marked.

Requests refuse unknown fields (D16). Responses leave out what a Defender of ours doesn't have yet, which
api.json allows: it requires none.
"""

from datetime import UTC, datetime

import msgspec

from console.fleet.directory import Category, Listing, Tally


class AuthenticationRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`api.AuthenticationRequest`."""

    username: str = ""
    password: str = ""
    token: str = ""

    def __repr__(self) -> str:
        return f"AuthenticationRequest(username={self.username!r}, password=***, token=***)"


class AuthenticationResponse(msgspec.Struct, frozen=True, kw_only=True):
    """`api.AuthenticationResponse`."""

    token: str


class Features(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`defender.Features`: none of them is built yet."""

    cluster_monitoring: bool = False
    proxy_listener_type: str = "none"


class Status(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`defender.Status`: so far, when it last changed."""

    last_modified: datetime


class Defender(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`defender.Defender`, as far as it makes sense so far, and what tells Defenders apart (ours).

    Attributes:
        id: Ours: the ID that the store bound to the Defender's instance key. Host names are claims.
        address: Ours: where it connects from, or did last.
        connected_since: Ours: when its live session began; left out while it has none.
        certificate_expired: Ours: `certificateExpiration` is over.
        duplicate_hostname: Ours: another Defender claims the same host name.
        locked: Ours: it was revoked and is refused.
    """

    id: str
    hostname: str
    fqdn: str
    version: str
    type: str
    category: Category
    connected: bool
    last_modified: datetime
    certificate_expiration: datetime
    using_old_ca: bool = msgspec.field(name="usingOldCA")
    is_arm64: bool = msgspec.field(name="isARM64")
    compatible_version: bool
    features: Features
    status: Status
    address: str
    certificate_expired: bool
    duplicate_hostname: bool
    locked: bool
    connected_since: datetime | msgspec.UnsetType = msgspec.UNSET


class DefenderSummary(msgspec.Struct, frozen=True, kw_only=True):
    """`types.DefenderSummary`."""

    category: Category
    deployed: int
    connected: int
    licensed: int


class DefenderInstallBundle(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`shared.DefenderInstallBundle`. Holds a private key."""

    install_bundle: str
    ws_address: str

    def __repr__(self) -> str:
        return f"DefenderInstallBundle(install_bundle=***, ws_address={self.ws_address!r})"


class Error(msgspec.Struct, frozen=True):
    """What every refusal says (D14)."""

    err: str


def defender(listing: Listing) -> Defender:
    """A Defender as the API shows it."""
    record = listing.record
    return Defender(
        id=record.id,
        hostname=record.facts.hostname,
        fqdn=record.facts.fqdn,
        version=record.facts.version,
        type=record.facts.type,
        category=listing.category,
        connected=listing.connected,
        last_modified=to_second(record.last_modified),
        certificate_expiration=to_second(listing.certificate_expiration),
        using_old_ca=listing.using_old_ca,
        is_arm64=listing.arm64,
        compatible_version=listing.compatible,
        features=Features(),
        status=Status(last_modified=to_second(record.last_modified)),
        address=listing.address,
        certificate_expired=listing.certificate_expired,
        duplicate_hostname=listing.duplicate_hostname,
        locked=record.locked,
        connected_since=to_second(listing.since) if listing.since else msgspec.UNSET,
    )


def summary(category: Category, tally: Tally) -> DefenderSummary:
    """Counts of a category. A Defender is licensed once deployed, connected or not (product facts §15)."""
    return DefenderSummary(
        category=category, deployed=tally.deployed, connected=tally.connected, licensed=tally.deployed
    )


def to_second(time: datetime) -> datetime:
    """A time in UTC to the second: what an operator reads, and what every client's parser takes."""
    return time.astimezone(UTC).replace(microsecond=0)
