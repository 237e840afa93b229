"""How thorough a run is."""

import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """How thorough a run is.

    Attributes:
        rounds: Of each comparison.
        seconds: That a window lasts.
        warm: Seconds of load before it.
        idle: Connections held for the memory rows.
        swaps: Of certificates, for one percentile.
        watch: Seconds that an idle process is looked at.
        quiet: Say nothing on the way.
    """

    rounds: int
    seconds: float
    warm: float
    idle: int
    swaps: int
    watch: float
    quiet: bool = False

    def say(self, text: str) -> None:
        """One line about what goes on, for whoever waits."""
        if not self.quiet:
            print(f"bench: {text}", file=sys.stderr, flush=True)


FULL = Scale(rounds=7, seconds=4.0, warm=0.7, idle=10_000, swaps=50, watch=45.0)
QUICK = Scale(rounds=3, seconds=1.5, warm=0.5, idle=1_000, swaps=10, watch=10.0)
