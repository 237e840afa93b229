"""Two modes of OpenSSL that Python's ssl has no words for (docs/decisions/0008).

- `SSL_MODE_NO_AUTO_CHAIN`: send the chain that was judged, and not one that OpenSSL builds and verifies anew
  in every handshake, with the root that the peer has anyway. A root that every Defender sends costs the
  Console 2.5 KiB a connection.
- without `SSL_MODE_AUTO_RETRY`: a read ends after a record that carries no data. With it, one read consumes
  such records for as long as they arrive: 300,000 KeyUpdates (RFC 8446 §4.6.3), 8 MB that cost their sender
  nothing, were measured to stop an event loop for 4.5 s.

Both are set by calling the OpenSSL that Python's own ssl is linked to. That needs the address of the SSL_CTX,
which CPython keeps first in its SSLContext objects, behind the object's head. Only versions for which that
has been looked up are touched, and what is found there has to answer like the context before anything is
set. Elsewhere nothing is done: everything still works, at the cost named above.
"""

import ctypes
import functools
import ssl
import sys
from typing import Any, Final

KNOWN: Final = {(3, 11), (3, 12), (3, 13)}
"""CPython versions whose `PySSLContext` begins with `SSL_CTX *ctx` (Modules/_ssl.c)."""

# include/openssl/ssl.h
_SSL_CTRL_MODE: Final = 33
_SSL_CTRL_CLEAR_MODE: Final = 78
_SSL_MODE_AUTO_RETRY: Final = 0x4
_SSL_MODE_NO_AUTO_CHAIN: Final = 0x8


def prepare(context: ssl.SSLContext) -> bool:
    """Set both modes, before the context is used.

    Whoever reads from a connection of it must read on after an SSLWantReadError for as long as the socket is
    readable, as our transport does; asyncio's own TLS does not.

    Returns:
        Whether that could be done here.
    """
    library = _library()
    if library is None:
        return False
    address = ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value
    if not address or library.SSL_CTX_get_options(address) != context.options:
        return False
    library.SSL_CTX_ctrl(address, _SSL_CTRL_MODE, _SSL_MODE_NO_AUTO_CHAIN, None)
    library.SSL_CTX_ctrl(address, _SSL_CTRL_CLEAR_MODE, _SSL_MODE_AUTO_RETRY, None)
    return True


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
        library.SSL_CTX_ctrl.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
        library.SSL_CTX_ctrl.restype = ctypes.c_long
    except (ImportError, OSError, AttributeError):
        return None
    return library
