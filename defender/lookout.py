"""The look for generated certificates that a deployment has brought meanwhile, which holds nothing up.

A Secret's volume or a data folder may be on a file server that doesn't answer. What is read there is read in
a thread that nobody has to wait for; the Defender goes on with what it has.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from common.clock import Clock
from common.threads import in_thread
from defender.credentials import Credentials, CredentialSource

log = logging.getLogger(__name__)

LOOK_BOUND: Final = 2.0
"""Seconds that an attempt to connect waits for a look."""

Found = Credentials | Sequence[str] | None
"""What a look has found, as `CredentialSource.reload` says it."""


class Lookout:
    """Looks one at a time, each in a thread of its own.

    Args:
        source: What is looked at.
        clock: The wall clock, for validity.
    """

    def __init__(self, source: CredentialSource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._look: asyncio.Future[Found] | None = None
        self._said = ""

    @property
    def place(self) -> str:
        """What is looked at, as a message calls it."""
        return self._source.place

    async def look(self) -> Found:
        """See whether the files have changed; takes LOOK_BOUND at most.

        Returns:
            As `CredentialSource.reload`. None, too, if that takes longer: what it finds is what a later look
            returns, and no second one is begun beside it.
        """
        if self._look is None:
            self._look = in_thread(lambda: self._source.reload(self._clock.now()), name="deployment")
        await asyncio.wait({self._look}, timeout=LOOK_BOUND)
        if not self._look.done():
            self._say("does not answer: check its volume (mount, network, file server)")
            return None
        look, self._look = self._look, None
        try:
            found = look.result()
        except (OSError, RuntimeError) as error:  # The host has no thread or no descriptor left.
            self._say(f"cannot be looked at ({error}): free what this host is short of")
            return None
        self._said = ""
        return found

    def _say(self, words: str) -> None:
        """Once for each trouble: every attempt to connect may meet it."""
        if words != self._said:
            self._said = words
            log.warning("%s %s; it goes on with the certificates that it has", self.place, words)
