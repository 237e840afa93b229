"""What is kept: SQLAlchemy models, migrations, repositories."""

from console.store.defenders import Defenders
from console.store.events import Events
from console.store.generations import Generations
from console.store.meta import Meta
from console.store.records import (
    Admission,
    AdmitRequest,
    Applied,
    DefenderCount,
    DefenderQuery,
    DefenderRecord,
    DefenderSort,
    EventBatch,
    EventLike,
    EventRecord,
    GenerationRecord,
    HostFacts,
    Kind,
    Outcome,
    Refusal,
    SpoolRecord,
    SpoolState,
    Turn,
    UserRecord,
    defender_id,
)
from console.store.store import Store
from console.store.users import Users

__all__ = [
    "Admission",
    "AdmitRequest",
    "Applied",
    "DefenderCount",
    "DefenderQuery",
    "DefenderRecord",
    "DefenderSort",
    "Defenders",
    "EventBatch",
    "EventLike",
    "EventRecord",
    "Events",
    "GenerationRecord",
    "Generations",
    "HostFacts",
    "Kind",
    "Meta",
    "Outcome",
    "Refusal",
    "SpoolRecord",
    "SpoolState",
    "Store",
    "Turn",
    "UserRecord",
    "Users",
    "defender_id",
]
