"""What `get_extra_info` tells of a TLS socket."""

import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final

_ENCODING_DER: Final = 2


def socket_fact(sock: ssl.SSLSocket, name: str) -> Any:
    """The fact that goes by this name in `asyncio.BaseTransport.get_extra_info`, or None.

    Computed when it is asked for: a dictionary of them would cost a connection half a KiB. Most are gone once
    the connection has closed.
    """
    reader = _READERS.get(name)
    if reader is None:
        return None
    try:
        return reader(sock)
    except (OSError, ValueError, AttributeError):
        return None  # AttributeError: ssl.py asks the object that is gone after the close


def peer_chain(sock: ssl.SSLSocket) -> tuple[bytes, ...] | None:
    """The peer's chain as DER, leaf first, as it was verified; only the leaf where Python does not tell.

    Public from Python 3.13 on; before, the object beneath has it under the same name.
    """
    leaf = sock.getpeercert(binary_form=True)
    if leaf is None:
        return None
    tell = getattr(getattr(sock, "_sslobj", None), "get_verified_chain", None)
    chain = tell() if tell is not None else None
    return tuple(_der(certificate) for certificate in chain) if chain else (leaf,)


def _der(certificate: Any) -> bytes:
    if isinstance(certificate, bytes):
        return certificate
    der: bytes = certificate.public_bytes(_ENCODING_DER)
    return der


_READERS: Final[Mapping[str, Callable[[ssl.SSLSocket], Any]]] = {
    "alpn": lambda sock: sock.selected_alpn_protocol(),
    "cipher": lambda sock: sock.cipher(),
    "compression": lambda sock: sock.compression(),
    "peer_chain": peer_chain,
    "peercert": lambda sock: sock.getpeercert(),
    "sockname": lambda sock: sock.getsockname(),
    "socket": lambda sock: sock,
    "ssl_object": lambda sock: sock,
    "sslcontext": lambda sock: sock.context,
}
