"""Who is there, and when they were heard last: what is written of a Defender between two admissions."""

from collections.abc import Mapping
from datetime import datetime

from console.store.pen import Writing
from console.store.statements import FIND_TO_FLIP, FLIP, TOUCH


def flip(writing: Writing, sessions: Mapping[str, int], now: datetime, *, connected: bool) -> frozenset[str]:
    """Note that these sessions began or ended, where they are the newest; the IDs for which that was news."""
    if not sessions:
        return frozenset()
    ids = writing.ask(FIND_TO_FLIP, sessions=dict(sessions), connected=connected)
    if ids:
        writing.run(FLIP, ids=ids, connected=connected, now=writing.stamp(now))
    return frozenset(ids)


def touch(writing: Writing, last_seen: Mapping[str, datetime]) -> None:
    """Note signs of life by ID. None goes back; an unknown ID is passed over."""
    if last_seen:
        writing.run(TOUCH, seen={key: writing.stamp(seen) for key, seen in last_seen.items()})
