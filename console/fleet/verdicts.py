"""Whether a new bundle still vouches for those who are connected.

It is asked once for each chain, not for each connection: a fleet shares a certificate, or the CA of its
certificates.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime

from common.certificates import CertificateSet, still_trusts


class Verdicts:
    """What a set's bundle says of chains. What is kept of a chain is its digest: there may be thousands.

    Args:
        certificates: The set whose bundle it is.
        now: When it came into use.
    """

    __slots__ = ("_anchors", "_certificates", "_known", "_now")

    def __init__(self, certificates: CertificateSet, now: datetime) -> None:
        self._certificates = certificates
        self._now = now
        self._anchors = frozenset(anchor.der for anchor in certificates.anchors)
        self._known: dict[bytes, bool] = {}

    def trusts(self, chain: Sequence[bytes]) -> bool:
        """Whether it vouches for a peer.

        Args:
            chain: DER, leaf first, as it was verified when the connection was made.
        """
        # The issuer that OpenSSL found is still in the bundle: no need to look at this leaf. So a thousand
        # Defenders with a certificate each cost a look-up each.
        if len(chain) > 1 and chain[1] in self._anchors:
            return True
        digest = hashlib.sha256()
        for der in chain:
            digest.update(len(der).to_bytes(4) + der)
        key = digest.digest()
        verdict = self._known.get(key)
        if verdict is None:
            verdict = self._known[key] = still_trusts(self._certificates, chain, now=self._now)
        return verdict

    def forget(self) -> None:
        """Keep nothing of the chains that were asked about."""
        self._known.clear()
