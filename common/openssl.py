"""Two modes of OpenSSL that Python's ssl has no words for (docs/decisions/0008).

- `SSL_MODE_NO_AUTO_CHAIN`: send the chain that was judged, and not one that OpenSSL builds and verifies anew
  in every handshake, with the root that the peer has anyway. A root that every Defender sends costs the
  Console 2.5 KiB a connection.
- without `SSL_MODE_AUTO_RETRY`: a read ends after a record that carries no data. With it, one read consumes
  such records for as long as they arrive: 300,000 KeyUpdates (RFC 8446 §4.6.3), 8 MB that cost their sender
  nothing, were measured to stop an event loop for 4.5 s.

Both are set by calling the OpenSSL that Python's own ssl is linked to. That needs the addresses of the
SSL_CTX and the SSL, which CPython keeps at the beginning of its objects. Only versions for which that has
been looked up are touched, and what is found there has to answer like the object before anything is set.
Elsewhere nothing is done: everything still works, at the cost named above.
"""

import ctypes
import functools
import ssl
import sys
from typing import Any, Final

KNOWN: Final = frozenset({(3, 11), (3, 12), (3, 13)})
"""CPython versions (Modules/_ssl.c) whose `PySSLContext` begins with `SSL_CTX *ctx`, and whose `PySSLSocket`
with a reference to its socket and `SSL *ssl`."""

# include/openssl/ssl.h
_SSL_CTRL_MODE: Final = 33
_SSL_CTRL_CLEAR_MODE: Final = 78
_SSL_MODE_AUTO_RETRY: Final = 0x4
_SSL_MODE_NO_AUTO_CHAIN: Final = 0x8

_HEAD: Final = object.__basicsize__
_POINTER: Final = ctypes.sizeof(ctypes.c_void_p)


def send_no_root(context: ssl.SSLContext) -> bool:
    """Have connections of `context` send just the chain that it was given.

    Returns:
        Whether that could be done here.
    """
    library = _library()
    if library is None:
        return False
    address = _pointer(context, _HEAD)
    if not address or library.SSL_CTX_get_options(address) != context.options:
        return False
    library.SSL_CTX_ctrl(address, _SSL_CTRL_MODE, _SSL_MODE_NO_AUTO_CHAIN, None)
    return True


def end_reads_at_records(connection: ssl.SSLSocket) -> bool:
    """Have reads of `connection` end, as if there were nothing, after each record without data.

    Whoever reads must read on after an SSLWantReadError for as long as the socket is readable, as our
    transport does. CPython sets the mode on each connection anew, so that a context's would not last.

    Returns:
        Whether that could be done here.
    """
    library = _library()
    if library is None:
        return False
    handle = _pointer(getattr(connection, "_sslobj", None), _HEAD + _POINTER)
    context = _pointer(connection.context, _HEAD)
    if not handle or library.SSL_get_SSL_CTX(handle) != context:
        return False
    library.SSL_ctrl(handle, _SSL_CTRL_CLEAR_MODE, _SSL_MODE_AUTO_RETRY, None)
    return True


def _pointer(instance: object, offset: int) -> int | None:
    return None if instance is None else ctypes.c_void_p.from_address(id(instance) + offset).value


@functools.cache
def _library() -> Any:
    """The libssl of Python's ssl, None where this must not be tried."""
    if sys.implementation.name != "cpython" or sys.version_info[:2] not in KNOWN:
        return None
    try:
        import _ssl

        # A symbol that a module depends on is found through the module: no second libssl is loaded.
        library = ctypes.CDLL(_ssl.__file__)
        library.SSL_CTX_get_options.argtypes = [ctypes.c_void_p]
        library.SSL_CTX_get_options.restype = ctypes.c_uint64
        library.SSL_get_SSL_CTX.argtypes = [ctypes.c_void_p]
        library.SSL_get_SSL_CTX.restype = ctypes.c_void_p
        for control in (library.SSL_CTX_ctrl, library.SSL_ctrl):
            control.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
            control.restype = ctypes.c_long
    except (ImportError, OSError, AttributeError):
        return None
    return library
