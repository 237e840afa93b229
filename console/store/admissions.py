"""Letting Defenders in: the decision, and the rows that it reads and writes (D9a, D13)."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec

from console.store import spools
from console.store.pen import Writing
from console.store.records import (
    Admission,
    AdmitRequest,
    DefenderRecord,
    HostFacts,
    Refusal,
    defender_id,
    storable,
)
from console.store.sequence import Position, resume
from console.store.statements import ADD_DEFENDERS, DESCRIBE_DEFENDERS, FIND_DEFENDERS, RETURN_DEFENDERS

CLAIMS: Final = ("hostname", "fqdn", "version", "type", "os", "arch")
"""The columns that hold HostFacts, beside `capabilities`."""


def admit(writing: Writing, requests: Sequence[tuple[AdmitRequest, datetime]]) -> list[Admission]:
    """Admit in order: each sees what those before it left. What is refused changes nothing."""
    if not requests:
        return []
    ids = [defender_id(request.public_key) for request, _ in requests]
    known = _load(writing, ids)
    keys = [(id_, request.spool.epoch) for id_, (request, _) in zip(ids, requests, strict=True)]
    rows = spools.load(writing, (key for key in keys if key[0] in known))
    admissions: list[Admission] = []
    admitted: dict[str, DefenderRecord] = {}
    resumed: dict[spools.SpoolKey, spools.SpoolRow] = {}
    for key, (request, now) in zip(keys, requests, strict=True):
        row = rows.get(key) or spools.SpoolRow(None, None, spools.NOWHERE)
        record = admitted.get(key[0]) or known.get(key[0])
        admission, position = decide(key[0], record, row.position, request, now)
        admissions.append(admission)
        if admission.refused is None:
            admitted[key[0]] = admission.record
            row.position = position
            rows[key] = resumed[key] = row
    _save(writing, admitted.values(), known)
    spools.save(writing, resumed, requests[-1][1])
    return admissions


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
        return Admission(known, spool.epoch, position.through, False, 0, refused), position
    resumed = resume(position, first=spool.first, dropped=spool.dropped)
    # By position, here and below: a name for each field would cost a third of the admission.
    record = DefenderRecord(
        key,
        request.public_key,
        clean(request.facts),
        known.first_seen if known else now,
        known.last_modified if known and known.connected else now,
        now,
        True,
        known.session + 1 if known else 1,
        request.certificate_fingerprint,
        request.certificate_not_after,
        request.address,
        False,
    )
    missing = resumed.missing - position.missing
    return Admission(record, spool.epoch, resumed.through, known is None, missing), resumed


def _refusal(known: DefenderRecord | None, request: AdmitRequest) -> Refusal | None:
    if known is None:
        return None
    # Two keys with one ID would take 2^100 attempts to find; who found them gets nothing by it.
    if known.public_key != request.public_key:
        return Refusal.KEY_MISMATCH
    return Refusal.LOCKED if known.locked else None


def clean(facts: HostFacts) -> HostFacts:
    """Facts as every engine takes them; the same ones if they are."""
    claims = _claims(facts)
    if "".join((*claims, *facts.capabilities)).isprintable():
        return facts
    hostname, fqdn, version, type_, os, arch = map(storable, claims)
    capabilities = tuple(map(storable, facts.capabilities))
    return HostFacts(hostname, fqdn, version, type_, os, arch, capabilities)


def claimed(facts: HostFacts) -> tuple[str, ...]:
    """The columns of facts: CLAIMS, then `capabilities`."""
    return (*_claims(facts), _capabilities_text(facts.capabilities))


def _claims(facts: HostFacts) -> tuple[str, str, str, str, str, str]:
    return facts.hostname, facts.fqdn, facts.version, facts.type, facts.os, facts.arch


# A fleet has few versions, and each has its capabilities.
@lru_cache(maxsize=64)
def _capabilities_text(capabilities: tuple[str, ...]) -> str:
    return msgspec.json.encode(capabilities).decode()


@lru_cache(maxsize=64)
def capabilities_of(text: str) -> tuple[str, ...]:
    """The capabilities that their column holds."""
    return msgspec.json.decode(text, type=tuple[str, ...])


def _load(writing: Writing, ids: Sequence[str]) -> dict[str, DefenderRecord]:
    return {row[0]: _record(row) for row in writing.ask(FIND_DEFENDERS, ids=list(dict.fromkeys(ids)))}


def _record(row: Sequence[Any]) -> DefenderRecord:
    (
        key, public_key, hostname, fqdn, version, type_, os, arch, capabilities,
        first_seen, last_modified, last_seen, connected, session, fingerprint, not_after, address, locked,
    ) = row  # fmt: skip
    return DefenderRecord(
        key,
        bytes.fromhex(public_key),
        HostFacts(hostname, fqdn, version, type_, os, arch, capabilities_of(capabilities)),
        _instant(first_seen),
        _instant(last_modified),
        _instant(last_seen),
        bool(connected),
        session,
        fingerprint,
        _instant(not_after),
        address,
        bool(locked),
    )


# Who came or left together was written down with one time, and a fleet has few certificates.
@lru_cache(maxsize=256)
def _instant(text: str) -> datetime:
    # The engine keeps UTC and doesn't say so, or says it.
    time = datetime.fromisoformat(text)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _save(writing: Writing, records: Iterable[DefenderRecord], known: Mapping[str, DefenderRecord]) -> None:
    stamp = writing.stamp
    new, back, changed = [], {}, {}
    for record in records:
        before = known.get(record.id)
        if before is None:
            new.append(_row(record, stamp))
            continue
        back[record.id] = (
            record.session, stamp(record.last_modified), stamp(record.last_seen), record.address,
        )  # fmt: skip
        if _changed(before, record):
            certificate = record.certificate_fingerprint, stamp(record.certificate_not_after)
            changed[record.id] = (*claimed(record.facts), *certificate)
    if new:
        writing.run_rows(ADD_DEFENDERS, new)
    if back:
        writing.run(RETURN_DEFENDERS, rows=back)
    if changed:
        writing.run(DESCRIBE_DEFENDERS, rows=changed)


def _changed(before: DefenderRecord, record: DefenderRecord) -> bool:
    return (
        before.facts != record.facts
        or before.certificate_fingerprint != record.certificate_fingerprint
        or before.certificate_not_after != record.certificate_not_after
    )


def _row(record: DefenderRecord, stamp: Any) -> tuple[object, ...]:
    return (
        record.id,
        record.public_key,
        *claimed(record.facts),
        stamp(record.first_seen),
        stamp(record.last_modified),
        stamp(record.last_seen),
        record.session,
        record.certificate_fingerprint,
        stamp(record.certificate_not_after),
        record.address,
    )
