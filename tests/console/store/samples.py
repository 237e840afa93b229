"""Values for the store's tests."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from console.store import AdmitRequest, EventBatch, GenerationRecord, HostFacts, Kind, SpoolState, UserRecord

NOW = datetime(2026, 11, 21, 20, 0, 0, 123456, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)


@dataclass(frozen=True)
class Happening:
    """An event as the protocol would bring it."""

    type: str = "started"
    time: datetime = NOW
    fields: Mapping[str, Any] = field(default_factory=dict)


def user(name: str = "admin") -> UserRecord:
    return UserRecord(name, "$argon2id$hash", "admin", "basic", NOW, NOW)


def facts(hostname: str = "node-1", **changed: Any) -> HostFacts:
    values: dict[str, Any] = {
        "hostname": hostname,
        "fqdn": f"{hostname}.example.com",
        "version": "0.1.0",
        "type": "docker",
        "os": "linux",
        "arch": "amd64",
        "capabilities": ("events", "logs"),
    }
    return HostFacts(**(values | changed))


def request(key: bytes = b"key one", *, epoch: str = "e1", first: int = 1, **changed: Any) -> AdmitRequest:
    spool = SpoolState(epoch, first, changed.pop("next", first), changed.pop("dropped", 0))
    values: dict[str, Any] = {
        "public_key": key,
        "facts": facts(),
        "spool": spool,
        "certificate_fingerprint": "ab" * 32,
        "certificate_not_after": NOW + timedelta(days=1000),
        "address": "127.0.0.1",
    }
    return AdmitRequest(**(values | changed))


def batch(
    defender_id: str, session: int, first: int, count: int, *, epoch: str = "e1", dropped: int = 0
) -> EventBatch:
    """Events that say their number, so that a test sees what was applied under which."""
    items = [Happening(fields={"number": first + index, "epoch": epoch}) for index in range(count)]
    return EventBatch(defender_id, session, epoch, first, items, dropped)


def generation(
    kind: Kind = Kind.DEFENDER, number: int = 1, secrets: Mapping[str, bytes] | None = None
) -> GenerationRecord:
    held = secrets or {"one.pem": b"sealed one", "two.pem": b"sealed two"}
    return GenerationRecord(kind, number, NOW, NOW + timedelta(days=3 * 365), held)
