"""What the Console asks of a Defender, to move to a new connection, until it has an answer.

It closes a connection whose Defender says nothing by its deadline, and keeps one that tried and failed (D4a).
An attempt may take longer than that, and may not be broken off: the Console may have welcomed it already, and
let go of the connection before. So the deadline is an alarm: it has the Console keep the connection, and ends
nothing.
"""

import asyncio
import logging
from typing import Final

from common.protocol import ReconnectAsked
from defender.causes import Cause, Failure
from defender.connection import Link

log = logging.getLogger(__name__)

ALARM_SHARE: Final = 0.9
"""The part of the time from the slot to the deadline that may pass before the Console is told."""

STILL_TRYING: Final = Failure(Cause.UNREACHABLE, "not welcomed by the deadline, still trying")


class Wish:
    """The Console's latest wish, if there is one that isn't fulfilled.

    Attributes:
        asked: The wish. It outlives its answer: a move that failed is tried again.
    """

    def __init__(self) -> None:
        self.asked: ReconnectAsked | None = None
        self._unanswered: tuple[Link, asyncio.TimerHandle] | None = None

    def make(self, link: Link, asked: ReconnectAsked) -> None:
        """Take a wish that came on a connection, in the place of the one before it."""
        self.forget()
        self.asked = asked
        # Counted from the slot on: before it there is nothing to say.
        at = asked.at + (asked.deadline - asked.at) * ALARM_SHARE
        self._unanswered = link, asyncio.get_running_loop().call_at(at, self._alarm)

    def answer(self, failure: Failure) -> bool:
        """Tell the Console why there is no other connection; once for each wish.

        Returns:
            Whether it was told.
        """
        if self._unanswered is None:
            return False
        link, alarm = self._unanswered
        alarm.cancel()
        self._unanswered = None
        link.move_failed(failure)
        return not link.ended.done()

    def forget(self) -> None:
        """It is fulfilled, or the connection on which it came is gone."""
        self.asked = None
        if self._unanswered:
            self._unanswered[1].cancel()
            self._unanswered = None

    def _alarm(self) -> None:
        if self.answer(STILL_TRYING):
            log.info("Not welcomed by the Console's deadline: the present connection is kept, still trying")
