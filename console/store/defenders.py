"""The Defenders that were ever admitted: one record for each instance key (D9a)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from functools import partial
from typing import Any, Final

from sqlalchemy import Row, Select, delete, func, or_, select, update

from console.store import admissions, models, presence
from console.store.batching import Batcher
from console.store.database import Database
from console.store.records import (
    Admission,
    AdmitRequest,
    DefenderCount,
    DefenderQuery,
    DefenderRecord,
    DefenderSort,
    HostFacts,
)

_D: Final = models.Defender
_ADMIT_LIMIT: Final = 1000
"""Admissions for one transaction."""

_SORT: Final = {
    DefenderSort.HOSTNAME: func.lower(_D.hostname),
    DefenderSort.FQDN: func.lower(_D.fqdn),
    DefenderSort.VERSION: _D.version,
    DefenderSort.TYPE: _D.type,
    DefenderSort.CONNECTED: _D.connected,
    DefenderSort.LAST_MODIFIED: _D.last_modified,
    DefenderSort.ID: _D.id,
}
_CLAIMED: Final = (*admissions.CLAIMS, "capabilities")
_PLAIN: Final = tuple(f.name for f in fields(DefenderRecord) if f.name != "facts")
_NAMES: Final = (*_PLAIN, *_CLAIMED)
_COLUMNS: Final = [getattr(_D, name) for name in _NAMES]
_EVERYTHING: Final = DefenderQuery()


class Defenders:
    """The records of all Defenders."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._admissions = Batcher(self._admit, start=database.own, weigh=lambda _: 1, limit=_ADMIT_LIMIT)

    async def admit(self, request: AdmitRequest, now: datetime) -> Admission:
        """Let a Defender in: bind its key to its ID at first use, count its session, resume its spool.

        Concurrent calls share a transaction, so that a fleet that returns at once costs few of them. What is
        refused changes nothing. If it is cancelled, the session may have been counted or not.

        Raises:
            StoreError: if the store can't be written.
        """
        return await self._admissions.submit((request, now))

    async def admit_all(self, requests: Iterable[AdmitRequest], now: datetime) -> tuple[Admission, ...]:
        """The same for many, in one transaction.

        Raises:
            StoreError: if the store can't be written.
        """
        return tuple(await self._admit([(request, now) for request in requests]))

    async def list(self, query: DefenderQuery = _EVERYTHING) -> tuple[DefenderRecord, ...]:
        """Those that the query asks for, in its order.

        Raises:
            StoreError: if the store can't be read.
        """
        order = _SORT[query.sort]
        statement = (
            _where(select(*_COLUMNS), query)
            .order_by(order.desc() if query.reverse else order.asc(), _D.id)
            .offset(query.offset)
            .limit(query.limit)
        )
        return tuple(_record(row) for row in await self._database.rows(statement))

    async def count(self, query: DefenderQuery = _EVERYTHING) -> int:
        """How many the query finds, its offset and limit aside.

        Raises:
            StoreError: if the store can't be read.
        """
        ((count,),) = await self._database.rows(_where(select(func.count(_D.id)), query))
        return int(count)

    async def summary(self) -> tuple[DefenderCount, ...]:
        """How many there are, and how many of them connected, by type.

        Raises:
            StoreError: if the store can't be read.
        """
        connected = func.count(_D.id).filter(_D.connected)
        statement = select(_D.type, connected, func.count(_D.id)).group_by(_D.type).order_by(_D.type)
        return tuple(DefenderCount(*row) for row in await self._database.rows(statement))

    async def duplicated_hostnames(self) -> frozenset[str]:
        """The host names that more than one Defender claims, case-folded.

        Names that differ in case are the same if they are ASCII, as those of DNS are.

        Raises:
            StoreError: if the store can't be read.
        """
        name = func.lower(_D.hostname)
        statement = select(name).group_by(name).having(func.count(_D.id) > 1)
        return frozenset(name.casefold() for (name,) in await self._database.rows(statement))

    async def get(self, defender_id: str) -> DefenderRecord | None:
        """The Defender of this ID.

        Raises:
            StoreError: if the store can't be read.
        """
        rows = await self._database.rows(select(*_COLUMNS).where(_D.id == defender_id))
        return _record(rows[0]) if rows else None

    async def delete(self, defender_id: str) -> bool:
        """Forget a Defender with its events; False if there is none. It is new again if it comes back.

        Raises:
            StoreError: if the store can't be written.
        """
        return await self._database.change(delete(_D).where(_D.id == defender_id)) == 1

    async def describe(self, defender_id: str, session: int, facts: HostFacts) -> bool:
        """Note what a Defender says of its host now; False if a newer session has taken over.

        Raises:
            StoreError: if the store can't be written.
        """
        statement = update(_D).where(_D.id == defender_id, _D.session == session)
        claims = zip(_CLAIMED, admissions.claimed(admissions.clean(facts)), strict=True)
        return await self._database.change(statement.values(dict(claims))) == 1

    async def mark_connected(self, sessions: Mapping[str, int], now: datetime) -> frozenset[str]:
        """Note connections by ID and session; `admit` does so by itself.

        Returns:
            The IDs that were not connected before.

        Raises:
            StoreError: if the store can't be written.
        """
        return await self._flip(sessions, now, connected=True)

    async def mark_disconnected(self, sessions: Mapping[str, int], now: datetime) -> frozenset[str]:
        """Note ended connections by ID and session: the end of an old session says nothing of a newer one.

        Returns:
            The IDs that were connected before.

        Raises:
            StoreError: if the store can't be written.
        """
        return await self._flip(sessions, now, connected=False)

    async def mark_all_disconnected(self, now: datetime) -> int:
        """Note, at the start of a Console, that nobody is connected; how many were said to be.

        Raises:
            StoreError: if the store can't be written.
        """
        statement = update(_D).where(_D.connected).values(connected=False, last_modified=now)
        return await self._database.change(statement)

    async def touch(self, last_seen: Mapping[str, datetime]) -> None:
        """Note signs of life by ID, in one transaction. None goes back; an unknown ID is passed over.

        Raises:
            StoreError: if the store can't be written.
        """
        if last_seen:
            await self._database.jot(partial(presence.touch, last_seen=last_seen))

    async def _flip(self, sessions: Mapping[str, int], now: datetime, *, connected: bool) -> frozenset[str]:
        if not sessions:
            return frozenset()
        return await self._database.jot(
            partial(presence.flip, sessions=sessions, now=now, connected=connected)
        )

    async def _admit(self, requests: Sequence[tuple[AdmitRequest, datetime]]) -> Sequence[Admission]:
        return await self._database.jot(partial(admissions.admit, requests=requests)) if requests else ()


def _where(statement: Select[Any], query: DefenderQuery) -> Select[Any]:
    if query.hostname:
        part = query.hostname.lower()
        names = (func.lower(_D.hostname), func.lower(_D.fqdn))
        statement = statement.where(or_(*(name.contains(part, autoescape=True) for name in names)))
    if query.connected is not None:
        statement = statement.where(_D.connected.is_(query.connected))
    if query.types:
        statement = statement.where(_D.type.in_(query.types))
    if query.arches:
        statement = statement.where(_D.arch.in_(query.arches))
    return statement


def _record(row: Row[*tuple[Any, ...]]) -> DefenderRecord:
    values: dict[str, Any] = dict(zip(_NAMES, row, strict=True))
    capabilities = admissions.capabilities_of(values.pop("capabilities"))
    claims = {name: values.pop(name) for name in admissions.CLAIMS}
    return DefenderRecord(facts=HostFacts(**claims, capabilities=capabilities), **values)
