"""Who may do what: the product's roles and permission names, as a pure table.

Permission names are those of api.json's `x-permission`; role ids those that product facts §11 quotes. A role
reads or writes under a permission; whatever hands out a key counts as a write, since looking at it is what it
takes to use it (facts §11: "sees Defender-held secrets" is the Defender Manager's, not the Auditor's).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Permission(StrEnum):
    """What a route asks for.

    Grows with the routes: a name that no route asks for is not here.
    """

    NONE = "none"
    """Anybody, also before signing in."""
    USER = "user"
    """Everybody who is signed in."""
    ACCESS_UI = "accessUI"
    MANAGE_DEFENDERS = "manageDefenders"


class Access(StrEnum):
    """How far a role goes under a permission."""

    READ = "read"
    WRITE = "write"


ADMIN: Final = "admin"
AUDITOR: Final = "auditor"
DEFENDER_MANAGER: Final = "defenderManager"

_EVERY: Final = tuple(Permission)

ROLES: Final[Mapping[str, Mapping[Permission, Access]]] = {
    ADMIN: dict.fromkeys(_EVERY, Access.WRITE),
    AUDITOR: dict.fromkeys(_EVERY, Access.READ),
    DEFENDER_MANAGER: {
        Permission.NONE: Access.WRITE,
        Permission.USER: Access.WRITE,
        Permission.ACCESS_UI: Access.WRITE,
        Permission.MANAGE_DEFENDERS: Access.WRITE,
    },
}
"""The roles that exist so far; the rest come with the users' room."""


def may(role: str, permission: Permission, access: Access) -> bool:
    """Whether `role` goes as far as `access` under `permission`; an unknown role goes nowhere."""
    granted = ROLES.get(role, {}).get(permission)
    return granted is Access.WRITE or granted is access
