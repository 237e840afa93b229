"""What a Defender is deployed with: its certificates as one text, and where its Console is. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Final

from common.bundle import Bundle, encode_bundle
from common.certificates import Names, parse_name
from common.product import DEFENDER_TYPES

SECRETS: Final = (
    "defender-ca.pem",
    "defender-client-cert.pem",
    "defender-client-key.pem",
    "admission-cert.pem",
    "admission-key.pem",
)
"""What of the view a Defender is given (the DaemonSet's Secret, product facts §7)."""


@dataclass(frozen=True, slots=True)
class InstallBundle:
    """shared.DefenderInstallBundle: the text that holds a key, and the Console's WebSocket address."""

    install_bundle: str = field(repr=False)
    ws_address: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Why there is no bundle for what was asked.

    Attributes:
        thing: What was asked wrongly.
        fault: What is wrong with it.
        remedy: What to do.
    """

    thing: str
    fault: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.thing}: {self.fault}; {self.remedy}"


def covers(names: Names, wanted: Names) -> bool:
    """Whether a certificate with `names` is good for the one name or address `wanted`.

    As a Defender will judge it (RFC 6125 §6.4): an address equals an address, a host name equals a host
    name, and `*` stands for exactly the first label.
    """
    if wanted.addresses:
        return wanted.addresses[0] in names.addresses
    name = wanted.dns[0]
    return name in names.dns or "*." + name.partition(".")[2] in names.dns


def install_bundle(
    files: Mapping[str, bytes], names: Names, *, address: str, port: int, defender_type: str
) -> InstallBundle | Refused:
    """The bundle for one kind of Defender that will dial the Console by `address`.

    Args:
        files: The view, by file name.
        names: What the certificate that Defenders see vouches for.
        address: A host name or an address, with or without brackets.
        port: COMMUNICATION_PORT.
        defender_type: One of DEFENDER_TYPES.
    """
    if defender_type not in DEFENDER_TYPES:
        return Refused(
            f"defender type {defender_type!r}",
            "there is none of that name",
            f"use {', '.join(DEFENDER_TYPES)}",
        )
    wanted = _dialled(address)
    if wanted is None:
        return Refused(f"address {address!r}", "is neither a host name nor an address", "give one of them")
    if not covers(names, wanted):
        return Refused(
            f"address {address!r}",
            f"the Console's certificate doesn't name it, so Defenders would refuse it; it names {names}",
            f"use one of these, or add {wanted} to CONSOLE_SAN and start the Console again",
        )
    bundle = Bundle({name: files[name] for name in SECRETS})
    return InstallBundle(encode_bundle(bundle), f"wss://{_host(wanted)}:{port}")


def _dialled(address: str) -> Names | None:
    """One name that can be dialled: a pattern can't."""
    try:
        name = parse_name(address)
    except ValueError:
        return None
    return None if any("*" in host for host in name.dns) else name


def _host(name: Names) -> str:
    if not name.addresses:
        return name.dns[0]
    address = name.addresses[0]
    return f"[{address}]" if isinstance(address, IPv6Address) else str(address)
