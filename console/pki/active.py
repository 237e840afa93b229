"""Which certificate set each of the Console's servers answers with: the active one.

Sets come from where they are made or found (the store, the operator's directory) and go to the server of
their role; the directory wins over what the Console made for itself (D6, product facts §3).
"""

from collections.abc import Callable
from typing import Final

from common.certificates import CertificateSet, Role, Source

Use = Callable[[CertificateSet], None]

_PRECEDENCE: Final = (Source.CUSTOM, Source.UPLOADED, Source.GENERATED)


class ActiveSets:
    """The sets that are on offer for each role, the one that is in force, and the server that uses it."""

    def __init__(self) -> None:
        self._offers: dict[tuple[Role, Source], CertificateSet] = {}
        self._servers: dict[Role, Use] = {}

    def current(self, role: Role) -> CertificateSet:
        """The set of a role that is in force.

        Raises:
            KeyError: none was offered.
        """
        offered = [key for source in _PRECEDENCE if (key := (role, source)) in self._offers]
        if not offered:
            raise KeyError(role)
        return self._offers[offered[0]]

    def offer(self, set_: CertificateSet) -> None:
        """Take a set in, in place of the one of its role and source, and have its server use what wins now.

        Raises:
            CertificateSetError: OpenSSL refuses it; then nothing has changed.
        """
        key = (set_.role, set_.source)
        before = self._offers.get(key)
        self._offers[key] = set_
        try:
            self._serve(set_.role)
        except BaseException:
            self._forget(key, before)
            raise

    def serve(self, role: Role, use: Use) -> None:
        """Have a server use the set of its role that is in force, now and whenever it changes.

        Args:
            role: The server's.
            use: Answers the next ClientHello with a set; called with an equal set, it does nothing.

        Raises:
            CertificateSetError: OpenSSL refuses the set.
        """
        use(self.current(role))
        self._servers[role] = use

    def _serve(self, role: Role) -> None:
        if role in self._servers:
            self._servers[role](self.current(role))

    def _forget(self, key: tuple[Role, Source], before: CertificateSet | None) -> None:
        if before is None:
            del self._offers[key]
        else:
            self._offers[key] = before
