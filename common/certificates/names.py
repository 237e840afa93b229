"""The names that a certificate vouches for: DNS names and IP addresses, and where they come from."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

IPAddress = IPv4Address | IPv6Address

MAX_NAME: Final = 253
"""Characters of a DNS name (RFC 1035 §2.3.4, less the root's dot)."""

WEBHOOK_SERVICE: Final = "defender"
"""The Kubernetes service that the API server calls for admission (product facts §6)."""

# Underscores are outside RFC 952, and containers and Windows hosts are called so all the same.
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME: Final = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_ALL_DIGITS: Final = re.compile(r"[0-9.]+")
_SEPARATORS: Final = re.compile(r"[\s,]+")


@dataclass(frozen=True, slots=True)
class Names:
    """DNS names and addresses, each once, in the order in which they were given.

    Attributes:
        dns: Host names in ASCII (A-labels) and lower case; the first label may be `*`.
        addresses: IP addresses.
    """

    dns: tuple[str, ...] = ()
    addresses: tuple[IPAddress, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.dns or self.addresses)

    def __iter__(self) -> Iterator[str]:
        """Each as `DNS:name` or `IP:address`, the form of CONSOLE_SAN (product facts §2)."""
        yield from (f"DNS:{name}" for name in self.dns)
        yield from (f"IP:{address}" for address in self.addresses)

    def __str__(self) -> str:
        return ", ".join(self)

    def __or__(self, other: "Names") -> "Names":
        return names_of((*self.dns, *other.dns), (*self.addresses, *other.addresses))


def names_of(dns: Iterable[str] = (), addresses: Iterable[IPAddress] = ()) -> Names:
    """Names without repetitions, in the order given."""
    return Names(tuple(dict.fromkeys(dns)), tuple(dict.fromkeys(addresses)))


def parse_dns_name(text: str) -> str:
    """A host name in ASCII and lower case; a name in another script becomes its A-labels.

    Raises:
        ValueError: with what is wrong with it.
    """
    name = text.strip().rstrip(".")
    if not name.isascii():
        try:
            name = name.encode("idna").decode()
        except UnicodeError:
            raise ValueError(f"{text!r} is no host name") from None
    if len(name) > MAX_NAME or not _DNS_NAME.fullmatch(name) or _ALL_DIGITS.fullmatch(name):
        raise ValueError(f"{text!r} is no host name")
    return name.lower()


def parse_name(text: str) -> Names:
    """One name, an address where it reads as one.

    Raises:
        ValueError: if it is neither a host name nor an address.
    """
    try:
        return Names(addresses=(_address(text),))
    except ValueError:
        return Names(dns=(parse_dns_name(text),))


def parse_san(text: str) -> Names:
    """The list of CONSOLE_SAN: `DNS:name` and `IP:address`, separated by spaces or commas.

    Raises:
        ValueError: naming every item that is neither.
    """
    names, faults = Names(), []
    for item in filter(None, _SEPARATORS.split(text)):
        kind, _, value = item.partition(":")
        try:
            names |= _parse_item(kind.upper(), value)
        except ValueError:
            faults.append(item)
    if faults:
        raise ValueError(f"{', '.join(faults)}: write each as DNS:name or IP:address")
    return names


def _parse_item(kind: str, value: str) -> Names:
    match kind:
        case "DNS":
            return Names(dns=(parse_dns_name(value),))
        case "IP":
            return Names(addresses=(_address(value),))
    raise ValueError


def _address(text: str) -> IPAddress:
    """An address; a zone (`%eth0`) means nothing in a certificate, which has no place for it."""
    address = ip_address(text.strip().removeprefix("[").removesuffix("]"))
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise ValueError(f"{text!r} has a zone")
    return address


def names_for(
    common_name: str, hostname: str = "", addresses: Iterable[IPAddress] = (), extra: Names | None = None
) -> Names:
    """The names of a certificate that the Console makes for itself.

    The common name comes first: as an address where it is one (an address in the DNS part matches nothing,
    RFC 6125 §6.4), and not at all where it is neither. `localhost` is always there, since the first thing
    one does on a new Console's host is to open it.

    Args:
        common_name: CONSOLE_CN.
        hostname: What the host calls itself.
        addresses: The host's own.
        extra: CONSOLE_SAN.
    """
    names = Names()
    for text in (common_name, hostname):
        try:
            names |= parse_name(text)
        except ValueError:
            continue
    return names | names_of(("localhost",), addresses) | (extra or Names())


def webhook_names(namespace: str) -> Names:
    """Every name under which a Kubernetes API server calls the admission webhook, and no other.

    All Defenders hold this certificate's key. With a name of the Console in it, each of them could pass for
    the Console.

    Raises:
        ValueError: if the namespace is no DNS label.
    """
    if "." in namespace or "*" in namespace:
        raise ValueError(f"{namespace!r} is no namespace")
    base = f"{WEBHOOK_SERVICE}.{parse_dns_name(namespace)}"
    return Names(dns=(WEBHOOK_SERVICE, base, f"{base}.svc", f"{base}.svc.cluster.local"))
