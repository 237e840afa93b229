"""What may be applied next, decided without I/O (D13).

Numbers of an epoch run from 1 without a gap. A number is settled when its event is applied or given up; all
up to `through` are. The Defender forgets an event when it is settled, or drops it for want of room and says
so: only a stated drop lets the sequence move on without the event.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Position:
    """How far an epoch is.

    Attributes:
        through: All numbers up to this one are settled.
        missing: How many of them were given up.
        dropped: How many the Defender counted as dropped, when it last said.
    """

    through: int = 0
    missing: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What to do with a batch: apply its items from index `skip` on, then be at `position`."""

    skip: int
    position: Position


def resume(position: Position, *, first: int, dropped: int) -> Position:
    """Where an epoch stands once a Hello has said what the spool still holds.

    What comes before `first` and isn't settled will never come: it was dropped, or it was acknowledged by a
    Console whose store was then lost. Either way waiting for it would hold up the rest for ever.
    """
    gap = max(0, first - 1 - position.through)
    return Position(position.through + gap, position.missing + gap, max(dropped, position.dropped))


def step(position: Position, *, first: int, count: int, dropped: int) -> Step | None:
    """What to do with `count` events from number `first` on; None if numbers before it are missing.

    Args:
        position: How far the epoch is.
        first: The number of the first event.
        count: How many there are.
        dropped: How many numbers directly before `first` are stated to be dropped.
    """
    gap = max(0, first - 1 - position.through)
    if gap > dropped:
        return None
    position = replace(position, through=position.through + gap, missing=position.missing + gap)
    skip = min(count, position.through + 1 - first)
    return Step(skip, replace(position, through=position.through + count - skip))
