"""Small questions and orders to a TCP socket."""

import asyncio
import errno
import fcntl
import ipaddress
import socket
import sys
import termios
from collections.abc import Callable, Iterable
from typing import Any, Final

from common.errors import ListenError

DISCARD: Final = 65536

_REMEDIES: Final = {
    errno.EADDRINUSE: "stop what listens there, or choose another port",
    errno.EACCES: "choose a port above 1023, or grant CAP_NET_BIND_SERVICE",
    errno.EADDRNOTAVAIL: "choose an address of this host",
}


def has_ended(sock: socket.socket) -> bool:
    """Whether the peer has ended its sending side or is gone: what is not there by now will not come.

    The first octet of Linux's `struct tcp_info` is the connection's state. A peek cannot tell: it shows the
    octets that came before the end, for ever.
    """
    try:
        state: bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    except OSError:
        return True
    # ESTABLISHED is 1; FIN_WAIT1 (4) and FIN_WAIT2 (5) are ours to cause.
    return state not in (b"\x01", b"\x04", b"\x05")


def octets_waiting(fd: int) -> int:
    """What has arrived on a socket and is not read yet; as FIONREAD (tcp(7)) it disturbs nothing."""
    try:
        return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def is_edge_triggered(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this loop may report a socket's last octets only once.

    uvloop does where an error came with them (a reset): libuv stops polling then, uvloop runs the callback
    once more and closes its handle. What was not read by then is never reported.
    """
    return type(loop).__module__.partition(".")[0] == "uvloop"


def watch_reader(
    loop: asyncio.AbstractEventLoop, fd: int, callback: Callable[..., object], *args: object
) -> None:
    """`loop.add_reader`, also after uvloop has closed its handle for `fd` (see `is_edge_triggered`)."""
    try:
        loop.add_reader(fd, callback, *args)
    except RuntimeError:
        loop.remove_reader(fd)
        loop.add_reader(fd, callback, *args)


def watch_writer(
    loop: asyncio.AbstractEventLoop, fd: int, callback: Callable[..., object], *args: object
) -> None:
    """`loop.add_writer`, likewise."""
    try:
        loop.add_writer(fd, callback, *args)
    except RuntimeError:
        loop.remove_writer(fd)
        loop.add_writer(fd, callback, *args)


def wake_at(sock: socket.socket, octets: int) -> None:
    """Have the kernel report `sock` as readable only from this many octets on (or at its end)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, octets)


def discard(sock: socket.socket) -> int | None:
    """Read and forget what has arrived on a plain socket.

    Returns:
        The number of octets; 0 if nothing is there yet; None if nothing more can come.
    """
    try:
        return len(sock.recv(DISCARD)) or None
    except (BlockingIOError, InterruptedError):
        return 0
    except OSError:
        return None


def peer_text(address: Any) -> str:
    """`address:port` of what `accept` or `getpeername` returned."""
    if isinstance(address, tuple) and len(address) >= 2:
        return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
    return str(address) or "?"


def address_group(address: Any) -> str:
    """What counts as one address for limits: an IPv4 address, or an IPv6 /64, which is what one host gets."""
    host = str(address[0]) if isinstance(address, tuple) and address else str(address)
    if ":" not in host:
        return host
    packed = ipaddress.IPv6Address(host.partition("%")[0])
    if packed.ipv4_mapped is not None:
        return str(packed.ipv4_mapped)
    return packed.packed[:8].hex()


async def bind(host: str | None, port: int) -> list[socket.socket]:
    """Sockets bound to every address that `host` means; None means all addresses, of both families.

    With port 0 all of them get the one that the system chose for the first.

    Raises:
        ListenError: if one of them cannot be had.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as exc:
        raise _listen_error(host, port, exc) from exc
    bound: list[socket.socket] = []
    for family, _, _, _, address in dict.fromkeys(found):
        chosen = bound[0].getsockname()[1] if bound else port
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            continue  # this family is off in the kernel
        bound.append(sock)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address[0], chosen, *address[2:]))
        except OSError as exc:
            _close_all(bound)
            raise _listen_error(host, port, exc) from exc
    return bound


def listen(sockets: Iterable[socket.socket], backlog: int) -> None:
    """Make bound sockets listen.

    Raises:
        ListenError: if somebody else listens there; all of them are closed then.
    """
    sockets = tuple(sockets)
    for sock in sockets:
        address = sock.getsockname()
        try:
            sock.setblocking(False)
            # Accepted sockets inherit it: small messages must not wait for acknowledgements.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.listen(backlog)
        except OSError as exc:
            _close_all(sockets)
            raise _listen_error(address[0], address[1], exc) from exc


def _close_all(sockets: Iterable[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def _listen_error(host: str | None, port: int, exc: OSError) -> ListenError:
    remedy = _REMEDIES.get(exc.errno or 0, "correct the listen address")
    return ListenError(f"port {port} of {host or 'all addresses'}", exc.strerror or str(exc), remedy)
