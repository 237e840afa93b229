"""The store of a Console: its data folder held, its schema at head, its repositories at hand."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

from console.store import admissions, events, presence
from console.store.database import Database
from console.store.defenders import Defenders
from console.store.events import Events
from console.store.folder import DataFolder
from console.store.generations import Generations
from console.store.meta import Meta
from console.store.pen import Writing
from console.store.records import AdmitRequest, EventBatch, Turn
from console.store.schema import prepare_sqlite
from console.store.users import Users

DATABASE_NAME: Final = "console.db"

_NOBODY: Final[Mapping[str, int]] = MappingProxyType({})
_NEVER: Final[Mapping[str, datetime]] = MappingProxyType({})


class Store:
    """What the Console keeps. Open it with `Store.open`; one process at a time holds a data folder.

    Attributes:
        data_folder: Where it lies.
        users: Who may log in.
        defenders: One record for each instance key.
        events: What Defenders reported.
        generations: The generated certificate sets, sealed.
        meta: Single values.
    """

    def __init__(self, folder: DataFolder, database: Database) -> None:
        self._folder = folder
        self._database = database
        self.data_folder = folder.path
        self.users = Users(database)
        self.defenders = Defenders(database)
        self.events = Events(database)
        self.generations = Generations(database)
        self.meta = Meta(database)

    @classmethod
    async def open(cls, data_folder: Path) -> Self:
        """Hold the data folder and open the store in it; both are made if this is the first start.

        Raises:
            DataFolderError: if the folder can't be used, or another Console runs on it.
            StoreError: if the store is corrupt, of a newer version, or can't be read or written. Whatever
                is raised, the store is as it was, and what this start made is removed again.
        """
        folder = await asyncio.to_thread(DataFolder.hold, data_folder)
        path = data_folder / DATABASE_NAME
        try:
            await prepare_sqlite(path)
        except BaseException:
            await asyncio.to_thread(folder.discard)
            raise
        return cls(folder, Database.sqlite(path))

    async def turn(
        self,
        now: datetime,
        *,
        ended: Mapping[str, int] = _NOBODY,
        hellos: Sequence[AdmitRequest] = (),
        batches: Sequence[EventBatch] = (),
        seen: Mapping[str, datetime] = _NEVER,
    ) -> Turn:
        """All that waits to be written of a fleet, in one transaction, one after the other.

        It commits once for all, which is most of what a few of them cost, and it is all or nothing. It is
        durable when this returns if it has events; what Defenders that come and go leave behind may be lost
        with the host's power until the next events: they come again then.

        Args:
            now: When.
            ended: As for `Defenders.mark_disconnected`.
            hellos: As for `Defenders.admit_all`.
            batches: As for `Events.apply`.
            seen: As for `Defenders.touch`.

        Raises:
            StoreError: if the store can't be written; nothing of all this was then.
        """
        if not (ended or hellos or batches or seen):
            return Turn(frozenset(), (), ())

        def write(writing: Writing) -> Turn:
            flipped = presence.flip(writing, ended, now, connected=False)
            admitted = admissions.admit(writing, [(request, now) for request in hellos])
            applied = events.apply(writing, [(batch, now) for batch in batches])
            presence.touch(writing, seen)
            return Turn(flipped, tuple(admitted), tuple(applied))

        return await self._database.jot(write, durable=bool(batches))

    async def close(self) -> None:
        """Close the database and let go of the data folder. Closing twice is no harm."""
        try:
            await self._database.close()
        finally:
            self._folder.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
