"""Which Defenders are connected now: the registry of live sessions.

A Defender may have two sessions for a moment: the new one of a make-before-break (D4), or the one that a host
left behind when its network died. The session with the highest fencing number, which the store gave it at its
Hello, is the Defender's; an older one is superseded.
"""

import asyncio
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from console.fleet.directory import LiveSession


class Registered(LiveSession, Protocol):
    """A session that knows whose it is."""

    @property
    def defender_id(self) -> str:
        """The ID that the store bound to the Defender's instance key."""
        ...


S = TypeVar("S", bound=Registered)


class Live(Generic[S]):
    """The live session of each connected Defender. Implements `console.fleet.directory.LiveFleet`.

    Attributes:
        version: Grows with every change; what shows the fleet waits for it to move.
    """

    def __init__(self) -> None:
        self.version = 0
        self._sessions: dict[str, S] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[S]:
        return iter(tuple(self._sessions.values()))

    def connected(self, defender_id: str) -> S | None:
        """The Defender's live session, or None."""
        return self._sessions.get(defender_id)

    def add(self, session: S) -> S | None:
        """Make `session` its Defender's, unless a newer one is there.

        Returns:
            The session that is superseded now (which may be `session` itself), or None.
        """
        current = self._sessions.get(session.defender_id)
        if current is not None and current.session > session.session:
            return session
        self._sessions[session.defender_id] = session
        self.changed()
        return current

    def remove(self, session: S) -> bool:
        """Forget `session`; False where it was not its Defender's any more."""
        if self._sessions.get(session.defender_id) is not session:
            return False
        del self._sessions[session.defender_id]
        return True

    def changed(self) -> None:
        """Wake everybody who waits for a change; call it once the store knows of it."""
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for_change(self, version: int) -> int:
        """Return the version as soon as it isn't `version` any more."""
        while self.version == version:
            await self._changed.wait()
        return self.version
