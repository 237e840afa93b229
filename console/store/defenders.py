"""The Defenders that were ever admitted: one record for each instance key (D9a)."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, Self

import msgspec
from sqlalchemy import Row, Select, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from console.store import models, spools
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
    Refusal,
    defender_id,
    storable,
)
from console.store.sequence import Position, resume

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
_FACTS: Final = ("hostname", "fqdn", "version", "type", "os", "arch")
_PLAIN: Final = tuple(f.name for f in fields(DefenderRecord) if f.name != "facts")
_NAMES: Final = (*_PLAIN, *_FACTS, "capabilities")
_COLUMNS: Final = [getattr(_D, name) for name in _NAMES]
_EVERYTHING: Final = DefenderQuery()


@dataclass(frozen=True, slots=True)
class _Entry:
    """An admission that waits for its transaction."""

    id: str
    spool: spools.SpoolKey
    request: AdmitRequest
    now: datetime

    @classmethod
    def of(cls, request: AdmitRequest, now: datetime) -> Self:
        key = defender_id(request.public_key)
        return cls(key, (key, request.spool.epoch), request, now)


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
        return await self._admissions.submit(_Entry.of(request, now))

    async def admit_all(self, requests: Iterable[AdmitRequest], now: datetime) -> tuple[Admission, ...]:
        """The same for many, in one transaction.

        Raises:
            StoreError: if the store can't be written.
        """
        return tuple(await self._admit([_Entry.of(request, now) for request in requests]))

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
        return await self._database.change(statement.values(_claims(_clean(facts)))) == 1

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
        if not last_seen:
            return
        statement = (
            update(_D)
            .where(_D.id == bindparam("key"), _D.last_seen < bindparam("seen", type_=models.UTCDateTime))
            .values(last_seen=bindparam("seen", type_=models.UTCDateTime))
        )

        async def write(connection: AsyncConnection) -> None:
            for portion in spools.chunks(last_seen.items()):
                await connection.execute(statement, [{"key": key, "seen": seen} for key, seen in portion])

        await self._database.write(write)

    async def _flip(self, sessions: Mapping[str, int], now: datetime, *, connected: bool) -> frozenset[str]:
        async def flip(connection: AsyncConnection) -> frozenset[str]:
            flipped: list[str] = []
            for portion in spools.chunks(sessions):
                statement = select(_D.id, _D.session).where(
                    _D.id.in_(portion), _D.connected.is_(not connected)
                )
                rows = await connection.execute(statement.with_for_update())
                ids = [key for key, session in rows if session == sessions[key]]
                values = {"connected": connected, "last_modified": now}
                await connection.execute(update(_D).where(_D.id.in_(ids)).values(values))
                flipped += ids
            return frozenset(flipped)

        return await self._database.write(flip) if sessions else frozenset()

    async def _admit(self, entries: Sequence[_Entry]) -> Sequence[Admission]:
        async def admit(connection: AsyncConnection) -> Sequence[Admission]:
            known = await _load(connection, {entry.id for entry in entries})
            rows = await spools.load(connection, (entry.spool for entry in entries))
            admissions = []
            admitted: dict[str, DefenderRecord] = {}
            resumed: dict[spools.SpoolKey, spools.SpoolRow] = {}
            for entry in entries:
                row = rows[entry.spool]
                record = admitted.get(entry.id) or known.get(entry.id)
                admission, position = decide(entry.id, record, row.position, entry.request, entry.now)
                admissions.append(admission)
                if admission.refused is None:
                    admitted[entry.id] = admission.record
                    resumed[entry.spool] = row
                    row.position = position
            await _save(connection, admitted.values(), known)
            await spools.save(connection, resumed, entries[-1].now)
            return admissions

        return await self._database.write(admit) if entries else ()


def decide(
    key: str, known: DefenderRecord | None, position: Position, request: AdmitRequest, now: datetime
) -> tuple[Admission, Position]:
    """Whether a Defender is admitted, what its record is then, and how far its spool is.

    Args:
        key: The instance key's ID.
        known: The record under that ID, if there is one.
        position: How far the epoch of its spool is applied.
        request: Who asks.
        now: When.
    """
    spool = request.spool
    refused = _refusal(known, request)
    if known is not None and refused is not None:
        return Admission(
            known, spool.epoch, position.through, new=False, missing=0, refused=refused
        ), position
    resumed = resume(position, first=spool.first, dropped=spool.dropped)
    record = DefenderRecord(
        id=key,
        public_key=request.public_key,
        facts=_clean(request.facts),
        first_seen=known.first_seen if known else now,
        last_modified=known.last_modified if known and known.connected else now,
        last_seen=now,
        connected=True,
        session=known.session + 1 if known else 1,
        certificate_fingerprint=request.certificate_fingerprint,
        certificate_not_after=request.certificate_not_after,
        address=request.address,
        locked=False,
    )
    missing = resumed.missing - position.missing
    return Admission(record, spool.epoch, resumed.through, new=known is None, missing=missing), resumed


def _refusal(known: DefenderRecord | None, request: AdmitRequest) -> Refusal | None:
    if known is None:
        return None
    # Two keys with one ID would take 2^100 attempts to find; who found them gets nothing by it.
    if known.public_key != request.public_key:
        return Refusal.KEY_MISMATCH
    return Refusal.LOCKED if known.locked else None


def _clean(facts: HostFacts) -> HostFacts:
    claims: dict[str, Any] = {name: storable(getattr(facts, name)) for name in _FACTS}
    return HostFacts(**claims, capabilities=tuple(storable(item) for item in facts.capabilities))


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


async def _load(connection: AsyncConnection, ids: Collection[str]) -> dict[str, DefenderRecord]:
    found = {}
    for portion in spools.chunks(ids):
        statement = select(*_COLUMNS).where(_D.id.in_(portion)).with_for_update()
        records = (_record(row) for row in await connection.execute(statement))
        found.update({record.id: record for record in records})
    return found


async def _save(
    connection: AsyncConnection, records: Iterable[DefenderRecord], known: Collection[str]
) -> None:
    rows = [_row(record) for record in records]
    for portion in spools.chunks(row for row in rows if row["id"] not in known):
        await connection.execute(insert(_D), list(portion))
    for portion in spools.chunks({**row, "key": row["id"]} for row in rows if row["id"] in known):
        await connection.execute(update(_D).where(_D.id == bindparam("key")), list(portion))


def _record(row: Row[*tuple[Any, ...]]) -> DefenderRecord:
    values: dict[str, Any] = dict(zip(_NAMES, row, strict=True))
    capabilities = msgspec.json.decode(values.pop("capabilities"), type=tuple[str, ...])
    claims = {name: values.pop(name) for name in _FACTS}
    return DefenderRecord(facts=HostFacts(**claims, capabilities=capabilities), **values)


def _row(record: DefenderRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _PLAIN} | _claims(record.facts)


def _claims(facts: HostFacts) -> dict[str, str]:
    claims = {name: getattr(facts, name) for name in _FACTS}
    return claims | {"capabilities": msgspec.json.encode(facts.capabilities).decode()}
