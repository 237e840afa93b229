"""Whether the way up from a connected peer's leaf still ends in a bundle: a CA may be gone from it.

A handshake proves a peer to the bundle of that moment. When the bundle is replaced, connections that were
made before it are judged again by this, each by its own chain: what counts is not which certificates of the
bundle changed, but whether the way from this leaf up still ends in it. A CA that was renewed with the same
key and name still vouches for its leaves; one that was taken out doesn't. What else a handshake checks
(dates, purposes, path lengths, name constraints) is left to the next one: none of it takes a CA's trust away.
"""

from collections.abc import Sequence
from datetime import datetime

from common.certificates.model import CertificateSet
from common.certificates.parsing import parse_certificate
from common.certificates.paths import End, climb


def still_trusts(set_: CertificateSet, chain: Sequence[bytes], *, now: datetime) -> bool:
    """Whether the way from a peer's leaf still ends in `set_`'s bundle. Only signatures and names count.

    Args:
        set_: What takes the place of the set that the connection was made with.
        chain: DER, leaf first, as it was verified then (`peer_chain` of the transport).
        now: Of several certificates of one issuer, one that is valid now is taken.

    Returns:
        False for a chain that can't be read, too.
    """
    parsed = [parse_certificate(der) for der in chain]
    known = [one for one in parsed if one is not None]
    if not known or len(known) < len(parsed):
        return False
    anchors = [one for anchor in set_.anchors if (one := parse_certificate(anchor.der)) is not None]
    path = climb(known[0], known[1:], anchors, now=now)
    # An ambiguous one was signed by an anchor all the same: nobody has taken that away.
    ends = path.end in (End.ANCHORED, End.AMBIGUOUS)
    return ends and any(path.steps[-1] is anchor for anchor in anchors)
