"""What this host calls itself, for the names of the certificates that it makes."""

import contextlib
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final

from common.certificates.names import IPAddress

MAX_ADDRESSES: Final = 64
"""Addresses taken: a Kubernetes node with IPVS has one for each service, thousands."""

_RTM_NEWADDR: Final = 20
_RTM_GETADDR: Final = 22
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_DUMP_REQUEST: Final = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_F_TEMPORARY: Final = 0x01  # IPv6 privacy addresses, which last a day


def local_fqdn() -> str:
    """What `hostname --fqdn` prints: the resolver's canonical name of the host's name, else that name."""
    name = socket.gethostname()
    try:
        found = socket.getaddrinfo(name, None, flags=socket.AI_CANONNAME)
    except OSError:
        return name
    return found[0][3] or name


def local_addresses() -> tuple[IPAddress, ...]:
    """The host's addresses, loopback first, without those that no other host can use as they are.

    Asked of the kernel (rtnetlink), since the resolver often knows only 127.0.1.1. Where there is no such
    socket, loopback alone.
    """
    found = dict.fromkeys((ip_address("127.0.0.1"), ip_address("::1")))
    with contextlib.suppress(OSError):  # a sandbox without netlink
        found |= dict.fromkeys(address for address in _kernel_addresses() if _useful(address))
    return tuple(found)[:MAX_ADDRESSES]


def _useful(address: IPAddress) -> bool:
    return not (address.is_link_local or address.is_unspecified or address.is_multicast)


def _kernel_addresses() -> Iterator[IPAddress]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as link:
        link.settimeout(1)  # the kernel answers at once or never
        # struct nlmsghdr, then struct ifaddrmsg of any family
        link.send(struct.pack("=IHHII", 24, _RTM_GETADDR, _DUMP_REQUEST, 1, 0) + bytes(8))
        while True:
            for kind, body in _parts(link.recv(1 << 16), "=IHHII"):
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    return
                if kind == _RTM_NEWADDR:
                    yield from _address_of(body)


def _address_of(body: bytes) -> Iterator[IPAddress]:
    """Of a point-to-point link IFA_ADDRESS is the other end, IFA_LOCAL this one."""
    if body[2] & _IFA_F_TEMPORARY:
        return
    attributes = dict(_parts(body[8:], "=HH"))
    packed = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS))
    if packed is not None:
        yield ip_address(packed)


def _parts(data: bytes, header: str) -> Iterator[tuple[int, bytes]]:
    """Netlink's messages and attributes: a header with length and kind, aligned to four bytes."""
    size, offset = struct.calcsize(header), 0
    while offset + size <= len(data):
        fields = struct.unpack_from(header, data, offset)
        length, kind = fields[0], fields[1]
        if length < size:
            return
        yield kind, data[offset + size : offset + length]
        offset += (length + 3) & ~3
