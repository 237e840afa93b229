"""What happens to a Defender, told twice: a line for who looks at the host, an event for its Console."""

import logging
from collections.abc import Callable, Sequence
from typing import Final

from common.clock import Clock
from common.protocol import (
    CertificateLoaded,
    CertificateProved,
    CertificateRejected,
    ConnectionFailed,
    ConnectionLost,
    Known,
    encode_event,
    report,
)
from defender.causes import Failure
from defender.credentials import CHANNEL, Credentials
from defender.ledger import Ledger
from defender.settings import Address
from defender.spool import Spool

log = logging.getLogger(__name__)

SHOWN: Final = 16
"""Hex digits of a fingerprint that a log line shows; as many as in the Console's."""


class Chronicle:
    """The story of one Defender.

    Args:
        address: Its Console's.
        spool: Where events wait.
        clock: The wall clock, for events.
        on_event: Called after each event: it may be sent.
    """

    def __init__(self, address: Address, spool: Spool, clock: Clock, *, on_event: Callable[[], None]) -> None:
        self._address = address
        self._spool = spool
        self._clock = clock
        self._on_event = on_event
        self._ledger = Ledger()

    def record(self, details: Known) -> None:
        """An event without a line."""
        self._spool.append(encode_event(report(details, self._clock.now())))
        self._on_event()

    def failed(self, failure: Failure, what: str, now: float) -> None:
        """An attempt to connect failed; repeats are said ever more rarely.

        Args:
            failure: Why.
            what: What failed, as the line's beginning.
            now: Monotonic seconds.
        """
        verdict = self._ledger.note(failure, now, what)
        if verdict.log:
            again = f" ({verdict.repeats} more times since it was last said)" if verdict.repeats else ""
            log.warning("%s: %s: %s%s", what, self._address, failure, again)
        if verdict.event:
            self.record(ConnectionFailed(failure.cause.value, failure.detail, verdict.event))

    def lost(self, failure: Failure) -> None:
        """A connection ended. Each is told: one that was welcomed has emptied the spool before."""
        log.warning("Lost the Console at %s: %s", self._address, failure)
        self.record(ConnectionLost(failure.detail, failure.code))

    def settled(self) -> None:
        """A connection has lasted: what comes next is news."""
        for cause, count in self._ledger.settled().items():
            self.record(ConnectionFailed(cause.value, "and now connected", count))

    def loaded(self, credentials: Credentials) -> None:
        """A set is used from now on."""
        set_ = credentials.set
        leaf = set_.leaf.fingerprint
        log.info(
            "Using certificate %s from %s, valid until %s",
            leaf[:SHOWN],
            credentials.place,
            set_.not_after.isoformat(),
        )
        self.record(CertificateLoaded(CHANNEL, set_.source.value, leaf, set_.not_after))

    def proved(self, credentials: Credentials) -> None:
        """The Console has welcomed a connection over a set for the first time."""
        set_ = credentials.set
        self.record(CertificateProved(CHANNEL, set_.source.value, set_.leaf.fingerprint, set_.not_after))

    def rejected(self, place: str, source: str, faults: Sequence[str]) -> None:
        """A set was found that cannot be used."""
        for fault in faults:
            log.error("New certificates in %s cannot be used: %s", place, fault)
        self.record(CertificateRejected(CHANNEL, source, tuple(faults)))
